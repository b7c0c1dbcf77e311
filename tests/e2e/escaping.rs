//! Archives and guests that try to leave. Each must fail, or be harmless, and change nothing outside.

use std::path::Path;

use serde_json::json;
use tar::EntryType;

use crate::package::{self, Entry, site};
use crate::server::{Server, wait_for};

/// A file outside every directory that a step is granted, and what is in it.
const CANARY: &str = "canary.txt";
const SONG: &str = "still singing";

async fn plant_canaries(server: &Server) {
    // What a server finds in its staging directory when it starts is swept away.
    wait_for("the server to be ready", async || {
        let ready = server.request(reqwest::Method::GET, "/readyz").send().await;
        ready.is_ok_and(|ready| ready.status() == 200).then_some(())
    })
    .await;
    for directory in ["", "staging", "releases", "events", "plugins"] {
        std::fs::write(server.data().join(directory).join(CANARY), SONG).unwrap();
    }
}

fn assert_canaries_live(server: &Server) {
    for directory in ["", "releases", "events", "plugins"] {
        let path = server.data().join(directory).join(CANARY);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            SONG,
            "{}",
            path.display()
        );
    }
}

fn assert_nothing_was_left(directory: &Path, name: &str) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        assert_ne!(path.file_name().unwrap(), name, "{}", path.display());
        if path.is_dir() {
            assert_nothing_was_left(&path, name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_tries_to_leave_its_directory_is_refused_by_name_and_leaves_nothing() {
    let server = Server::start();
    plant_canaries(&server).await;
    let with_zip_name = |name: &str| {
        package::zip(&[Entry {
            path: name.to_owned(),
            bytes: b"evil".to_vec(),
        }])
    };
    let archives = [
        (
            "dot-dot",
            package::tar_with_raw_name("../evil.txt", b"evil"),
        ),
        (
            "deep dot-dot",
            package::tar_with_raw_name("a/../../../evil.txt", b"evil"),
        ),
        (
            "absolute",
            package::tar_with_raw_name("/tmp/evil.txt", b"evil"),
        ),
        (
            "absolute link",
            package::tar_with_link(EntryType::Symlink, "out", "/etc", None),
        ),
        (
            "link out",
            package::tar_with_link(EntryType::Symlink, "out", "../../..", None),
        ),
        (
            "file through a link",
            package::tar_with_link(EntryType::Symlink, "dir", "css", Some("dir/evil.txt")),
        ),
        (
            "file over a link",
            package::tar_with_link(
                EntryType::Symlink,
                "evil.txt",
                "index.html",
                Some("evil.txt"),
            ),
        ),
        (
            "hard link out",
            package::tar_with_link(EntryType::Link, "evil.txt", "../../canary.txt", None),
        ),
        (
            "device",
            package::tar_with_link(EntryType::Char, "evil.txt", "x", None),
        ),
        (
            "fifo",
            package::tar_with_link(EntryType::Fifo, "evil.txt", "x", None),
        ),
        ("zip dot-dot", with_zip_name("../evil.txt")),
        ("zip absolute", with_zip_name("/evil.txt")),
        ("truncated", {
            let mut archive = package::tar_gz(&site("x"));
            archive.truncate(archive.len() - 20);
            archive
        }),
        ("something after the end", {
            let mut archive = package::tar(&site("x"));
            archive.extend(package::tar_with_raw_name("evil.txt", b"evil"));
            archive
        }),
    ];
    for (trick, archive) in archives {
        let record = server.fail("trick", &json!({}), archive).await;
        assert_eq!(
            record["error"]["code"], "package_invalid",
            "{trick}: {record:#}"
        );
        assert_eq!(server.names_in("staging"), [CANARY], "{trick}");
    }
    assert_canaries_live(&server);
    assert_nothing_was_left(server.data(), "evil.txt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_tries_to_leave_its_step_is_refused_everything_and_changes_nothing() {
    let server = Server::start();
    plant_canaries(&server).await;
    server
        .admit("leave", cofferdam_test_guests::program("leave_step"))
        .await;
    // As an install step, which may write its release, and as a load step, which may not.
    let head = json!({ "pipeline": { "install": [{ "plugin": "leave" }], "load": { "plugin": "leave" } } });
    let record = server
        .succeed("guest", &head, package::tar(&site("guest")))
        .await;

    let events = server.events(record["id"].as_str().unwrap(), 0).await;
    for (step, writes) in [("install-1", true), ("load", false)] {
        let lines: Vec<_> = events
            .iter()
            .filter(|event| event["kind"] == "line" && event["step"] == step)
            .map(|event| event["text"].as_str().unwrap())
            .collect();
        let (tries, facts): (Vec<&str>, Vec<&str>) = lines
            .iter()
            .partition(|line| line.contains(": WORKED") || line.contains(": refused"));
        assert!(tries.len() > 20, "{step}: {lines:#?}");
        for line in tries {
            let expected = writes && line.starts_with("write /release:");
            assert_eq!(line.ends_with(": WORKED"), expected, "{step}: {line}");
        }
        // Nothing of the host's environment, and a working directory that says nothing of the host.
        assert_eq!(facts, ["cwd /"], "{step}");
    }
    assert_canaries_live(&server);
    assert_eq!(
        record["release"]["files"], 4,
        "the site and what was granted: {record:#}"
    );
    assert_nothing_was_left(server.data(), "theirs");
    assert_nothing_was_left(server.data(), "linked");
}
