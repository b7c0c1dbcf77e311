//! An upload of any size holds the same few MiB. A binary of its own, so that the process's peak is this
//! test's peak.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::fs;

use bytes::Bytes;
use cofferdam_blobs::{Named, Store, StoreOptions, Supply};

#[path = "../src/testing.rs"]
mod testing;

use testing::noise;

const MIB: u64 = 1024 * 1024;

/// A figure of this process in bytes.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024
}

/// By how much the resident set grows at most while `work` is done.
async fn growth(work: impl Future<Output = ()>) -> u64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    work.await;
    status("VmHWM:").saturating_sub(before)
}

/// Uploads this many MiB in blocks of this size, all of them new, with a follower that takes one piece at
/// first and the rest at the end.
async fn upload(store: &Store, seed: u64, mib: u64, block: usize) {
    let mut ingest = store.ingest("blog").await.unwrap();
    let mut follower = ingest.follow();
    let mut first = 0;
    for n in 0..mib {
        let data = Bytes::from(noise(seed << 32 | n, 1024 * 1024));
        for at in (0..data.len()).step_by(block) {
            let end = data.len().min(at + block);
            ingest.write(data.slice(at..end)).await.unwrap();
        }
        if n == 0 {
            first = follower.next().await.unwrap().unwrap().len();
        }
    }
    let info = ingest.finish().await.unwrap();
    assert_eq!(info.bytes, mib * MIB);
    let mut seen = first as u64;
    while let Some(bytes) = follower.next().await.unwrap() {
        seen += bytes.len() as u64;
    }
    assert_eq!(seen, info.bytes);
}

/// Puts a blob together from so many held chunks of one byte.
async fn put_together(store: &Store, chunks: u64) {
    let mut ingest = store.ingest("blog").await.unwrap();
    ingest.write(Bytes::from_static(b"!")).await.unwrap();
    let one = ingest.finish().await.unwrap();
    let chunk = store.manifest(one.id).await.unwrap().chunks[0];
    let mut assembly = store.assemble("blog").await.unwrap();
    for _ in 0..chunks / 1024 {
        assembly
            .name(&vec![Named::Held(chunk); 1024])
            .await
            .unwrap();
    }
    let mut ingest = store.ingest("blog").await.unwrap();
    while let Supply::Held(input) = assembly.next().await.unwrap() {
        ingest.write(input).await.unwrap();
    }
    assert_eq!(ingest.finish().await.unwrap().bytes, chunks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_depend_on_the_size_of_an_upload_nor_on_how_it_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default())
        .await
        .unwrap();
    // The threads, their stacks, the index's page cache.
    upload(&store, 1, 100, 64 * 1024).await;

    let small = growth(upload(&store, 2, 64, 64 * 1024)).await;
    let large = growth(upload(&store, 3, 384, 64 * 1024)).await;
    let tiny_blocks = growth(upload(&store, 4, 32, 10)).await;
    let one_block = growth(upload(&store, 5, 64, 1024 * 1024)).await;
    let tiny_chunks = growth(put_together(&store, 256 * 1024)).await;
    let figures = format!(
        "{} {} {} {} {} MiB",
        small / MIB,
        large / MIB,
        tiny_blocks / MIB,
        one_block / MIB,
        tiny_chunks / MIB
    );
    println!("{figures}");
    for growth in [small, large, tiny_blocks, one_block, tiny_chunks] {
        assert!(growth < 20 * MIB, "{figures}");
    }
}
