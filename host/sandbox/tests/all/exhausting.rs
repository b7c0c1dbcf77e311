//! What a guest can take of the host's memory and time, beside what `verdicts` and `grants` try.

use std::fs;

use cofferdam_sandbox::{Access, Error, OutputStream, Stdin, StepEvent, Verdict};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Ended, PATIENCE, Run, program, sandbox};

/// Entries of a large directory, which is listed again and again: 25 times are all that the host holds.
const ENTRIES: usize = 20_000;

async fn exhaust(how: &str, change: impl FnOnce(Run) -> Run) -> Ended {
    let run = Run::of("exhaust").config(json!({ "how": how }));
    // A sibling runs beside it, and never notices.
    let sibling = Run::of("files").end();
    let (ended, sibling) = tokio::join!(change(run).end(), sibling);
    assert_eq!(sibling.outcome.verdict, Verdict::Succeeded, "{how}");
    assert_eq!(sibling.lines(), ["all is well"], "{how}");
    assert_eq!(ended.lines_of(OutputStream::Stdout)[0], how);
    ended
}

#[tokio::test]
async fn what_the_host_would_hold_for_a_guest_is_bounded() {
    for how in [
        "pollables",
        "streams",
        "fields",
        "bodies",
        "random",
        "insecure random",
        "one large call",
    ] {
        let ended = exhaust(how, |run| run).await;
        assert!(
            matches!(ended.outcome.verdict, Verdict::Trapped { .. }),
            "{how}: {:?}",
            ended.outcome
        );
        assert_eq!(ended.lines_of(OutputStream::Stdout), [how]);
    }
    let ended = exhaust("listings", |run| run).await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 1 });
    assert!(
        ended.lines()[1].starts_with("refused after 128"),
        "{:?}",
        ended.lines()
    );
}

#[tokio::test]
async fn what_the_host_holds_of_large_directories_is_bounded() {
    let many = TempDir::new().unwrap();
    let first = many.path().join("0");
    fs::write(&first, "").unwrap();
    for entry in 1..ENTRIES {
        fs::hard_link(&first, many.path().join(entry.to_string())).unwrap();
    }
    let ended = exhaust("listings", |run| {
        run.directory("/many", Access::ReadOnly, many.path())
    })
    .await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 1 });
    assert!(
        ended.lines()[1].starts_with("refused after 25"),
        "{:?}",
        ended.lines()
    );
}

#[tokio::test]
async fn a_flood_of_progress_is_merged_until_the_step_ends() {
    let ended = exhaust("progress", |run| run.limits(|limits| limits.wall_ms = 500)).await;
    assert_eq!(ended.outcome.verdict, Verdict::TimedOut { limit_ms: 500 });
    let labels: Vec<usize> = ended
        .events
        .iter()
        .filter_map(|event| match event {
            StepEvent::Progress { label, .. } => Some(label.len()),
            _ => None,
        })
        .collect();
    // One at once, ten in a second, and the last.
    assert!((2..=12).contains(&labels.len()), "{}", labels.len());
    assert!(labels.iter().all(|length| *length <= 256), "{labels:?}");
}

#[tokio::test]
async fn a_large_environment_is_passed_on_whole_and_a_huge_one_is_refused() {
    let mut run = Run::of("environment").limits(|limits| limits.line_bytes = 1 << 20);
    let large = "x".repeat(900 << 10);
    run.spec.env.insert("LARGE".into(), large.clone());
    let ended = run.end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
    let line = format!("env LARGE={large}");
    assert!(ended.lines().contains(&line.as_str()));

    let refusal = |spec| {
        let component = program("succeed");
        let started = sandbox().start(&component, spec, Vec::new(), Stdin::Closed);
        started.map(drop).unwrap_err()
    };
    let mut run = Run::of("succeed");
    run.spec.env.insert("HUGE".into(), "x".repeat(2 << 20));
    let error = refusal(run.spec);
    assert!(matches!(error, Error::Specification { .. }), "{error}");
    assert!(error.to_string().contains("1048576"), "{error}");
    // The config is part of it, and so is what many small ones make together.
    let run = Run::of("succeed").config(json!("x".repeat(2 << 20)));
    assert!(matches!(refusal(run.spec), Error::Specification { .. }));
    let mut run = Run::of("succeed");
    for number in 0..100_000 {
        run.spec.env.insert(format!("NAME_{number}"), "x".into());
    }
    assert!(matches!(refusal(run.spec), Error::Specification { .. }));
}

#[tokio::test]
async fn an_environment_that_is_asked_for_again_and_again_fills_the_guests_own_memory() {
    let limit = 32 << 20;
    let ended = exhaust("environment", |mut run| {
        run.spec.env.insert("LARGE".into(), "x".repeat(900 << 10));
        run.limits(|limits| limits.memory_bytes = limit)
    })
    .await;
    assert_eq!(
        ended.outcome.verdict,
        Verdict::MemoryExceeded { limit_bytes: limit }
    );
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

/// A program whose one module has so many memories and tables, of which it uses the last.
fn with_many(memories: usize, tables: usize) -> Vec<u8> {
    let text = format!(
        r#"(component
            (core module $main
                {}
                {}
                (func (export "run") (result i32)
                    (i32.or
                        (i32.eq (memory.grow {last_memory} (i32.const 1)) (i32.const -1))
                        (i32.eq (table.grow {last_table} (ref.null func) (i32.const 1)) (i32.const -1)))))
            (core instance $i (instantiate $main))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $exported (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $exported)))"#,
        "(memory 1) ".repeat(memories),
        "(table 1 funcref) ".repeat(tables),
        last_memory = memories - 1,
        last_table = tables - 1,
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_module_with_several_memories_runs_and_one_with_too_many_is_not_admitted() {
    for (memories, tables) in [(1, 1), (2, 1), (1, 2), (16, 64)] {
        let component = sandbox().admit(&with_many(memories, tables)).unwrap();
        let run = Run::of("succeed");
        let step = sandbox().start(&component, run.spec, Vec::new(), Stdin::Closed);
        let ended = tokio::time::timeout(PATIENCE, step.unwrap().outcome());
        let verdict = ended.await.unwrap().unwrap().verdict;
        assert_eq!(verdict, Verdict::Succeeded, "{memories} {tables}");
    }
    // On a thread and in a worker alike, it is the component that is at fault.
    for (memories, tables) in [(17, 1), (1, 65)] {
        let refused = sandbox().admit(&with_many(memories, tables)).map(drop);
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains("limit"), "{error}");
    }
}
