//! What a process that dies leaves behind.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cofferdam_blobs::{BlobId, Digest};

use crate::testing::noise;
use crate::{open, open_with_small_packs, packs, read, store};

/// Tells the test binary that it is the process to be killed, and in which directory.
const CHILD: &str = "COFFERDAM_BLOBS_TEST_CHILD";

#[tokio::test]
async fn an_upload_without_an_end_leaves_nothing_to_see() {
    let directory = tempfile::tempdir().unwrap();
    let kept = noise(1, 700_000);
    let blobs = open_with_small_packs(directory.path()).await;
    let info = store(&blobs, "blog", &kept).await;
    let mut ingest = blobs.ingest("blog").await.unwrap();
    ingest
        .write(Bytes::from(noise(2, 9_000_000)))
        .await
        .unwrap();
    drop(ingest);
    drop(blobs);

    let blobs = open(directory.path()).await;
    assert_eq!(packs(directory.path(), "tmp").len(), 0);
    assert_eq!(
        blobs.blobs(None, 10).await.unwrap(),
        std::slice::from_ref(&info)
    );
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == kept);
}

#[tokio::test]
async fn torn_packs_are_removed_and_packs_that_nobody_names_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let data = noise(1, 700_000);
    let blobs = open(directory.path()).await;
    let info = store(&blobs, "blog", &data).await;
    drop(blobs);
    let pack = packs(directory.path(), "pack").remove(0);
    let other = |name: &str| directory.path().join("packs").join(name);
    fs::write(other("019a0000-0000-7000-8000-000000000001.tmp"), b"torn").unwrap();
    fs::copy(&pack, other("019a0000-0000-7000-8000-000000000002.pack")).unwrap();
    fs::write(other("019a0000-0000-7000-8000-000000000003.pack"), b"?").unwrap();

    let blobs = open(directory.path()).await;
    assert_eq!(packs(directory.path(), "tmp").len(), 0);
    assert_eq!(packs(directory.path(), "pack").len(), 3);
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
    store(&blobs, "blog", &data).await;
}

/// What the child does until it is killed: uploads, some of them at once, some of what was there before; each
/// line on stdout is a blob that was acknowledged.
async fn upload_for_ever(directory: &Path) {
    let blobs = open_with_small_packs(directory).await;
    let seed = std::process::id();
    let writers: Vec<_> = (0..3)
        .map(|writer: u64| {
            let blobs = blobs.clone();
            tokio::spawn(async move {
                for n in 0_u64.. {
                    let size = 1 + usize::try_from(n * 77_777 % 1_500_000).unwrap();
                    let mut data = noise(n % 3, size);
                    data.extend(noise(u64::from(seed) << 20 | writer << 16 | n, size / 2));
                    let info = store(&blobs, "blog", &data).await;
                    let line = format!("{} {} {}\n", info.id, info.bytes, Digest::blake3(&data));
                    let mut out = std::io::stdout().lock();
                    out.write_all(line.as_bytes()).unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_blob_is_whole_after_kill_nine() {
    if let Some(directory) = env::var_os(CHILD) {
        return upload_for_ever(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<BlobId, (u64, Digest)> = HashMap::new();
    for round in 0..6_u64 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::every_acknowledged_blob_is_whole_after_kill_nine",
                "--nocapture",
            ])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut deadline = None;
        for line in lines {
            let line = line.unwrap();
            let mut words = line.split(' ');
            let Some(id) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            let bytes = words.next().unwrap().parse().unwrap();
            let digest = words.next().unwrap().parse().unwrap();
            acknowledged.insert(id, (bytes, digest));
            // Killed a while after the first one, each time at another point.
            let deadline =
                *deadline.get_or_insert(Instant::now() + Duration::from_millis(30 + 97 * round));
            if Instant::now() >= deadline {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();

        let blobs = open(directory.path()).await;
        assert_eq!(packs(directory.path(), "tmp").len(), 0);
        let mut after = None;
        let mut seen = 0;
        while let Some(info) = blobs.blobs(after, 1).await.unwrap().pop() {
            after = Some(info.id);
            // Also one that was complete and not yet acknowledged must be whole.
            let data = read(blobs.reader(info.id).await.unwrap()).await.unwrap();
            assert_eq!(Digest::blake3(&data), info.blake3);
            if let Some((bytes, digest)) = acknowledged.get(&info.id) {
                assert_eq!((info.bytes, info.blake3), (*bytes, *digest));
                seen += 1;
            }
        }
        assert_eq!(seen, acknowledged.len(), "round {round}");
    }
    assert!(acknowledged.len() > 6);
}
