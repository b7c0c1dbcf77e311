//! Reproducible steps: two runs see the same world, wherever and whenever they run.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use crate::harness::{PATIENCE, Run};

/// What a guest saw that looked at everything, with its files under `root`.
async fn seen(reproducible: bool, root: &Path, names: &[&str]) -> String {
    let release = tempfile::tempdir_in(root).unwrap();
    std::fs::create_dir(release.path().join("given")).unwrap();
    for name in names {
        std::fs::write(release.path().join("given").join(name), name).unwrap();
    }
    // Without virtual time, an hour would be one.
    let config = if reproducible {
        json!({})
    } else {
        json!({ "sleep_ms": 1, "wait_ms": 2 })
    };
    let mut run = Run::of("observe").config(config);
    run.spec.reproducible = reproducible;
    run.spec.context.deployment = format!("{:?}", Instant::now());
    run.release = release;
    let ended = run.end().await;
    assert!(ended.outcome.verdict.is_success(), "{:?}", ended.outcome);
    ended.lines().join("\n")
}

#[tokio::test]
async fn two_runs_see_the_same_world() {
    let elsewhere = tempfile::tempdir().unwrap();
    // Another file system where there is one.
    let shm = Path::new("/dev/shm");
    let other = if shm.is_dir() { shm } else { elsewhere.path() };
    let start = Instant::now();
    let first = seen(true, elsewhere.path(), &["x", "b", "k"]).await;
    let second = seen(true, other, &["k", "x", "b"]).await;
    assert_eq!(first, second);
    // They slept for an hour each.
    assert!(start.elapsed() < PATIENCE);
    assert!(first.contains("given listing: b k x"), "{first}");
    assert!(first.contains("a NaN: 7ff8000000000000"), "{first}");
}

#[tokio::test]
async fn two_ordinary_runs_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let first = seen(false, directory.path(), &["x"]).await;
    let second = seen(false, directory.path(), &["x"]).await;
    for what in ["wall clock", "random", "seed", "hash order", "environment"] {
        let line = |text: &str| {
            let line = text.lines().find(|line| line.starts_with(what));
            line.unwrap().to_owned()
        };
        assert_ne!(line(&first), line(&second), "{what}");
    }
}

#[tokio::test]
async fn a_virtual_sleep_can_be_cancelled() {
    // It waits for the end of virtual time by looking.
    let config = json!({ "wait_ms": u64::MAX / 2_000_000 });
    let mut run = Run::of("observe").config(config);
    run.spec.reproducible = true;
    let started = run.start();
    tokio::time::sleep(Duration::from_millis(20)).await;
    started.step.cancel();
    let ended = started.end().await;
    assert!(!ended.outcome.verdict.is_success());
}

/// What a guest saw that waited for several things at once, with its input in pieces of this size.
async fn waited(root: &Path, piece: usize, pause: Duration) -> Vec<String> {
    let mut run = Run::of("wait");
    run.spec.reproducible = true;
    run.release = tempfile::tempdir_in(root).unwrap();
    let (run, input) = run.stdin();
    let started = run.start();
    let sending = tokio::spawn(async move {
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        for piece in bytes.chunks(piece) {
            let piece = Bytes::copy_from_slice(piece);
            input.send(Ok(piece)).await.unwrap();
            tokio::time::sleep(pause).await;
        }
    });
    let ended = started.end().await;
    sending.await.unwrap();
    assert!(ended.outcome.verdict.is_success(), "{:?}", ended.outcome);
    ended.lines().into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn how_fast_anything_is_is_not_seen() {
    let elsewhere = tempfile::tempdir().unwrap();
    let shm = Path::new("/dev/shm");
    let other = if shm.is_dir() { shm } else { elsewhere.path() };
    let first = waited(elsewhere.path(), 1000, Duration::ZERO).await;
    let second = waited(other, 130_000, Duration::from_millis(30)).await;
    assert_eq!(first, second);
    let line = |what: &str| {
        let line = first.iter().find_map(|line| line.strip_prefix(what));
        line.unwrap_or_else(|| panic!("{what}: {first:#?}")).trim()
    };
    // The earlier of two moments comes first, and neither while there is input to wait for.
    assert_eq!(line("two moments:"), "[1]");
    assert_eq!(line("input and a moment:"), "[0]");
    assert_eq!(line("a moment that is past, and input:"), "[0, 1]");
    // Each file that came and went was another.
    let mut numbers: Vec<&str> = line("numbers:").split(' ').collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "{numbers:?}");
}
