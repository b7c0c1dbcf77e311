//! What becomes of releases: gone back to, told of, kept, shared, and taken away.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::package::{self, site};
use crate::server::{Server, cofferdam, wait_for};

fn id(record: &Value) -> String {
    record["id"].as_str().unwrap().to_owned()
}

impl Server {
    /// A command of the client, talking to this server: its exit code and what it prints.
    pub(crate) fn client(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = cofferdam()
            .args(arguments)
            .args(["--url", &self.url(""), "--token", &self.token])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// Asks for a rollback, and answers the status and the JSON.
    pub(crate) async fn roll_back(&self, project: &str, body: &Value) -> (u16, Value) {
        let response = self
            .request(Method::POST, &format!("/v1/projects/{project}/rollback"))
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn deploy_site(&self, project: &str, title: &str) -> String {
        let record = self
            .succeed(project, &json!({}), package::tar(&site(title)))
            .await;
        id(&record)
    }

    /// The releases that are on disk, by their ids.
    pub(crate) fn releases(&self, project: &str) -> Vec<String> {
        let mut names = self.names_in(&format!("releases/{project}"));
        names.retain(|name| !name.contains('.'));
        names
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_moves_the_pointer_and_changes_no_deployment() {
    let server = Server::start();
    let mut ids = Vec::new();
    for title in ["one", "two", "three"] {
        ids.push(server.deploy_site("blog", title).await);
    }
    let before = server.get_json("/v1/deployments?project=blog").await;

    // The one before, and the one before that.
    let (status, view) = server.roll_back("blog", &json!({})).await;
    assert_eq!((status, &view["active"]), (200, &json!(ids[1])), "{view:#}");
    assert!(server.serves("blog", "/").await.1.contains("two"));
    let (code, out, err) = server.client(&["rollback", "blog", "-m", "three was wrong"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.trim(), view["release"]["url"]);
    assert!(server.serves("blog", "/").await.1.contains("one"));
    // Nothing is older: the pointer stays, and the answer says why.
    let (status, problem) = server.roll_back("blog", &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
    assert!(server.serves("blog", "/").await.1.contains("one"));

    // Forward again, if the project still serves what is expected.
    let wrong = json!({ "to": ids[2], "expect": ids[1] });
    let (status, problem) = server.roll_back("blog", &wrong).await;
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&ids[0]));
    let right = json!({ "to": ids[2], "expect": ids[0] });
    assert_eq!(server.roll_back("blog", &right).await.0, 200);
    assert!(server.serves("blog", "/").await.1.contains("three"));
    // Once more is no error, and no move.
    assert_eq!(
        server.roll_back("blog", &json!({ "to": ids[2] })).await.0,
        200
    );

    assert_eq!(
        server.get_json("/v1/deployments?project=blog").await,
        before
    );
    let history = server.get_json("/v1/projects/blog/history").await;
    let told: Vec<(&str, &str)> = history["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["cause"].as_str().unwrap(),
                entry["release"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("rollback", ids[2].as_str()),
            ("rollback", &ids[0]),
            ("rollback", &ids[1]),
            ("deployment", &ids[2]),
            ("deployment", &ids[1]),
            ("deployment", &ids[0]),
        ]
    );
    for unknown in ["01890000-0000-7000-8000-000000000000"] {
        let (status, problem) = server.roll_back("blog", &json!({ "to": unknown })).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_of_files_takes_less_than_fifty_milliseconds_to_the_new_route() {
    let server = Server::start();
    let mut ids = Vec::new();
    for title in ["one", "two"] {
        ids.push((server.deploy_site("blog", title).await, title));
    }
    // The fastest of some: a busy machine may hold up any of them.
    let mut fastest = Duration::MAX;
    for turn in 0..10 {
        let (id, title) = &ids[turn % 2];
        let begun = Instant::now();
        assert_eq!(server.roll_back("blog", &json!({ "to": id })).await.0, 200);
        let page = server.serves("blog", "/").await.1;
        fastest = fastest.min(begun.elapsed());
        assert!(page.contains(title), "{page}");
    }
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_survives_a_kill_right_after_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    let first = server.deploy_site("blog", "one").await;
    server.deploy_site("blog", "two").await;
    assert_eq!(server.roll_back("blog", &json!({})).await.0, 200);
    server.kill();
    let server = Server::start_on(&data);
    assert!(server.serves("blog", "/").await.1.contains("one"));
    let project = server.get_json("/v1/projects/blog").await;
    assert_eq!(project["active"], json!(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_says_who_what_when_from_where_how_long_and_what_changed() {
    let server = Server::start();
    server.deploy_site("blog", "one").await;
    let mut entries = site("two");
    entries.remove(2);
    entries.push(package::Entry {
        path: "new.txt".to_owned(),
        bytes: b"12345".to_vec(),
    });
    let head = json!({ "message": "spring cleaning" });
    server.succeed("blog", &head, package::tar(&entries)).await;

    let (code, out, err) = server.client(&["history", "blog", "--files"]);
    assert_eq!(code, 0, "{err}");
    for words in [
        "spring cleaning",
        "127.0.0.1",
        "served now",
        "blake3:",
        "extract",
        "load",
        "1 added (5 B)",
        "1 changed",
        "1 removed (14 B)",
        "+ new.txt (5 B)",
        "~ index.html",
        "- about/index.html (14 B)",
    ] {
        assert!(out.contains(words), "{words:?} in {out}");
    }
    let page = server.get_json("/v1/projects/blog/history?limit=1").await;
    let entry = &page["history"][0];
    assert!(entry["by"]["token"].is_string(), "{entry:#}");
    assert!(entry["steps"][0]["ms"].is_number(), "{entry:#}");
    let next = page["next"].as_u64().unwrap();
    let older = format!("/v1/projects/blog/history?before={next}");
    let older = server.get_json(&older).await;
    assert_eq!(older["history"].as_array().unwrap().len(), 1);
    assert_eq!(older["history"][0]["changes"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_and_packages_go_by_the_operators_rules_and_what_is_pinned_stays() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    let rules = "[retention]\nreleases = 5\n\n[retention.projects.blog]\nreleases = 2\n\n\
                 [retention.projects.shop]\nbytes = \"5KiB\"\n";
    std::fs::write(&policy, rules).unwrap();
    let server = Server::start_with(&["--policy", &policy.display().to_string()]);
    let first = server.deploy_site("blog", "one").await;
    assert_eq!(server.client(&["pin", &first]).0, 0);
    let mut ids = Vec::new();
    for title in ["two", "three", "four"] {
        ids.push(server.deploy_site("blog", title).await);
    }
    // The one that is served and the pinned one are two already.
    let kept = [first.clone(), ids[2].clone()];
    wait_for("the others to go", async || {
        (server.releases("blog") == kept).then_some(())
    })
    .await;
    let status = async |id: &str| {
        let path = format!("/v1/deployments/{id}/package");
        let response = server.request(Method::GET, &path).send().await.unwrap();
        response.status().as_u16()
    };
    wait_for("their packages to go", async || {
        (status(&ids[0]).await == 404 && status(&ids[1]).await == 404).then_some(())
    })
    .await;
    assert_eq!((status(&first).await, status(&ids[2]).await), (200, 200));
    assert_eq!(server.names_in("releases/blog").len(), 4);
    // The pinned one can be gone back to, and its package not be removed.
    let remove = async |id: &str| {
        let path = format!("/v1/deployments/{id}/package");
        let response = server.request(Method::DELETE, &path).send().await.unwrap();
        response.status().as_u16()
    };
    assert_eq!(remove(&first).await, 409);
    assert_eq!(
        server.roll_back("blog", &json!({ "to": first })).await.0,
        200
    );
    assert_eq!(remove(&ids[2]).await, 204);
    assert_eq!(remove(&ids[2]).await, 204, "it is idempotent");
    assert_eq!(status(&ids[2]).await, 404);

    // Two of the shop's releases have more bytes than it may keep.
    server.deploy_site("shop", "one").await;
    let newer = server.deploy_site("shop", "two").await;
    wait_for("the older release of the shop to go", async || {
        (server.releases("shop") == [newer.clone()]).then_some(())
    })
    .await;

    // Of failed deployments the newest package is kept.
    let mut failed = Vec::new();
    for text in ["no archive", "none either"] {
        let record = server
            .fail("blog", &json!({}), text.as_bytes().to_vec())
            .await;
        failed.push(id(&record));
    }
    wait_for("the older failed package to go", async || {
        (status(&failed[0]).await == 404).then_some(())
    })
    .await;
    assert_eq!(status(&failed[1]).await, 200);
}

/// Every file below a directory, with its inode and content.
fn files_in(root: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                let inode = std::fs::metadata(&path).unwrap().ino();
                files.push((name, inode, std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_share_what_they_have_in_common_and_no_later_step_changes_a_byte_of_it() {
    let server = Server::start();
    server
        .admit("scribble", cofferdam_test_guests::program("scribble"))
        .await;
    let first = server.deploy_site("blog", "alike").await;
    let root = |id: &str| server.data().join("releases/blog").join(id);
    let frozen = files_in(&root(&first));
    let second = server.deploy_site("blog", "alike").await;
    // Where the disk can neither clone nor link, every release is a copy; no disk that tests run on is such.
    wait_for("the files to be shared", async || {
        let shared = files_in(&root(&second));
        let linked = shared
            .iter()
            .zip(&frozen)
            .all(|(one, other)| one.1 == other.1);
        let scratch = server.names_in("scratch").is_empty();
        (scratch && (linked || cloned(&root(&second)))).then_some(())
    })
    .await;

    // A later deployment of the same files opens each for writing, in every way.
    let head = json!({ "pipeline": { "install": [{ "plugin": "scribble" }] } });
    let third = server
        .succeed("blog", &head, package::tar(&site("alike")))
        .await;
    assert!(
        third["events"]["summary"]
            .to_string()
            .contains("scribbled in 3 files")
    );
    for id in [&first, &second] {
        let now = files_in(&root(id));
        let content = |files: &[(String, u64, Vec<u8>)]| {
            files
                .iter()
                .map(|(name, _, bytes)| (name.clone(), bytes.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(content(&now), content(&frozen));
    }
    // By the digest, too, which the server takes anew.
    assert_eq!(
        server.roll_back("blog", &json!({ "to": first })).await.0,
        200
    );
    let (code, out, err) = server.client(&["verify", "blog"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("healthy"), "{out}");
}

/// Whether the disk shares extents, so that inodes tell nothing.
fn cloned(directory: &Path) -> bool {
    let (one, two) = (directory.join("../one"), directory.join("../two"));
    std::fs::write(&one, [7; 8192]).unwrap();
    let done = std::process::Command::new("cp")
        .arg("--reflink=always")
        .args([&one, &two])
        .output()
        .is_ok_and(|output| output.status.success());
    for path in [one, two] {
        let _ = std::fs::remove_file(path);
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_is_torn_down_leaves_nothing_and_can_begin_again() {
    let server = Server::start();
    server
        .admit("use-cache", cofferdam_test_guests::program("use_cache"))
        .await;
    let head = json!({ "pipeline": { "install": [{ "plugin": "use-cache", "request": { "cache": true } }] } });
    let record = server
        .succeed("blog", &head, package::tar(&site("one")))
        .await;
    server.deploy_site("shop", "stays").await;
    let secret = server
        .request(Method::PUT, "/v1/projects/blog/secrets/TOKEN")
        .body("a long enough value")
        .send()
        .await
        .unwrap();
    assert_eq!(secret.status().as_u16(), 201);
    // One that still runs is cancelled first.
    server
        .admit("sleep", cofferdam_test_guests::program("sleep_forever"))
        .await;
    let asleep = json!({ "pipeline": { "install": [{ "plugin": "sleep" }] } });
    let running = server
        .deploy("blog", &asleep, package::tar(&site("two")))
        .await;
    let package = format!("/v1/deployments/{}/package", id(&running));
    let kept = server.request(Method::DELETE, &package).send().await;
    assert_eq!(kept.unwrap().status().as_u16(), 409, "it is still needed");
    // What somebody took away by hand is no hindrance.
    let release = server.data().join("releases/blog").join(id(&record));
    std::fs::remove_dir_all(release).unwrap();
    let log = format!("events/{}.jsonl", id(&record));
    std::fs::remove_file(server.data().join(log)).unwrap();

    let (code, _, err) = server.client(&["remove", "blog", "--confirm", "block"]);
    assert_eq!(code, 2, "{err}");
    let (code, _, err) = server.client(&["remove", "blog", "--confirm", "blog"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(server.serves("blog", "/").await.0, 404);
    for path in [
        "/v1/projects/blog".to_owned(),
        format!("/v1/deployments/{}", id(&record)),
    ] {
        let response = server.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 404, "{path}");
    }
    assert_eq!(server.names_in("releases"), ["shop"]);
    assert_eq!(server.names_in("cache"), Vec::<String>::new());
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    let logs = server.names_in("events");
    assert!(
        !logs.iter().any(|name| name.contains(&id(&record))),
        "{logs:?}"
    );
    let secrets = server.get_json("/v1/projects/blog/secrets").await;
    assert_eq!(secrets["secrets"], json!([]));
    // Once more is no error; the other project and the audit log are as they were.
    let again = server
        .request(Method::DELETE, "/v1/projects/blog")
        .send()
        .await
        .unwrap();
    assert_eq!(again.status().as_u16(), 204);
    assert!(server.serves("shop", "/").await.1.contains("stays"));
    let audit = server.get_json("/v1/audit?project=blog").await.to_string();
    assert!(audit.contains("project.remove") && audit.contains("secret.set"));

    server.deploy_site("blog", "again").await;
    assert!(server.serves("blog", "/").await.1.contains("again"));
    let history = server.get_json("/v1/projects/blog/history").await;
    assert_eq!(history["history"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_damaged_is_seen_and_made_whole() {
    let server = Server::start();
    let first = server.deploy_site("blog", "one").await;
    let second = server.deploy_site("blog", "two").await;
    let root = server.data().join("releases/blog").join(&second);
    let style = root.join("css/site.css");
    // What the server shares in the background must not put back what is taken away here.
    let other = server.data().join("releases/blog").join(&first);
    wait_for("the files to be shared", async || {
        let inode = |root: &Path| std::fs::metadata(root.join("css/site.css")).unwrap().ino();
        let done = inode(&root) == inode(&other) || cloned(&root);
        (done && server.names_in("scratch").is_empty()).then_some(())
    })
    .await;
    std::fs::remove_file(&style).unwrap();
    let page = root.join("index.html");
    let text = std::fs::read(&page).unwrap();
    let (code, out, _) = server.client(&["verify", "blog"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("missing"), "{out}");
    wait_for("the release to be whole", async || {
        let whole = style.exists() && std::fs::read(&page).unwrap() == text;
        (whole && server.client(&["verify", "blog"]).0 == 0).then_some(())
    })
    .await;
    assert_eq!(server.serves("blog", "/css/site.css").await.0, 200);

    // What no kept release has is deployed again from its package.
    std::fs::write(&page, "not what it was").unwrap();
    server.client(&["verify", "blog"]);
    let third = wait_for("another deployment", async || {
        let project = server.get_json("/v1/projects/blog").await;
        let active = project["active"].as_str().unwrap().to_owned();
        (active != second && active != first).then_some(active)
    })
    .await;
    assert!(server.serves("blog", "/").await.1.contains("two"));
    let record = server.get_json(&format!("/v1/deployments/{third}")).await;
    assert_eq!(record["release"]["digest"], {
        let old = server.get_json(&format!("/v1/deployments/{second}")).await;
        old["release"]["digest"].clone()
    });
    let audit = server.get_json("/v1/audit?project=blog").await.to_string();
    assert!(audit.contains("release.restore"), "{audit}");
}
