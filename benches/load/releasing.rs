//! What releases that are alike cost on the disk, and how long it takes to go back to one.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::measure::{MIB, median, percentile};
use crate::server::Server;

/// Files of the site, and their size: as many as a documentation has.
const FILES: usize = 2000;
const BYTES: usize = 8 * 1024;

/// Releases, each with so many files changed since the one before.
const RELEASES: usize = 10;
const CHANGED: usize = 20;

/// Moves of the pointer that are timed.
const FLIPS: usize = 200;

/// Releases that differ a little, and going from one to the other.
pub(crate) fn releases(scratch: &Path) {
    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    let site = scratch.join("alike");
    fs::create_dir_all(&site).unwrap();
    let mut client = Client::new(&server);
    let mut ids = Vec::new();
    for release in 0..RELEASES {
        let changed = if release == 0 { FILES } else { CHANGED };
        for at in 0..changed {
            let file = (at + release * CHANGED) % FILES;
            let line = format!("file {file} of release {release}\n");
            let text = line.repeat(BYTES / line.len() + 1);
            fs::write(site.join(format!("{file}.txt")), &text[..BYTES]).unwrap();
        }
        let record = client.deploy("alike", "{}", &tar(scratch, &site));
        assert_eq!(record["status"], "succeeded", "{record:#}");
        ids.push(record["id"].as_str().unwrap().to_owned());
    }
    let since = Instant::now();
    let root = server.data.join("releases/alike");
    // Sharing goes on in the background; it has ended when nothing changes any more.
    let mut last = on_disk(&root);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = on_disk(&root);
        if now == last || since.elapsed() > Duration::from_secs(60) {
            break;
        }
        last = now;
    }
    let (blocks, whole) = on_disk(&root);
    println!(
        "\n{RELEASES} releases of {FILES} files, {CHANGED} changed in each: {} MiB on the disk, {} MiB if each were a copy \
         (a disk that clones files shares more than inodes tell)",
        blocks / MIB,
        whole / MIB
    );
    let times: Vec<f64> = (0..FLIPS)
        .map(|flip| {
            let start = Instant::now();
            client.post(
                "/v1/projects/alike/rollback",
                &format!("{{\"to\":\"{}\"}}", ids[RELEASES - 1 - flip % 2]),
            );
            start.elapsed().as_secs_f64() * 1e3
        })
        .skip(1)
        .collect();
    println!(
        "a rollback of files to the new route: {:.1} ms (99th percentile {:.1})",
        median(times.clone()),
        percentile(times, 0.99)
    );
}

/// Bytes that the releases take, each inode once; and each name for itself.
fn on_disk(root: &Path) -> (u64, u64) {
    let mut inodes = HashMap::new();
    let mut whole = 0;
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            // The server may be putting another file in its place.
            let Ok(entry) = entry else { continue };
            let Ok(metadata) = entry.path().symlink_metadata() else {
                continue;
            };
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                inodes.insert(metadata.ino(), metadata.blocks() * 512);
                whole += metadata.blocks() * 512;
            }
        }
    }
    (inodes.values().sum(), whole)
}

fn tar(scratch: &Path, site: &Path) -> Vec<u8> {
    let archive = scratch.join("alike.tar");
    let made = Command::new("tar")
        .args(["--sort=name", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(site)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    fs::read(archive).unwrap()
}
