//! A server under load: pages of a long history, thousands of listeners, floods of output, small deployments, and what
//! it serves beside nginx.
//!
//! `cargo bench -p cofferdam --bench load` needs `curl`, `wrk` and `nginx` (Debian's packages of these names), 12,000 open
//! files, and about five minutes. With `wasmtime` (its command line) in the path, components are served beside it.
//! `COFFERDAM_BENCH_ONLY` names the parts to run (`pages,listeners,burst,gigabyte,small,static,component,releases`). The figures go
//! to docs/benchmarks.md.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark may stop at the first surprise"
)]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[path = "rig/client.rs"]
mod client;
#[path = "load/history.rs"]
mod history;
#[path = "load/listeners.rs"]
mod listeners;
#[path = "rig/measure.rs"]
mod measure;
#[path = "load/releasing.rs"]
mod releasing;
#[path = "rig/server.rs"]
mod server;
#[path = "load/serving.rs"]
mod serving;

use client::Client;
use measure::{MIB, median, peak, percentile, sync_latency};
use server::Server;

fn main() {
    let only = env::var("COFFERDAM_BENCH_ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|name| name == part);
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    println!(
        "sync latency of the disk: {:.2} ms (median of 50 writes of 4 KiB with fsync)",
        sync_latency(scratch)
    );
    if wanted("pages") {
        history::pages(scratch);
    }
    if wanted("listeners") {
        listeners::steady(scratch);
    }
    if wanted("burst") {
        listeners::burst(scratch);
    }
    if wanted("gigabyte") {
        gigabyte(scratch);
    }
    if wanted("small") {
        small(scratch);
    }
    if wanted("static") {
        serving::files(scratch);
    }
    if wanted("component") {
        serving::component(scratch);
    }
    if wanted("releases") {
        releasing::releases(scratch);
    }
}

/// A package of some small files, as a tar.
fn small_package(scratch: &Path) -> Vec<u8> {
    let directory = scratch.join("small");
    fs::create_dir_all(&directory).unwrap();
    for at in 0..10 {
        fs::write(
            directory.join(format!("page{at}.html")),
            format!("<p>page {at}</p>").repeat(40),
        )
        .unwrap();
    }
    let archive = scratch.join("small.tar");
    let made = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&directory)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    fs::read(archive).unwrap()
}

/// A head whose install step runs a test program.
fn head(program: &str, config: &Value) -> String {
    json!({
        "pipeline": {
            "extract": { "plugin": "unpack" },
            "install": [{ "plugin": format!("{}@0.1.0", program.replace('_', "-")), "config": config }],
            "load": { "plugin": "serve" },
        }
    })
    .to_string()
}

/// Admits one of the test programs.
fn admit(server: &Server, scratch: &Path, program: &str) {
    let name = program.replace('_', "-");
    let file = scratch.join(format!("{program}.wasm"));
    fs::write(&file, cofferdam_test_guests::program(program)).unwrap();
    server.admit(&name, &file);
}

/// A step that prints a gibibyte: what the server needs for it, and whether its log counts exactly.
fn gigabyte(scratch: &Path) {
    const LINES: u64 = 128 * 1024;
    const LINE_BYTES: u64 = 8191;
    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    admit(&server, scratch, "pour");
    let package = small_package(scratch);
    server.clear_peak();
    let start = Instant::now();
    let record = Client::new(&server).deploy(
        "pouring",
        &head("pour", &json!({ "lines": LINES, "bytes": LINE_BYTES })),
        &package,
    );
    let seconds = start.elapsed().as_secs_f64();
    let receipt = &record["steps"][1]["receipt"];
    println!(
        "\na step prints 1 GiB in {LINES} lines: {seconds:.2} s, server peak {} MiB; status {}, kept {} events, dropped {}; \
         receipt {receipt}",
        peak(server.id()) / MIB,
        record["status"],
        record["events"]["last"],
        record["events"]["dropped"],
    );
}

/// A package of ten files, from the request to the live release, all of it durable.
fn small(scratch: &Path) {
    const RUNS: usize = 60;
    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    let package = small_package(scratch);
    let mut client = Client::new(&server);
    let times: Vec<f64> = (0..RUNS)
        .map(|_| {
            // A pause as between people: the pool of workers is full again.
            std::thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            let last = client.deploy_streaming("small", &package);
            assert!(last.contains("succeeded"), "{last}");
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    println!(
        "\na package of 10 files, request to live and durable: {:.1} ms (90th percentile {:.1})",
        median(times.clone()),
        percentile(times, 0.9)
    );
}
