//! What steps and services reach of each other and of the past: nothing. A cache belongs to one plugin of one project,
//! and a frozen release to nobody.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::package::{self, site};
use crate::server::Server;

/// Everything that changes when anything is done to a file: its inode, mode, links, size, times and content.
type Facts = (u64, u32, u64, u64, (i64, i64), (i64, i64), Vec<u8>);

fn snapshot(root: &Path) -> BTreeMap<PathBuf, Facts> {
    fn look(path: &Path, found: &mut BTreeMap<PathBuf, Facts>) {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        let content = if metadata.is_file() {
            std::fs::read(path).unwrap()
        } else {
            Vec::new()
        };
        found.insert(
            path.to_owned(),
            (
                metadata.ino(),
                metadata.mode(),
                metadata.nlink(),
                metadata.len(),
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
                content,
            ),
        );
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                look(&entry.unwrap().path(), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    look(root, &mut found);
    found
}

/// What sharing changes of a frozen file is left out: how many releases it belongs to, and since when.
fn unshared(mut facts: BTreeMap<PathBuf, Facts>) -> BTreeMap<PathBuf, Facts> {
    for facts in facts.values_mut().filter(|facts| !facts.6.is_empty()) {
        facts.2 = 1;
        facts.5 = (0, 0);
    }
    facts
}

/// Every way to say where a directory of the server's data is, for a step whose own lie two or three levels below it.
fn ways_to(server: &Server, inside: &str) -> Vec<String> {
    let absolute = server.data().join(inside).display().to_string();
    [
        format!("../../{inside}"),
        format!("../../../{inside}"),
        format!("/release/../../../{inside}"),
        format!("/tmp/../../../{inside}"),
        format!("/cache/../../../{inside}"),
        format!("/proc/self/root{absolute}"),
        absolute,
    ]
    .into()
}

/// What a step printed.
async fn said(server: &Server, record: &Value, step: &str) -> Vec<String> {
    let events = server.events(record["id"].as_str().unwrap(), 0).await;
    events
        .iter()
        .filter(|event| event["kind"] == "line" && event["step"] == step)
        .map(|event| event["text"].as_str().unwrap().to_owned())
        .collect()
}

/// That it tried, and nothing of it worked.
fn assert_refused(lines: &[String], at_least: usize) {
    let tries: Vec<_> = lines
        .iter()
        .filter(|line| line.contains(": WORKED") || line.contains(": refused"))
        .collect();
    assert!(tries.len() >= at_least, "{lines:#?}");
    for line in tries {
        assert!(line.contains(": refused"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_reaches_no_cache_but_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, "[defaults]\ncache_bytes = \"1MiB\"\n").unwrap();
    let server = Server::start_with(&["--policy", &policy.display().to_string()]);
    for (name, program) in [("use-cache", "use_cache"), ("reach", "reach")] {
        server
            .admit(name, cofferdam_test_guests::program(program))
            .await;
    }
    let package = || package::tar(&site("cached"));
    let counting = json!({ "pipeline": { "install": [
        { "plugin": "use-cache", "request": { "cache": true } },
    ]}});
    let record = server.succeed("blog", &counting, package()).await;
    assert_eq!(said(&server, &record, "install-1").await, ["run 1"]);
    let cache = server.data().join("cache/blog/use-cache");
    let before = snapshot(&cache);
    assert_eq!(before.len(), 2, "{before:?}");

    let mut paths = ways_to(&server, "cache/blog/use-cache");
    paths.extend(ways_to(&server, "cache/blog/use-cache/count"));
    paths.extend(
        [
            "/cache/../use-cache",
            "/cache/../use-cache/count",
            "/cache/..",
        ]
        .map(str::to_owned),
    );
    // Another plugin of the same project with a cache of its own, then without one; then of another project.
    for (project, request) in [
        ("blog", json!({ "cache": true })),
        ("blog", json!({})),
        ("shop", json!({ "cache": true })),
    ] {
        let step = json!({ "plugin": "reach", "config": { "paths": paths }, "request": request });
        let head = json!({ "pipeline": { "install": [step] } });
        let record = server.succeed(project, &head, package()).await;
        let lines = said(&server, &record, "install-1").await;
        assert_refused(&lines, 15 * paths.len());
        for fact in [
            "files by number 0",
            "the clock counts from the start true",
            "nothing of the host's environment true",
            "arguments 1",
        ] {
            assert!(lines.iter().any(|line| line == fact), "{fact}: {lines:#?}");
        }
        let has_cache = request["cache"] == true;
        let directories = lines.iter().find(|line| line.starts_with("directories "));
        assert_eq!(directories.unwrap().contains("/cache"), has_cache);
        assert_eq!(snapshot(&cache), before, "{project} {request}");
    }
    // The same plugin for another project starts anew, and for this one goes on.
    let record = server.succeed("shop", &counting, package()).await;
    assert_eq!(said(&server, &record, "install-1").await, ["run 1"]);
    assert_eq!(snapshot(&cache), before);
    let record = server.succeed("blog", &counting, package()).await;
    assert_eq!(said(&server, &record, "install-1").await, ["run 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_comes_later_changes_a_byte_of_a_frozen_release() {
    let server = Server::start();
    server
        .admit("reach", cofferdam_test_guests::program("reach"))
        .await;
    let service = |title: &str| {
        let mut entries = site(title);
        entries.push(package::Entry {
            path: "app.wasm".to_owned(),
            bytes: cofferdam_test_guests::program("service").to_vec(),
        });
        package::tar(&entries)
    };
    let services =
        json!({ "services": [{ "name": "web", "kind": "component", "path": "app.wasm" }] });
    let load = json!({ "plugin": "serve", "config": services });
    let head = json!({ "pipeline": { "load": load } });
    let record = server.succeed("blog", &head, service("first")).await;
    let inside = format!("releases/blog/{}", record["id"].as_str().unwrap());
    let release = server.data().join(&inside);
    let before = snapshot(&release);
    let digest = record["release"]["digest"].clone();
    let recomputed = |root: &Path| cofferdam_deploy::freeze::inspect(root).unwrap().digest;

    // Its own service, which has no directory at all.
    let target = release.join("index.html").display().to_string();
    for path in [
        ".",
        "/",
        "index.html",
        "/release/index.html",
        "../index.html",
        &target,
    ] {
        let (status, told) = server.serves("blog", &format!("/tamper?{path}")).await;
        assert_eq!(status, 200, "{told}");
        let lines: Vec<String> = told.lines().map(str::to_owned).collect();
        assert_refused(&lines, 8);
        assert_eq!(lines.len(), 8, "{told}");
    }
    assert_eq!(snapshot(&release), before);

    // A later deployment of the same project and one of another, in a step that writes and in one that reads only.
    let mut paths = ways_to(&server, &inside);
    paths.extend(ways_to(&server, &format!("{inside}/index.html")));
    paths.extend(ways_to(&server, &format!("{inside}/css")));
    let reach = json!({ "plugin": "reach", "config": { "paths": paths } });
    for project in ["blog", "other"] {
        let head = json!({ "pipeline": { "install": [reach], "load": reach } });
        let later = server.succeed(project, &head, service("later")).await;
        for step in ["install-1", "load"] {
            assert_refused(&said(&server, &later, step).await, 15 * paths.len());
        }
        assert_eq!(
            unshared(snapshot(&release)),
            unshared(before.clone()),
            "{project}"
        );
    }
    assert_eq!(json!(recomputed(&release)), digest);
    // The same bytes make the same release again.
    let again = server.succeed("third", &head, service("first")).await;
    assert_eq!(again["release"]["digest"], digest);
}
