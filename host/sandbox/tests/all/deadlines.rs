//! Steps that go on past their time: what they do ends with it, and nobody else notices.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use cofferdam_sandbox::{Access, NetGrant, Outcome, Verdict};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::harness::{PATIENCE, Run, Started};
use crate::latency::Latency;

/// How long a step may take.
const WALL_MS: u64 = 250;

/// How much later than its deadline a guest's code may still run, on a machine that does not keep it from being
/// stopped. How long this one does is measured beside each test.
const LATE: Duration = Duration::from_millis(100);

/// Entries of a directory that takes a while to list.
const ENTRIES: usize = 3000;

fn changed(directory: &Path, name: &str) -> Option<SystemTime> {
    let metadata = fs::metadata(directory.join(name)).ok()?;
    Some(metadata.modified().unwrap())
}

fn overstay(config: Value) -> Run {
    Run::of("overstay")
        .config(config)
        .limits(|limits| limits.wall_ms = WALL_MS)
}

/// Runs a step to its end beside another, which must not notice, and looks at what the first has left.
async fn beside_a_sibling<T>(run: Run, look: impl FnOnce(&Outcome, &Path) -> T) -> T {
    let sibling = Run::of("files").end();
    let Started {
        mut step,
        release,
        scratch,
    } = run.start();
    let stopped = async {
        while step.next_event().await.is_some() {}
        step.outcome().await.unwrap()
    };
    let (outcome, sibling) = tokio::join!(tokio::time::timeout(PATIENCE, stopped), sibling);
    assert_eq!(sibling.outcome.verdict, Verdict::Succeeded);
    assert_eq!(sibling.lines(), ["all is well"]);
    drop(scratch);
    look(&outcome.unwrap(), release.path())
}

#[tokio::test]
async fn what_a_guest_does_ends_within_a_tenth_of_a_second_of_its_deadline() {
    let many = TempDir::new().unwrap();
    let first = many.path().join("0");
    fs::write(&first, "").unwrap();
    for entry in 1..ENTRIES {
        fs::hard_link(&first, many.path().join(entry.to_string())).unwrap();
    }
    for how in ["write", "compute", "print", "report", "list", "random"] {
        let run = overstay(json!({ "how": how })).directory("/many", Access::ReadOnly, many.path());
        let latency = Latency::watch();
        beside_a_sibling(run, |outcome, release| {
            let allowance = latency.allowance();
            assert_eq!(
                outcome.verdict,
                Verdict::TimedOut { limit_ms: WALL_MS },
                "{how}"
            );
            assert!(outcome.receipt.wall_ms >= WALL_MS, "{how}: {outcome:?}");
            let began = changed(release, "began").unwrap();
            let last = changed(release, "beat").unwrap_or(began);
            let worked = last.duration_since(began).unwrap_or_default();
            let late = worked.saturating_sub(Duration::from_millis(WALL_MS));
            assert!(
                late <= LATE + allowance,
                "{how}: {late:?} late on a machine that explains {allowance:?}"
            );
        })
        .await;
    }
}

#[tokio::test]
async fn a_guest_that_waits_does_not_wake_after_its_deadline() {
    // A peer that takes the connection and never says a word.
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = peer.local_addr().unwrap().to_string();
    let after = WALL_MS + u64::try_from(LATE.as_millis()).unwrap();
    for how in ["sleep", "poll", "block", "fetch"] {
        let mut run = overstay(json!({ "how": how, "after_ms": after, "to": to }));
        if how == "fetch" {
            run.spec.net = NetGrant {
                hosts: vec![to.parse().unwrap()],
                allow_ranges: vec!["127.0.0.0/8".parse().unwrap()],
                extra_roots: Vec::new(),
            };
        }
        beside_a_sibling(run, |outcome, release| {
            assert_eq!(
                outcome.verdict,
                Verdict::TimedOut { limit_ms: WALL_MS },
                "{how}"
            );
            assert!(changed(release, "began").is_some(), "{how}");
            // Nothing to wait for: that nothing happens is what is tested.
            thread::sleep(2 * LATE);
            assert_eq!(changed(release, "woke"), None, "{how}");
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_guest_does_ends_within_a_tenth_of_a_second_of_a_cancel() {
    for how in ["write", "print"] {
        let mut started = Run::of("overstay").config(json!({ "how": how })).start();
        started.until_line(how).await;
        let latency = Latency::watch();
        let asked = SystemTime::now();
        started.step.cancel();
        while started.step.next_event().await.is_some() {}
        let release = started.release;
        let outcome = started.step.outcome().await.unwrap();
        assert_eq!(outcome.verdict, Verdict::Cancelled, "{how}");
        let allowance = latency.allowance();
        let last = changed(release.path(), "beat").or_else(|| changed(release.path(), "began"));
        let late = last.unwrap().duration_since(asked).unwrap_or_default();
        assert!(
            late <= LATE + allowance,
            "{how}: {late:?} late on a machine that explains {allowance:?}"
        );
        thread::sleep(2 * LATE);
        let later = changed(release.path(), "beat").or_else(|| changed(release.path(), "began"));
        assert_eq!(later, last, "{how}");
    }
}
