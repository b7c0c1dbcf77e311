//! How steps end.

use std::time::{Duration, Instant};

use crate::harness::Run;
use cofferdam_sandbox::{OutputStream, Verdict};
use serde_json::json;

#[tokio::test]
async fn a_program_that_returns_has_succeeded() {
    let ended = Run::of("succeed").end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
    assert!(ended.outcome.receipt.peak_memory_bytes > 0);
    assert!(ended.events.is_empty());
}

#[tokio::test]
async fn a_program_that_exits_with_failure_says_one_whatever_its_code_was() {
    // WASI 0.2 tells only success and failure apart.
    let ended = Run::of("fail").config(json!({ "code": 7 })).end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 1 });
    assert_eq!(ended.lines_of(OutputStream::Stderr), ["this did not work"]);
    let ended = Run::of("fail").config(json!({ "code": 0 })).end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
}

#[tokio::test]
async fn a_program_that_exits_with_a_code_says_that_code() {
    let ended = Run::of("fail")
        .config(json!({ "code": 7, "exact": true }))
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 7 });
    let ended = Run::of("fail")
        .config(json!({ "code": 0, "exact": true }))
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
}

#[tokio::test]
async fn a_panic_is_a_trap_with_the_message_printed_and_the_frames_named() {
    let ended = Run::of("panic").end().await;
    let Verdict::Trapped { message } = &ended.outcome.verdict else {
        panic!("{:?}", ended.outcome)
    };
    assert!(message.contains("unreachable"), "{message}");
    assert!(message.contains("panic::innermost_frame"), "{message}");
    assert!(
        ended
            .lines()
            .iter()
            .any(|line| line.contains("five is right out")),
        "{:?}",
        ended.lines()
    );
}

#[tokio::test]
async fn a_trap_of_a_guest_with_line_tables_names_the_lines_of_its_sources() {
    let ended = Run::of("traced").end().await;
    let Verdict::Trapped { message } = &ended.outcome.verdict else {
        panic!("{:?}", ended.outcome)
    };
    let lines: Vec<&str> = message.lines().map(str::trim).collect();
    let frame = lines
        .iter()
        .position(|line| line.ends_with("traced::third_of"))
        .unwrap_or_else(|| panic!("{message}"));
    // The innermost place is the standard library's; what was inlined is named, with where.
    let places: Vec<&str> = lines[frame + 1..]
        .iter()
        .take_while(|line| !line.contains(" - "))
        .copied()
        .collect();
    assert!(
        places
            .iter()
            .any(|place| place.starts_with("in nth at tests/guests/traced/src/main.rs:12:")),
        "{message}"
    );
    assert!(
        places
            .last()
            .unwrap()
            .starts_with("at tests/guests/traced/src/main.rs:5:"),
        "{message}"
    );
    assert!(!message.contains(env!("CARGO_MANIFEST_DIR")), "{message}");
    assert!(!message.contains("/rustc/"), "{message}");
}

#[tokio::test]
async fn recursion_without_end_is_a_trap_with_a_bounded_backtrace() {
    let ended = Run::of("overflow_stack").end().await;
    let Verdict::Trapped { message } = &ended.outcome.verdict else {
        panic!("{:?}", ended.outcome)
    };
    // A Rust guest's stack lies below its memory's start, so it leaves the memory before the engine's stack ends.
    assert!(message.starts_with("wasm trap: "), "{message}");
    assert!(message.lines().count() < 100);
}

#[tokio::test]
async fn a_program_that_computes_for_ever_ends_at_its_cpu_limit() {
    let ended = Run::of("loop_forever")
        .limits(|limits| limits.cpu_ms = 100)
        .end()
        .await;
    assert_eq!(
        ended.outcome.verdict,
        Verdict::CpuExceeded { limit_ms: 100 }
    );
    assert!(ended.outcome.receipt.cpu_ms >= 100);
    assert_eq!(ended.lines(), ["looping"]);
}

#[tokio::test]
async fn a_program_that_computes_for_ever_ends_at_its_wall_clock_limit() {
    let ended = Run::of("loop_forever")
        .limits(|limits| limits.wall_ms = 100)
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::TimedOut { limit_ms: 100 });
}

#[tokio::test]
async fn a_sleeping_program_ends_at_its_wall_clock_limit() {
    let ended = Run::of("sleep_forever")
        .limits(|limits| limits.wall_ms = 100)
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::TimedOut { limit_ms: 100 });
    assert!(ended.outcome.receipt.wall_ms >= 100);
    assert!(ended.outcome.receipt.cpu_ms < 100);
}

#[tokio::test]
async fn a_program_that_needs_too_much_memory_is_told_from_one_that_traps() {
    let limit = 16 << 20;
    let ended = Run::of("hog_memory")
        .limits(|limits| limits.memory_bytes = limit)
        .end()
        .await;
    assert_eq!(
        ended.outcome.verdict,
        Verdict::MemoryExceeded { limit_bytes: limit }
    );
    assert!(ended.outcome.receipt.peak_memory_bytes <= limit);
}

#[tokio::test]
async fn a_program_that_copes_with_less_memory_succeeds() {
    let ended = Run::of("hog_memory")
        .config(json!({ "politely": true }))
        .limits(|limits| limits.memory_bytes = 16 << 20)
        .end();
    assert_eq!(ended.await.outcome.verdict, Verdict::Succeeded);
}

#[tokio::test]
async fn a_memory_too_small_to_start_in_is_a_memory_verdict_too() {
    let ended = Run::of("succeed")
        .limits(|limits| limits.memory_bytes = 1)
        .end()
        .await;
    assert_eq!(
        ended.outcome.verdict,
        Verdict::MemoryExceeded { limit_bytes: 1 }
    );
}

#[tokio::test]
async fn a_cancel_ends_a_program_that_computes() {
    let mut started = Run::of("loop_forever").start();
    started.until_line("looping").await;
    let canceller = started.step.canceller();
    canceller.cancel();
    canceller.cancel();
    let before = Instant::now();
    assert_eq!(started.end().await.outcome.verdict, Verdict::Cancelled);
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_cancel_ends_a_program_that_sleeps() {
    let mut started = Run::of("sleep_forever").start();
    started.until_line("sleeping").await;
    started.step.cancel();
    assert_eq!(started.end().await.outcome.verdict, Verdict::Cancelled);
}

#[tokio::test]
async fn a_cancel_ends_a_program_that_prints_to_nobody() {
    let started = Run::of("print_forever").start();
    // Nobody takes events, so the guest is soon held back.
    let canceller = started.step.canceller();
    tokio::time::sleep(Duration::from_millis(200)).await;
    canceller.cancel();
    let outcome = tokio::time::timeout(crate::harness::PATIENCE, started.step.outcome())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(outcome.verdict, Verdict::Cancelled);
    assert!(
        outcome.receipt.cpu_ms < 150,
        "a guest that is held back does not compute: {outcome:?}"
    );
}

#[tokio::test]
async fn a_program_that_prints_to_nobody_ends_at_its_wall_clock_limit() {
    let started = Run::of("print_forever")
        .limits(|limits| limits.wall_ms = 100)
        .start();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let outcome = tokio::time::timeout(crate::harness::PATIENCE, started.step.outcome())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(outcome.verdict, Verdict::TimedOut { limit_ms: 100 });
}

#[tokio::test]
async fn a_cancel_before_the_start_leaves_nothing_behind() {
    let started = Run::of("loop_forever").start();
    started.step.cancel();
    assert_eq!(started.end().await.outcome.verdict, Verdict::Cancelled);
}

#[tokio::test]
async fn the_outcome_comes_although_nobody_took_events() {
    let started = Run::of("flood").config(json!({ "lines": 5000 })).start();
    let outcome = tokio::time::timeout(crate::harness::PATIENCE, started.step.outcome())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(outcome.verdict, Verdict::Succeeded);
    assert_eq!(outcome.receipt.lines, 5000);
}

#[tokio::test]
async fn dropping_the_handle_stops_the_guest() {
    for program in ["loop_forever", "sleep_forever", "print_forever"] {
        let (run, input) = Run::of(program).stdin();
        let started = run.start();
        drop(started.step);
        // The input's other end is gone once the step is.
        tokio::time::timeout(crate::harness::PATIENCE, input.closed())
            .await
            .unwrap();
    }
}
