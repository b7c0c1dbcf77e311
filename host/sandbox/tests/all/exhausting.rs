//! What a guest can take of the host's memory and time, beside what `verdicts` and `grants` try.

use std::fs;
use std::time::Duration;

use cofferdam_sandbox::{OutputStream, Stdin, Verdict};
use serde_json::json;

use crate::harness::{PATIENCE, Run, Started, sandbox};

/// How much later than its deadline a step may end on a machine that is busy with all the other tests. It is 100 ms on
/// one that is not.
const LATE_MS: u64 = 1000;

#[tokio::test]
async fn what_the_host_would_hold_for_a_guest_is_bounded() {
    for how in [
        "pollables",
        "streams",
        "random",
        "insecure random",
        "one large call",
    ] {
        let ended = Run::of("exhaust").config(json!({ "how": how })).end().await;
        assert!(
            matches!(ended.outcome.verdict, Verdict::Trapped { .. }),
            "{how}: {:?}",
            ended.outcome
        );
        assert_eq!(ended.lines_of(OutputStream::Stdout), [how]);
    }
    let ended = Run::of("exhaust")
        .config(json!({ "how": "listings" }))
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 1 });
    assert!(
        ended.lines()[1].starts_with("refused after "),
        "{:?}",
        ended.lines()
    );
}

#[tokio::test]
async fn a_stopped_step_changes_nothing_more_and_its_siblings_never_notice() {
    let limit = 300;
    let Started {
        mut step,
        release,
        scratch,
    } = Run::of("exhaust")
        .config(json!({ "how": "changes" }))
        .limits(|limits| limits.wall_ms = limit)
        .start();
    let sibling = Run::of("hog_memory")
        .config(json!({ "politely": true }))
        .limits(|limits| limits.memory_bytes = 32 << 20)
        .end();
    let stopped = async {
        while step.next_event().await.is_some() {}
        let outcome = step.outcome().await.unwrap();
        let changing = release.path().join("changing");
        let last = fs::read(&changing).unwrap();
        // Nothing to wait for: that nothing happens is what is tested.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(fs::read(&changing).unwrap(), last);
        outcome
    };
    let (outcome, sibling) = tokio::join!(tokio::time::timeout(PATIENCE, stopped), sibling);
    let outcome = outcome.unwrap();
    assert_eq!(outcome.verdict, Verdict::TimedOut { limit_ms: limit });
    assert!(outcome.receipt.wall_ms >= limit, "{outcome:?}");
    assert!(outcome.receipt.wall_ms < limit + LATE_MS, "{outcome:?}");
    assert_eq!(sibling.outcome.verdict, Verdict::Succeeded);
    drop(scratch);
}

/// A component whose `run` does this, with a memory and a table of its own and those of another instance.
fn component(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (core module $other
                (memory 1)
                (table 1 funcref)
                (func (export "memory") (result i32) (memory.grow (i32.const 63)))
                (func (export "table") (result i32) (table.grow (ref.null func) (i32.const 600))))
            (core instance $o (instantiate $other))
            (core module $main
                (import "other" "memory" (func $other_memory (result i32)))
                (import "other" "table" (func $other_table (result i32)))
                (memory 1)
                (table 1 funcref)
                (func $deeper (param i64) (result i64)
                    (i64.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (i64.const 1)))
                (func (export "run") (result i32) {body}))
            (core instance $i (instantiate $main (with "other" (instance $o))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $exported (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $exported)))"#
    );
    wat::parse_str(text).unwrap()
}

async fn verdict_of(body: &str, change: impl FnOnce(&mut cofferdam_sandbox::Limits)) -> Verdict {
    let component = sandbox().admit(&component(body)).unwrap();
    let run = Run::of("succeed").limits(change);
    let step = sandbox().start(&component, run.spec, Vec::new(), Stdin::Closed);
    let ended = tokio::time::timeout(PATIENCE, step.unwrap().outcome());
    ended.await.unwrap().unwrap().verdict
}

#[tokio::test]
async fn memories_and_tables_are_counted_together() {
    // Each memory grows to 4 MiB; together they exceed what is granted.
    let grow = r"
        (drop (call $other_memory))
        (if (i32.eq (memory.grow (i32.const 63)) (i32.const -1)) (then unreachable))
        (i32.const 0)";
    let limit = 6 << 20;
    let verdict = verdict_of(grow, |limits| limits.memory_bytes = limit).await;
    assert_eq!(verdict, Verdict::MemoryExceeded { limit_bytes: limit });
    let verdict = verdict_of(grow, |limits| limits.memory_bytes = 8 << 20).await;
    assert_eq!(verdict, Verdict::Succeeded);

    // Growing a table fails inside the guest, which says what it makes of it.
    let grow = r"
        (drop (call $other_table))
        (i32.eq (table.grow (ref.null func) (i32.const 600)) (i32.const -1))";
    let verdict = verdict_of(grow, |limits| limits.table_elements = 1000).await;
    assert_eq!(verdict, Verdict::Exited { code: 1 });
    let verdict = verdict_of(grow, |limits| limits.table_elements = 2000).await;
    assert_eq!(verdict, Verdict::Succeeded);
}

#[tokio::test]
async fn the_engines_own_stack_ends_too() {
    let verdict = verdict_of("(i32.wrap_i64 (call $deeper (i64.const 0)))", |_| {}).await;
    let Verdict::Trapped { message } = &verdict else {
        panic!("{verdict:?}")
    };
    assert!(message.contains("call stack exhausted"), "{message}");
}
