//! A backup of a running server, restored elsewhere and compared.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::package;
use crate::server::{Server, cofferdam};

/// What a server says about everything that a backup is to keep.
async fn state(server: &Server, ports: &[u16]) -> BTreeMap<String, Value> {
    let mut state = BTreeMap::new();
    for path in [
        "/v1/projects",
        "/v1/deployments",
        "/v1/plugins",
        "/v1/tokens",
        "/v1/audit",
    ] {
        state.insert(path.to_owned(), server.get_json(path).await);
    }
    let secrets = "/v1/projects/blog/secrets";
    state.insert(secrets.to_owned(), server.get_json(secrets).await);
    let deployments = state["/v1/deployments"]["deployments"]
        .as_array()
        .unwrap()
        .clone();
    for deployment in deployments {
        let id = deployment["id"].as_str().unwrap();
        let path = format!("/v1/deployments/{id}");
        let record = server.get_json(&path).await;
        let events = server.events(id, 0).await;
        state.insert(format!("{path}/events"), json!(events));
        if !record["package"]["blake3"].is_null() {
            let package = server
                .request(reqwest::Method::GET, &format!("{path}/package"))
                .send()
                .await
                .unwrap();
            assert!(package.status().is_success());
            let bytes = package.bytes().await.unwrap();
            let digest = blake3::hash(&bytes).to_hex().to_string();
            assert_eq!(record["package"]["blake3"], json!(digest));
            state.insert(format!("{path}/package"), json!(digest));
        }
        state.insert(path, record);
    }
    // Where a release was served first is in its record; the port is the server's of that day.
    let mut text = serde_json::to_string(&state).unwrap();
    for port in ports {
        text = text.replace(&format!("localhost:{port}/"), "localhost:PORT/");
    }
    serde_json::from_str(&text).unwrap()
}

/// Runs `backup` or `restore`.
fn run(command: &str, file: &Path, data: &Path) -> Output {
    cofferdam()
        .arg(command)
        .arg(file)
        .arg("--data")
        .arg(data)
        .output()
        .unwrap()
}

fn succeed(command: &str, file: &Path, data: &Path) {
    let output = run(command, file, data);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

pub(crate) fn take(data: &Path, file: &Path) {
    succeed("backup", file, data);
}

pub(crate) fn restore(file: &Path, data: &Path) {
    succeed("restore", file, data);
}

#[tokio::test]
async fn a_running_server_is_backed_up_and_restored_elsewhere_with_everything() {
    let server = Server::start();
    server
        .succeed("blog", &json!({}), package::tar(&package::site("first")))
        .await;
    server
        .succeed("blog", &json!({}), package::tar(&package::site("second")))
        .await;
    server
        .succeed("shop", &json!({}), package::tar_zst(&package::site("shop")))
        .await;
    server
        .fail("shop", &json!({}), b"no archive at all".to_vec())
        .await;
    server.admit("extra", cofferdam_test_guests::SUCCEED).await;
    let secret = server.request(reqwest::Method::PUT, "/v1/projects/blog/secrets/TOKEN");
    assert!(
        secret
            .body("a long secret")
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
    let first = server.ingress.port();
    let before = state(&server, &[first]).await;

    // Something is under way while the backup is taken, and more of it comes after.
    let (sending, receiving) =
        futures::channel::mpsc::unbounded::<Result<Vec<u8>, std::io::Error>>();
    let upload = server
        .request(reqwest::Method::PUT, "/v1/projects/under-way/deployments")
        .body(reqwest::Body::wrap_stream(receiving));
    let upload = tokio::spawn(upload.send());
    sending.unbounded_send(Ok(vec![0; 4096])).unwrap();
    crate::server::wait_for("the deployment", async || {
        let page = server.get_json("/v1/deployments?project=under-way").await;
        page["deployments"].get(0).cloned()
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("backup.tar.zst");
    take(server.data(), &file);
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(sending);
    let _ = upload.await;
    // It replaces nothing.
    let again = run("backup", &file, server.data());
    assert_eq!(again.status.code(), Some(3), "{again:?}");

    let data = directory.path().join("restored");
    restore(&file, &data);
    let elsewhere = Server::start_on(&data);
    assert_eq!(elsewhere.token, server.token);
    let mut after = state(&elsewhere, &[first, elsewhere.ingress.port()]).await;
    // What was under way is there as after a power cut: with an end.
    let mut all = after["/v1/deployments"]["deployments"]
        .as_array()
        .unwrap()
        .clone();
    let at = all
        .iter()
        .position(|one| one["project"] == "under-way")
        .unwrap();
    let cut = all.remove(at);
    assert_eq!(cut["status"], "failed", "{cut}");
    let events = elsewhere.events(cut["id"].as_str().unwrap(), 0).await;
    crate::server::assert_dense(&events, 1);
    after.get_mut("/v1/deployments").unwrap()["deployments"] = json!(all);
    let projects = after.get_mut("/v1/projects").unwrap()["projects"]
        .as_array_mut()
        .unwrap();
    projects.retain(|project| project["name"] != "under-way");
    for (path, value) in &before {
        if path != "/v1/audit" {
            assert!(
                after.get(path) == Some(value),
                "{path}: {value:#}\n{:#}",
                after[path]
            );
        }
    }
    let audit = after["/v1/audit"]["audit"].as_array().unwrap();
    for entry in before["/v1/audit"]["audit"].as_array().unwrap() {
        assert!(audit.contains(entry), "{entry}");
    }
    for project in ["blog", "shop"] {
        let (status, page) = server.serves(project, "/").await;
        assert_eq!(elsewhere.serves(project, "/").await, (status, page));
        assert_eq!(status, 200);
    }
    // It is a server like any other.
    elsewhere
        .succeed("blog", &json!({}), package::tar(&package::site("third")))
        .await;
    assert!(elsewhere.serves("blog", "/").await.1.contains("third"));
}

#[test]
fn a_backup_goes_into_nothing_that_is_there_and_out_of_no_other_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("full")).unwrap();
    std::fs::write(path("full/thesis.txt"), "x").unwrap();
    let taken = run("backup", &path("b"), &path("full"));
    assert_eq!(taken.status.code(), Some(3));
    assert!(!path("b").exists());
    std::fs::write(path("b"), "no backup").unwrap();
    for data in ["full", "new"] {
        let restored = run("restore", &path("b"), &path(data));
        assert_eq!(restored.status.code(), Some(3), "{data}");
    }
    assert_eq!(std::fs::read_dir(path("full")).unwrap().count(), 1);
    assert!(!path("new").exists());
}
