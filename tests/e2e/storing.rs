//! The store of a server that is killed again and again, and of a stopped one: checked, repaired, reindexed by the
//! command line.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::package::{self, site};
use crate::server::{Server, cofferdam};

/// Runs `cofferdam store` on a data directory.
fn store(data: &Path, arguments: &[&str]) -> Output {
    cofferdam()
        .arg("store")
        .args(arguments)
        .arg("--data")
        .arg(data)
        .output()
        .unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn packs(data: &Path) -> Vec<PathBuf> {
    let mut packs: Vec<PathBuf> = fs::read_dir(data.join("blobs/packs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "pack"))
        .collect();
    packs.sort();
    packs
}

async fn downloads(server: &Server, id: &str) -> (u16, Vec<u8>) {
    let answer = server
        .request(
            reqwest::Method::GET,
            &format!("/v1/deployments/{id}/package"),
        )
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, answer.bytes().await.map_or(Vec::new(), Vec::from))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_found_repaired_and_healed_by_the_next_deployment() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    let archive = package::tar(&site("kept"));
    let record = server.succeed("blog", &json!({}), archive.clone()).await;
    let id = record["id"].as_str().unwrap().to_owned();

    // While the server runs, nobody else touches its store.
    for command in [&["check", "--json"][..], &["reindex", "--json"]] {
        let refused = store(&data, command);
        assert_eq!(refused.status.code(), Some(3), "{refused:?}");
        let said = lines(&refused);
        assert_eq!(said[0]["kind"], "failure");
        assert!(
            said[0]["message"]
                .as_str()
                .unwrap()
                .contains("stop the server")
        );
    }
    server.kill();

    let clean = store(&data, &["check", "--read-data", "--json"]);
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");
    let said = lines(&clean);
    let report = said.last().unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(report["kind"], "report");
    assert_eq!(
        (&report["faults"], &report["blobs"]),
        (&json!(0), &json!(1))
    );

    // A bit of the package.
    let pack = packs(&data).remove(0);
    let file = File::options().read(true).write(true).open(&pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    let found = store(&data, &["check", "--read-data", "--json"]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let said = lines(&found);
    let faults: Vec<&Value> = said.iter().filter(|line| line["kind"] == "fault").collect();
    assert!(
        faults
            .iter()
            .any(|fault| fault["fault"] == "corrupt_record"),
        "{said:#?}"
    );
    let concerned = faults
        .iter()
        .any(|fault| fault["fault"] == "incomplete_blob" && fault["namespace"] == "blog");
    assert!(concerned, "{said:#?}");
    assert_eq!(said.last().unwrap()["exit"], 1);

    // It cannot be mended here, and is named.
    let repaired = store(&data, &["check", "--read-data", "--repair"]);
    assert_eq!(repaired.status.code(), Some(1), "{repaired:?}");
    let said = String::from_utf8(repaired.stdout).unwrap();
    assert!(
        said.contains("remains") && said.contains("of blog"),
        "{said}"
    );

    // The server says so, and the same bytes again mend it.
    let server = Server::start_on(&data);
    assert_ne!(downloads(&server, &id).await.1, archive);
    let damaged = "cofferdam_store_damaged_chunks";
    assert_eq!(server.figure(damaged).await, Some(1));
    assert!(server.figure("cofferdam_store_corrupt_reads_total").await >= Some(1));
    server.succeed("shop", &json!({}), archive.clone()).await;
    assert_eq!(downloads(&server, &id).await, (200, archive.clone()));
    assert_eq!(server.figure(damaged).await, Some(0));
    drop(server);

    // Without its index it does not start and says what to do; then it is as it was.
    fs::remove_file(data.join("blobs/index.db")).unwrap();
    let refused = cofferdam()
        .args([
            "serve",
            "--api",
            "127.0.0.1:0",
            "--ingress",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(&data)
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("cofferdam store reindex"), "{said}");
    let made = store(&data, &["reindex", "--json"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    assert_eq!(lines(&made)[0]["blobs"], 2);
    let clean = store(&data, &["check", "--read-data"]);
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");
    let server = Server::start_on(&data);
    assert_eq!(downloads(&server, &id).await, (200, archive));
}

#[test]
fn a_directory_without_a_store_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    for command in ["check", "reindex"] {
        let refused = store(directory.path(), &[command]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_package_is_there_after_a_server_was_killed_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut acknowledged: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..8_u64 {
        let mut server = Server::start_on(&data);
        assert_kept(&server, &acknowledged).await;
        let (tell, mut told) = tokio::sync::mpsc::channel(3);
        let uploads: Vec<_> = ["blog", "shop", "wiki"]
            .into_iter()
            .map(|project| {
                let package = bulky(project, round);
                let request = server
                    .request(
                        reqwest::Method::POST,
                        &format!("/v1/projects/{project}/deployments"),
                    )
                    .body(package.clone());
                let tell = tell.clone();
                tokio::spawn(async move {
                    let answer = request.send().await.ok()?;
                    if answer.status() != 202 {
                        return None;
                    }
                    let record: Value = answer.json().await.ok()?;
                    let id = record["id"].as_str().unwrap().to_owned();
                    // The test may have killed the server and gone on; the package is promised all the same.
                    let _ = tell.send(()).await;
                    Some((id, package))
                })
            })
            .collect();
        if round % 2 == 0 {
            // A little later each time, so that the kill falls into every part of an upload.
            tokio::time::sleep(std::time::Duration::from_millis(6 * round * round)).await;
        } else {
            // As soon as one is acknowledged: its pipeline runs, and the others still arrive.
            told.recv().await.unwrap();
        }
        server.kill();
        for upload in uploads {
            acknowledged.extend(upload.await.unwrap());
        }
    }
    assert!(acknowledged.len() >= 4, "{}", acknowledged.len());
    let checked = store(&data, &["check", "--read-data", "--json"]);
    for line in lines(&checked) {
        // What a death may leave, and nothing worse.
        let litter = line["fault"]
            .as_str()
            .is_none_or(|fault| ["torn_file", "orphan_pack"].contains(&fault));
        assert!(litter, "{line}");
    }
    let server = Server::start_on(&data);
    assert_kept(&server, &acknowledged).await;
}

/// A site with a file of half a megabyte, most of which the project's next one has too.
fn bulky(project: &str, round: u64) -> Vec<u8> {
    let mut entries = site(&format!("{project} {round}"));
    let mut bytes = noise(project.len() as u64, 400_000);
    bytes.extend(noise(1_000 + round, 120_000));
    entries.push(package::Entry {
        path: "photo.raw".to_owned(),
        bytes,
    });
    package::tar(&entries)
}

/// Bytes that do not compress, the same for the same seed (splitmix64).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^ (word >> 27)
    })
    .flat_map(u64::to_le_bytes)
    .take(length)
    .collect()
}

/// Every package that was acknowledged can be downloaded, byte for byte; but for those that a newer deployment of their
/// project has taken the place of, which are let go.
async fn assert_kept(server: &Server, acknowledged: &[(String, Vec<u8>)]) {
    for (id, package) in acknowledged {
        let path = format!("/v1/deployments/{id}/package");
        let answer = server
            .request(reqwest::Method::GET, &path)
            .send()
            .await
            .unwrap();
        if answer.status() == 404 {
            let record = server.get_json(&format!("/v1/deployments/{id}")).await;
            assert_eq!(record["status"], "cancelled", "{record}\n{}", server.log());
            assert_eq!(record["error"]["code"], "superseded", "{record}");
            continue;
        }
        assert_eq!(answer.status().as_u16(), 200, "{id}\n{}", server.log());
        assert!(answer.bytes().await.unwrap() == package[..], "{id}");
    }
}
