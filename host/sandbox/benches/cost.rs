//! What the sandbox costs: starting a step, printing a line, writing files, next to doing the same without it.
//!
//! `cargo bench -p cofferdam-sandbox`. Every figure is a median of several runs, native and sandboxed in turn.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_sandbox::{
    Access, Component, Phase, Preopen, Sandbox, SandboxOptions, Stdin, StepContext, StepEvent,
    StepSpec,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs of everything that takes milliseconds.
const ROUNDS: usize = 9;

/// Steps that are started, one after another.
const STARTS: usize = 500;

/// Lines that are printed in one run.
const LINES: u32 = 200_000;

fn main() {
    let cache = TempDir::new().expect("a temporary directory");
    let sandbox =
        Sandbox::new(SandboxOptions::cached_in(cache.path().join("cache"))).expect("an engine");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        admission(&sandbox);
        starting(&sandbox).await;
        printing(&sandbox).await;
        writing(&sandbox).await;
    });
}

fn admission(sandbox: &Sandbox) {
    let wasm = cofferdam_test_guests::program("succeed");
    let start = Instant::now();
    sandbox.admit(wasm).expect("it is admitted");
    println!(
        "admit, compiling {} KB: {:.1?}",
        wasm.len() / 1000,
        start.elapsed()
    );
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        sandbox.admit(wasm).expect("it is admitted");
        start.elapsed()
    });
    println!("admit, compiled before: {:.1?}", median(times.collect()));
}

/// From `start` to the first line the guest prints, as the caller sees it.
async fn starting(sandbox: &Sandbox) {
    let component = admit(sandbox, "endless_line");
    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let directory = TempDir::new().expect("a temporary directory");
        let preopens = vec![
            preopen("/release", directory.path()),
            preopen("/tmp", directory.path()),
        ];
        let start = Instant::now();
        let mut step = sandbox
            .start(
                &component,
                spec(json!({ "bytes": 1 })),
                preopens,
                Stdin::Closed,
            )
            .expect("it starts");
        step.next_event().await.expect("it prints");
        first.push(start.elapsed());
        assert!(step.outcome().await.expect("it ends").verdict.is_success());
        whole.push(start.elapsed());
    }
    println!(
        "start to first line: {:.1?}; start to outcome: {:.1?}",
        median(first),
        median(whole)
    );
}

async fn printing(sandbox: &Sandbox) {
    let component = admit(sandbox, "flood");
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut spec = spec(json!({ "lines": LINES }));
        spec.limits.output_bytes = u64::MAX;
        let start = Instant::now();
        let mut step = sandbox
            .start(&component, spec, Vec::new(), Stdin::Closed)
            .expect("it starts");
        let mut lines = 0;
        while let Some(event) = step.next_event().await {
            lines += u32::from(matches!(event, StepEvent::Line { .. }));
        }
        times.push(start.elapsed());
        assert_eq!(lines, LINES);
    }
    println!("printed line, end to end: {:.2?}", median(times) / LINES);
}

async fn writing(sandbox: &Sandbox) {
    let writes = admit(sandbox, "many_writes");
    for (bytes, count) in [(4 << 10, 20_000_u32), (64 << 10, 2000)] {
        let (mut native, mut guest) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let directory = TempDir::new().expect("a temporary directory");
            native.push(native_writes(&directory.path().join("big"), bytes, count));
            let directory = TempDir::new().expect("a temporary directory");
            let config = json!({ "writes": count, "bytes": bytes });
            guest.push(timed(sandbox, &writes, config, directory.path()).await);
        }
        report(
            &format!("write of {} KiB", bytes >> 10),
            median(native) / count,
            median(guest) / count,
        );
    }

    let files = admit(sandbox, "many_files");
    let count = 2000_u32;
    let (mut native, mut guest) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let directory = TempDir::new().expect("a temporary directory");
        native.push(native_files(directory.path(), count));
        let directory = TempDir::new().expect("a temporary directory");
        guest.push(
            timed(
                sandbox,
                &files,
                json!({ "files": count, "bytes": 256 }),
                directory.path(),
            )
            .await,
        );
    }
    report(
        "new file of 256 bytes",
        median(native) / count,
        median(guest) / count,
    );
}

/// What the guest itself measured, in nanoseconds on its only line.
async fn timed(
    sandbox: &Sandbox,
    component: &Component,
    config: Value,
    release: &Path,
) -> Duration {
    let mut step = sandbox
        .start(
            component,
            spec(config),
            vec![preopen("/release", release)],
            Stdin::Closed,
        )
        .expect("it starts");
    let Some(StepEvent::Line { text, .. }) = step.next_event().await else {
        panic!("it did not print: {:?}", step.outcome().await);
    };
    assert!(step.outcome().await.expect("it ends").verdict.is_success());
    Duration::from_nanos(text.parse().expect("it printed a number"))
}

fn native_writes(path: &Path, bytes: usize, count: u32) -> Duration {
    let block = vec![7; bytes];
    let mut file = File::create(path).expect("a file");
    let start = Instant::now();
    for _ in 0..count {
        file.write_all(&block).expect("it is written");
    }
    start.elapsed()
}

fn native_files(directory: &Path, count: u32) -> Duration {
    let content = [7; 256];
    let start = Instant::now();
    for number in 0..count {
        fs::write(directory.join(format!("file-{number}")), content).expect("it is written");
    }
    start.elapsed()
}

fn report(what: &str, native: Duration, guest: Duration) {
    let factor = guest.as_secs_f64() / native.as_secs_f64();
    println!("{what}: native {native:.2?}, sandboxed {guest:.2?} ({factor:.2}x)");
}

fn admit(sandbox: &Sandbox, program: &str) -> Component {
    sandbox
        .admit(cofferdam_test_guests::program(program))
        .expect("it is admitted")
}

fn preopen(guest_path: &str, path: &Path) -> Preopen {
    Preopen::open(guest_path, Access::ReadWrite, path).expect("it opens")
}

fn spec(config: Value) -> StepSpec {
    StepSpec::new(StepContext {
        deployment: "1".into(),
        project: "bench".into(),
        step: "bench".into(),
        phase: Phase::Install,
        config,
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
