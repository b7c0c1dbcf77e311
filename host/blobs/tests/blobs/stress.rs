//! Everything at once, killed again and again: uploads that share what they bring, removals, readers and the
//! collector.

use std::collections::{HashMap, HashSet};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_blobs::{BlobId, CollectOptions, Digest, Error, Store};

use crate::testing::noise;
use crate::{open, open_with_small_packs, packs, read, store};

/// Tells the test binary that it is the process to be killed, and in which directory.
const CHILD: &str = "COFFERDAM_BLOBS_STRESS_CHILD";

/// How often it is killed.
const ROUNDS: u64 = 6;

fn at_once() -> CollectOptions {
    CollectOptions {
        orphan_grace: Duration::ZERO,
        ..CollectOptions::default()
    }
}

/// What two random numbers choose: pieces of a few blobs that everybody brings, and something new.
fn data(choice: u64, fresh: u64) -> Vec<u8> {
    let shared = noise(choice % 5, 600_000);
    let from = usize::try_from(choice / 5 % 4).unwrap() * 100_000;
    let mut data = shared[from..from + 200_000].to_vec();
    data.extend(noise(1_000_000 + fresh, 50_000));
    data
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Uploads for ever, and removes most of what it has uploaded. A line says what was acknowledged: before a removal
/// that it begins, and after an upload that it has ended.
async fn upload_and_remove(blobs: Store, writer: u64) {
    let seed = u64::from(std::process::id()) << 8 | writer;
    let mut mine = Vec::new();
    for n in 0_u64.. {
        let choice = u64::from_le_bytes(noise(seed ^ n << 40, 8).try_into().unwrap());
        let data = data(choice, seed << 20 | n);
        let info = store(&blobs, "blog", &data).await;
        say(&format!("{} + {}\n", info.id, Digest::blake3(&data)));
        mine.push(info.id);
        if mine.len() > 3 {
            let gone = mine.remove(usize::try_from(choice >> 8).unwrap_or(0) % mine.len());
            say(&format!("{gone} - {}\n", info.blake3));
            assert!(blobs.remove(gone).await.unwrap());
        }
    }
}

/// Reads whatever there is: all of it, or an error that says that it was removed.
async fn read_for_ever(blobs: Store) {
    loop {
        for info in blobs.blobs(None, 1000).await.unwrap() {
            let Ok(reader) = blobs.reader(info.id).await else {
                continue;
            };
            match read(reader).await {
                Ok(data) => assert_eq!(Digest::blake3(&data), info.blake3),
                Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    say(&format!("broken {}: {error}\n", info.id));
                    return;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn collect_for_ever(blobs: Store) {
    loop {
        if let Err(error) = blobs.collect(at_once()).await {
            say(&format!("broken collection: {error}\n"));
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn everything(directory: &Path) {
    let blobs = open_with_small_packs(directory).await;
    let mut tasks: Vec<_> = (0..3)
        .map(|writer| tokio::spawn(upload_and_remove(blobs.clone(), writer)))
        .collect();
    tasks.push(tokio::spawn(read_for_ever(blobs.clone())));
    tasks.push(tokio::spawn(collect_for_ever(blobs)));
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_runs_beside_a_collector_and_whenever_it_is_killed_what_was_acknowledged_is_whole()
{
    if let Some(directory) = env::var_os(CHILD) {
        return everything(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<BlobId, Digest> = HashMap::new();
    let mut removed: HashSet<BlobId> = HashSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "stress::whatever_runs_beside_a_collector_and_whenever_it_is_killed_what_was_acknowledged_is_whole",
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
            assert!(
                !line.starts_with("broken") && !line.contains("FAILED"),
                "{line}"
            );
            let words: Vec<&str> = line.split(' ').collect();
            let [id, what, digest] = words[..] else {
                continue;
            };
            let (Ok(id), Ok(digest)) = (id.parse(), digest.parse()) else {
                continue;
            };
            if what == "+" {
                acknowledged.insert(id, digest);
            } else {
                removed.insert(id);
            }
            let deadline =
                *deadline.get_or_insert(Instant::now() + Duration::from_millis(150 + 131 * round));
            if Instant::now() >= deadline {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();

        let blobs = open(directory.path()).await;
        let there: HashSet<BlobId> = whole(&blobs).await;
        for id in acknowledged.keys() {
            // A removal that had only begun may have come to its end or not.
            assert!(
                there.contains(id) || removed.contains(id),
                "round {round}: {id}"
            );
        }
    }
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    assert!(removed.len() > 10, "{}", removed.len());

    let blobs = open(directory.path()).await;
    let report = blobs.collect(at_once()).await.unwrap();
    let there = whole(&blobs).await;
    assert_eq!(there.len() as u64, report.blobs);
    let left: u64 = packs(directory.path(), "pack")
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert_eq!(left, report.bytes_left());
    // Beside what is alive there is at most as much that is dead, and what describes the blobs.
    let most = 2 * report.live_bytes + 20_000 * report.blobs + 100_000;
    assert!(left <= most, "{left} of at most {most}: {report:?}");
    for id in there {
        assert!(blobs.remove(id).await.unwrap());
    }
    blobs.collect(at_once()).await.unwrap();
    assert_eq!(packs(directory.path(), "pack").len(), 0);
}

/// Every blob that is there is whole.
async fn whole(blobs: &Store) -> HashSet<BlobId> {
    let mut there = HashSet::new();
    for info in blobs.blobs(None, 10_000).await.unwrap() {
        let data = read(blobs.reader(info.id).await.unwrap()).await.unwrap();
        assert_eq!(Digest::blake3(&data), info.blake3, "{}", info.id);
        there.insert(info.id);
    }
    there
}
