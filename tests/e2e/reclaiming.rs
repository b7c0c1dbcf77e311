//! Room: how much a project may take, how much stays free, and how what nobody refers to is given back.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::package::{self, Entry};
use crate::server::{Server, cofferdam};

/// A package of about this many bytes that do not compress.
fn package_of(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(bytes)
    .collect();
    let mut entries = package::site("room");
    entries.push(Entry {
        path: "noise.bin".to_owned(),
        bytes: noise,
    });
    package::tar(&entries)
}

async fn send(
    server: &Server,
    project: &str,
    head: &Value,
    package: Vec<u8>,
) -> (StatusCode, Value) {
    let answer = server
        .request(
            reqwest::Method::POST,
            &format!("/v1/projects/{project}/deployments"),
        )
        .header("cofferdam-head", head.to_string())
        .body(package)
        .send()
        .await
        .unwrap();
    let status = answer.status();
    (status, answer.json().await.unwrap())
}

fn stored(data: &Path) -> u64 {
    let packs = std::fs::read_dir(data.join("blobs/packs")).unwrap();
    packs
        .map(|pack| pack.unwrap().metadata().unwrap().len())
        .sum()
}

fn gc(arguments: &[&str]) -> Value {
    let output = cofferdam()
        .args(["store", "gc", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_refers_to_is_given_back_by_a_server_and_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    let kept = server
        .succeed("blog", &json!({}), package_of(1, 300_000))
        .await;
    let wrong = json!({ "digest": { "blake3": "0".repeat(64) } });
    let (status, problem) = send(&server, "blog", &wrong, package_of(2, 3_000_000)).await;
    assert_eq!(problem["code"], "digest_mismatch", "{status} {problem:#}");
    let before = stored(&data);
    assert!(before > 3_000_000, "{before}");

    // The server has it open, so it does it.
    let url = server.url("");
    let at = data.display().to_string();
    let arguments = ["--url", url.trim_end_matches('/'), "--data", &at];
    let foretold = gc(&[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(foretold["dry_run"], true);
    assert_eq!(stored(&data), before);
    let done = gc(&arguments);
    assert_eq!(done["bytes_removed"], foretold["bytes_removed"]);
    assert_eq!(done["packages_removed"], 0);
    let after = stored(&data);
    assert!(after < 700_000, "{after}: {done:#}");
    let id = kept["id"].as_str().unwrap();
    let path = format!("/v1/deployments/{id}/package");
    let package = server
        .request(reqwest::Method::GET, &path)
        .send()
        .await
        .unwrap();
    assert!(package.bytes().await.unwrap() == package_of(1, 300_000));

    let (_, problem) = send(&server, "blog", &wrong, package_of(3, 3_000_000)).await;
    assert_eq!(problem["code"], "digest_mismatch", "{problem:#}");
    server.kill();
    drop(server);
    let output = cofferdam()
        .env_remove("COFFERDAM_URL")
        .args(["store", "gc", "--data", &at])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("came free") && said.contains("1 packages"),
        "{said}"
    );
    assert_eq!(stored(&data), after);
    let server = Server::start_on(&data);
    let package = server
        .request(reqwest::Method::GET, &path)
        .send()
        .await
        .unwrap();
    assert!(package.bytes().await.unwrap() == package_of(1, 300_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn collecting_wants_a_token_and_a_query_that_makes_sense() {
    let server = Server::start();
    let path = "/v1/store/collect?dry_run=perhaps";
    let answer = server
        .request(reqwest::Method::POST, path)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 400);
    let url = server.url("/v1/store/collect");
    let answer = reqwest::Client::new().post(url).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_is_full_is_told_so_and_the_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    let text = "[defaults]\nstorage_bytes = \"1MiB\"\n[projects.large]\nstorage_bytes = 4000000\n";
    std::fs::write(&policy, text).unwrap();
    let data = directory.path().join("data");
    let policy = policy.display().to_string();
    let server = Server::start_on_with(&data, &["--policy", &policy]);
    server
        .succeed("blog", &json!({}), package_of(1, 700_000))
        .await;
    // The same bytes take no room on the disk, and count in full.
    let (status, problem) = send(&server, "blog", &json!({}), package_of(1, 700_000)).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{problem:#}");
    assert_eq!(problem["code"], "storage_full");
    let detail = problem["detail"].as_str().unwrap();
    for word in ["blog", "1048576", "storage_bytes"] {
        assert!(detail.contains(word), "{detail}");
    }
    // What fits is taken, of this project and of others.
    server
        .succeed("blog", &json!({}), package_of(2, 200_000))
        .await;
    server
        .succeed("large", &json!({}), package_of(1, 2_000_000))
        .await;
    assert!(server.serves("blog", "/").await.1.contains("room"));
    drop(server);

    std::fs::write(&policy, "[defaults]\nstorage_bytes = \"1GiB\"\n").unwrap();
    let server = Server::start_on_with(&data, &["--policy", &policy]);
    server
        .succeed("blog", &json!({}), package_of(1, 700_000))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_takes_nothing_and_serves_on() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start_on_with(&data, &["--min-free", "0B"]);
    server
        .succeed("blog", &json!({}), package_of(1, 100_000))
        .await;
    drop(server);

    // No disk has as much.
    let server = Server::start_on_with(&data, &["--min-free", "8000000TiB"]);
    let (status, problem) = send(&server, "blog", &json!({}), package_of(2, 100_000)).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{problem:#}");
    assert_eq!(problem["code"], "storage_full");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("--min-free"), "{detail}");
    assert!(server.serves("blog", "/").await.1.contains("room"));
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    drop(server);

    let server = Server::start_on(&data);
    server
        .succeed("blog", &json!({}), package_of(2, 100_000))
        .await;
}
