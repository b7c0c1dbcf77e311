//! What the sandbox costs, on a thread and in a worker process: starting a step, printing a line, writing files, next
//! to doing the same without it and to other ways of running a small program.
//!
//! `cargo bench -p cofferdam-sandbox`. bubblewrap and node are compared when they are installed. Every figure is a median of
//! several runs, native and sandboxed in turn. `COFFERDAM_BENCH_ONLY` names the parts to run
//! (`peers,admit,start,print,pour,write,unpack,idle`).

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use cofferdam_sandbox::worker::{Isolation, WorkerOptions};
use cofferdam_sandbox::{
    Access, Component, Phase, Preopen, Sandbox, SandboxOptions, Stdin, StepContext, StepEvent,
    StepSpec,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

#[path = "../../../benches/rig/tree.rs"]
mod tree;

/// Runs of everything that takes milliseconds.
const ROUNDS: usize = 9;

/// Steps that are started, one after another.
const STARTS: usize = 500;

/// Lines that are printed in one run.
const LINES: u32 = 200_000;

/// Long lines that are printed in one run, and their length.
const LONG_LINES: u32 = 20_000;
const LONG_LINE: u32 = 8_000;

/// Time between two steps.
const PAUSE: Duration = Duration::from_millis(5);

/// Bytes of a package that are handed to a step at once, and how many such pieces wait.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// Steps that live at the same time when their memory is measured.
const IDLE_STEPS: usize = 16;

/// Runs of another program that is compared.
const PEER_RUNS: usize = 40;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let only = env::var("COFFERDAM_BENCH_ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|name| name == part);
    runtime.block_on(async {
        if wanted("peers") {
            println!("== a bare engine, in this thread");
            bare::steps().await;
            println!("== other ways to run a small program");
            peer("bubblewrap", &["bwrap", "--ro-bind", "/", "/", "true"]);
            peer("node", &["node", "-e", "0"]);
            peer("a process", &["true"]);
        }
        for (name, isolation) in [("thread", Isolation::Thread), ("worker", workers())] {
            println!("== steps in a {name}");
            let cache = TempDir::new().expect("a temporary directory");
            let mut options = SandboxOptions::cached_in(cache.path().join("cache"));
            options.isolation = isolation;
            let sandbox = Sandbox::new(options).expect("an engine");
            if wanted("admit") {
                admission(&sandbox);
            }
            if wanted("start") {
                starting(&sandbox).await;
            }
            if wanted("print") {
                printing(&sandbox).await;
            }
            if wanted("pour") {
                pouring(&sandbox).await;
            }
            if wanted("write") {
                writing(&sandbox).await;
            }
            if wanted("unpack") {
                unpacking(&sandbox).await;
            }
            if wanted("idle") {
                idling(&sandbox).await;
            }
        }
    });
}

fn workers() -> Isolation {
    let program = env!("CARGO_BIN_EXE_cofferdam-worker");
    Isolation::Worker(WorkerOptions::program(program, [] as [&str; 0]))
}

fn peer(name: &str, command: &[&str]) {
    let times = (0..PEER_RUNS).map(|_| {
        let start = Instant::now();
        let ran = Command::new(command[0]).args(&command[1..]).status();
        ran.ok()
            .filter(ExitStatus::success)
            .map(|_| start.elapsed())
    });
    match times.collect::<Option<Vec<_>>>() {
        Some(times) => println!("{name}: {:.1?}", median(times)),
        None => println!("{name}: not on this machine"),
    }
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

/// From `start` to the first instruction, as the guest sees it, and to the first line it prints, as the caller does; and
/// how many steps a second that makes.
async fn starting(sandbox: &Sandbox) {
    let component = admit(sandbox, "tell_time");
    let (mut begun, mut first, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let directory = TempDir::new().expect("a temporary directory");
        let preopens = vec![
            preopen("/release", directory.path()),
            preopen("/tmp", directory.path()),
        ];
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let start = Instant::now();
        let mut step = sandbox
            .start(&component, spec(json!({})), preopens, Stdin::Closed)
            .expect("it starts");
        let Some(StepEvent::Line { text, .. }) = step.next_event().await else {
            panic!("it did not print: {:?}", step.outcome().await);
        };
        first.push(start.elapsed());
        assert!(step.outcome().await.expect("it ends").verdict.is_success());
        whole.push(start.elapsed());
        let told = Duration::from_nanos(text.parse().expect("it printed a number"));
        begun.push(told.saturating_sub(now.expect("the clock is set")));
        // Between two steps of a pipeline other things happen, and the next worker gets ready.
        tokio::time::sleep(PAUSE).await;
    }
    for (what, times) in [
        ("first instruction", begun),
        ("first line", first),
        ("outcome", whole),
    ] {
        println!(
            "start to {what}: {:.1?} (90th percentile {:.1?})",
            median(times.clone()),
            percentile(times, 90)
        );
    }

    let component = admit(sandbox, "succeed");
    let start = Instant::now();
    for _ in 0..STARTS {
        let step = sandbox
            .start(&component, spec(json!({})), Vec::new(), Stdin::Closed)
            .expect("it starts");
        assert!(step.outcome().await.expect("it ends").verdict.is_success());
    }
    println!(
        "steps, one after the other: {:.0} a second",
        STARTS as f64 / start.elapsed().as_secs_f64()
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
    println!(
        "printed line, guest to event: {:.2?}",
        median(times) / LINES
    );
}

/// Output in long lines.
async fn pouring(sandbox: &Sandbox) {
    let component = admit(sandbox, "pour");
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let mut spec = spec(json!({ "lines": LONG_LINES, "bytes": LONG_LINE }));
        spec.limits.output_bytes = u64::MAX;
        let start = Instant::now();
        let mut step = sandbox
            .start(&component, spec, Vec::new(), Stdin::Closed)
            .expect("it starts");
        let mut bytes = 0;
        while let Some(event) = step.next_event().await {
            if let StepEvent::Line { text, .. } = event {
                bytes += text.len() + 1;
            }
        }
        rates.push(Duration::from_secs_f64(
            start.elapsed().as_secs_f64() / (bytes as f64 / 1e6),
        ));
    }
    println!(
        "output in lines of {} KB: {:.0} MB/s",
        LONG_LINE / 1000,
        1.0 / median(rates).as_secs_f64()
    );
}

/// Memory of steps that wait: what this process and its workers hold more of, for each of them.
async fn idling(sandbox: &Sandbox) {
    let component = admit(sandbox, "sleep_forever");
    let before = memory();
    let mut steps = Vec::new();
    for _ in 0..IDLE_STEPS {
        let mut step = sandbox
            .start(&component, spec(json!({})), Vec::new(), Stdin::Closed)
            .expect("it starts");
        // It says that it sleeps, or nothing.
        let _ = tokio::time::timeout(Duration::from_millis(200), step.next_event()).await;
        steps.push(step);
    }
    let more = memory().saturating_sub(before);
    println!(
        "memory of a live idle step: {:.1} MB",
        more as f64 / IDLE_STEPS as f64 / 1e6
    );
    for step in steps {
        step.cancel();
        step.outcome().await.expect("it ends");
    }
}

/// The proportional memory of this process and all its children, in bytes.
fn memory() -> u64 {
    let of = |process: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("Pss:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    let mut total = of("self");
    for task in fs::read_dir("/proc/self/task").expect("this process has threads") {
        let children = task.expect("a thread").path().join("children");
        for child in fs::read_to_string(children)
            .unwrap_or_default()
            .split_whitespace()
        {
            total += of(child);
        }
    }
    total
}

/// The same component in the engine alone: no limits, no directories, no thread, no lines.
mod bare {
    use std::time::Instant;

    use wasmtime::component::{Component, Linker, ResourceTable};
    use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
    use wasmtime_wasi::p2::bindings::CommandPre;
    use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

    struct State(WasiCtx, ResourceTable);

    impl WasiView for State {
        fn ctx(&mut self) -> WasiCtxView<'_> {
            WasiCtxView {
                ctx: &mut self.0,
                table: &mut self.1,
            }
        }
    }

    pub(super) async fn steps() {
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(
            PoolingAllocationConfig::new(),
        ));
        let engine = Engine::new(&config).expect("an engine");
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI");
        let wasm = cofferdam_test_guests::program("succeed");
        let component = Component::from_binary(&engine, wasm).expect("a component");
        let command = linker
            .instantiate_pre(&component)
            .and_then(CommandPre::new)
            .expect("a program");
        let start = Instant::now();
        for _ in 0..super::STARTS {
            let state = State(WasiCtx::builder().build(), ResourceTable::new());
            let mut store = Store::new(&engine, state);
            let instance = command
                .instantiate_async(&mut store)
                .await
                .expect("an instance");
            let ran = instance.wasi_cli_run().call_run(&mut store).await;
            ran.expect("it runs").expect("it succeeds");
        }
        println!(
            "steps, one after the other: {:.0} a second",
            super::STARTS as f64 / start.elapsed().as_secs_f64()
        );
    }
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

/// An archive of many files, unpacked by the plugin that ships and by GNU tar in turn. What was unpacked stays until the
/// end: on some file systems a new file costs a hundred times as much as one in the place of one that was removed.
async fn unpacking(sandbox: &Sandbox) {
    let component = sandbox
        .admit(cofferdam_plugins::UNPACK)
        .expect("it is admitted");
    let scratch = TempDir::new().expect("a temporary directory");
    let (archive, _) = tree::tree(scratch.path());
    let (mut native, mut guest) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let tar = || tree::gnu_unpack(&archive, &scratch.path().join(format!("tar-{round}")));
        // The one that comes second may find the disk busy with what the first has left.
        if round % 2 == 0 {
            native.push(Duration::from_secs_f64(tar()));
        }
        let release = scratch.path().join(format!("release-{round}"));
        fs::create_dir(&release).expect("a directory");
        let (pieces, stdin) = mpsc::channel(PIECES);
        let mut file = tokio::fs::File::open(&archive).await.expect("the archive");
        let start = Instant::now();
        let feeding = tokio::spawn(async move {
            loop {
                let mut piece = BytesMut::with_capacity(PIECE);
                let read = file.read_buf(&mut piece).await.expect("it is read");
                if read == 0 || pieces.send(Ok(piece.freeze())).await.is_err() {
                    break;
                }
            }
        });
        let step = sandbox
            .start(
                &component,
                spec(json!({})),
                vec![preopen("/release", &release)],
                Stdin::Channel(stdin),
            )
            .expect("it starts");
        let outcome = step.outcome().await.expect("it ends");
        assert!(outcome.verdict.is_success(), "{outcome:?}");
        guest.push(start.elapsed());
        feeding.await.expect("it was fed");
        if round % 2 == 1 {
            native.push(Duration::from_secs_f64(tar()));
        }
    }
    report(
        &format!("unpacking {} files, beside GNU tar", tree::TREE_FILES),
        median(native),
        median(guest),
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

fn median(times: Vec<Duration>) -> Duration {
    percentile(times, 50)
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * percent / 100]
}
