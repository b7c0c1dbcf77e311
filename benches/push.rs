//! Packages on their way into the store, beside other people's stores in the same run.
//!
//! `cargo bench -p cofferdam --bench push` needs `curl`, `docker-registry`, `restic` and `casync` (Debian's packages of
//! these names), and about 16 GiB in the directory for temporary files for some minutes. The real source tree is cargo's
//! own registry of sources, or the directory `COFFERDAM_BENCH_TREE`. `COFFERDAM_BENCH_ONLY` names the parts to run
//! (`cold,edited,many,parallel,read,large`). The figures go to docs/benchmarks.md.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark may stop at the first surprise"
)]

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[path = "rig/measure.rs"]
mod measure;
#[path = "rig/peers.rs"]
mod peers;
#[path = "rig/server.rs"]
mod server;
#[path = "rig/tree.rs"]
mod tree;

use measure::{MIB, cpu_of, cpu_of_children, mb_per_s, median, peak, stored_bytes, sync_latency};
use peers::{Registry, casync, restic, sha256};
use server::Server;
use tree::Noise;

/// Runs of each side of a comparison, interleaved.
const RUNS: usize = 3;

/// The files that change between the first and the second push of a tree.
const EDITED_FILES: usize = 40;

fn main() {
    let only = env::var("COFFERDAM_BENCH_ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|name| name == part);
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    println!(
        "sync latency of the disk: {:.2} ms (median of 50 writes of 4 KiB with fsync)",
        sync_latency(scratch)
    );
    let noise = noise_file(scratch, "noise.bin", 1024);
    let tree = source_tree(scratch);
    let archive = tarred(scratch, &tree, "source.tar");
    let small = small_files(scratch);

    if wanted("cold") {
        cold(scratch, "1 GiB of incompressible bytes", &noise);
        cold(scratch, "a real source tree", &archive);
    }
    if wanted("many") {
        cold(scratch, "10,000 files of 1 KiB", &small);
    }
    if wanted("edited") {
        edited(scratch, &tree);
    }
    if wanted("parallel") {
        parallel(scratch);
    }
    if wanted("read") {
        read_back(scratch, &noise);
    }
    if wanted("large") {
        fs::remove_file(&noise).unwrap();
        let large = noise_file(scratch, "large.bin", 4096);
        large_push(scratch, &large);
    }
}

/// One file into an empty store: the server's answer means durable, docker-registry's that it has the bytes.
fn cold(scratch: &Path, what: &str, file: &Path) {
    let bytes = fs::metadata(file).unwrap().len();
    println!("\ncold push of {what} ({} MiB)", bytes / MIB);
    sha256(file);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut last = String::new();
    for run in 0..RUNS {
        let registry = Registry::start(&scratch.join("registry"));
        let before = cpu_of(registry.id());
        let start = Instant::now();
        registry.push(file);
        theirs.push(start.elapsed().as_secs_f64());
        let registry_cpu = cpu_of(registry.id()) - before;
        let registry_stored = stored_bytes(&scratch.join("registry"));
        let registry_peak = peak(registry.id());
        drop(registry);

        let server = Server::start(&scratch.join("data"));
        server.warm(scratch);
        server.clear_peak();
        let stored = stored_bytes(&server.blobs());
        let (before, client) = (cpu_of(server.id()), cpu_of_children());
        let start = Instant::now();
        server.upload(file);
        ours.push(start.elapsed().as_secs_f64());
        let cpu = cpu_of(server.id()) - before;
        last = format!(
            "  run {run}: CPU {cpu:.2} s (client {:.2}) against {registry_cpu:.2} s; stored {} against {} MiB; \
             peak {} against {} MiB",
            cpu_of_children() - client,
            (stored_bytes(&server.blobs()) - stored) / MIB,
            registry_stored / MIB,
            peak(server.id()) / MIB,
            registry_peak / MIB,
        );
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "  cofferdam {:.0} MB/s ({ours:.2} s), docker-registry {:.0} MB/s ({theirs:.2} s): {:.2} times its speed",
        mb_per_s(bytes, ours),
        mb_per_s(bytes, theirs),
        theirs / ours,
    );
    println!("{last}");
}

/// A tree that was pushed before, with some files edited since.
fn edited(scratch: &Path, tree: &Path) {
    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    let (restic_store, casync_store) = (scratch.join("restic"), scratch.join("casync"));
    restic::init(&restic_store);
    server.deploy(tree, "tree");
    restic::push(&restic_store, tree);
    casync::push(&casync_store, tree, "first");

    let (mut ours, mut by_restic, mut by_casync) = (Vec::new(), Vec::new(), Vec::new());
    let mut lines = Vec::new();
    for run in 0..RUNS {
        let changed = edit(tree, run);
        let before = stored_bytes(&restic_store);
        let start = Instant::now();
        restic::push(&restic_store, tree);
        by_restic.push(start.elapsed().as_secs_f64());
        let restic_sent = stored_bytes(&restic_store) - before;

        let before = stored_bytes(&casync_store);
        let start = Instant::now();
        casync::push(&casync_store, tree, &format!("run{run}"));
        by_casync.push(start.elapsed().as_secs_f64());
        let casync_sent = stored_bytes(&casync_store) - before;

        let (before, client) = (cpu_of(server.id()), cpu_of_children());
        let start = Instant::now();
        let deployed = server.push(tree, "tree");
        ours.push(start.elapsed().as_secs_f64());
        lines.push(format!(
            "  run {run}: edited {changed} bytes; sent: cofferdam {} ({:.2} times), restic stored {restic_sent}, casync \
             {casync_sent}; CPU {:.2} s, client {:.2} s, client peak {} MiB",
            deployed.sent,
            ratio(deployed.sent, changed),
            cpu_of(server.id()) - before,
            cpu_of_children() - client,
            deployed.client_peak / MIB,
        ));
        server.idle();
    }
    let (ours, by_restic, by_casync) = (median(ours), median(by_restic), median(by_casync));
    println!("\nsecond push of the source tree with {EDITED_FILES} files edited");
    println!(
        "  cofferdam {ours:.2} s, restic {by_restic:.2} s ({:.1} times as long), casync {by_casync:.2} s ({:.1} times)",
        by_restic / ours,
        by_casync / ours
    );
    lines.iter().for_each(|line| println!("{line}"));
}

/// Eight files at once.
fn parallel(scratch: &Path) {
    let files: Vec<PathBuf> = (0..8)
        .map(|at| noise_file(scratch, &format!("part{at}.bin"), 128))
        .collect();
    let bytes = 8 * 128 * MIB;
    files.iter().for_each(|file| drop(sha256(file)));
    let registry = Registry::start(&scratch.join("registry"));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for file in &files {
            scope.spawn(|| registry.push(file));
        }
    });
    let theirs = start.elapsed().as_secs_f64();
    drop(registry);

    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    server.clear_peak();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for file in &files {
            scope.spawn(|| server.upload(file));
        }
    });
    let ours = start.elapsed().as_secs_f64();
    println!(
        "\n8 pushes of 128 MiB at once: cofferdam {:.0} MB/s, docker-registry {:.0} MB/s: {:.2} times; server peak {} MiB",
        mb_per_s(bytes, ours),
        mb_per_s(bytes, theirs),
        theirs / ours,
        peak(server.id()) / MIB,
    );
    for file in files {
        fs::remove_file(file).unwrap();
    }
}

/// A stored package, downloaded; every chunk is verified on the way.
fn read_back(scratch: &Path, file: &Path) {
    let bytes = fs::metadata(file).unwrap().len();
    let registry = Registry::start(&scratch.join("registry"));
    registry.push(file);
    let theirs = median((0..RUNS).map(|_| registry.pull()).collect());
    drop(registry);
    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    let package = tarred_file(scratch, file);
    let id = server.deploy(&package, "blob").id;
    server.clear_peak();
    let ours = median((0..RUNS).map(|_| server.download(&id)).collect());
    println!(
        "\nread back and verified: cofferdam {:.0} MB/s, docker-registry (unverified) {:.0} MB/s; server peak {} MiB",
        mb_per_s(bytes, ours),
        mb_per_s(bytes, theirs),
        peak(server.id()) / MIB,
    );
    fs::remove_file(package).unwrap();
}

/// Memory at a size that no buffer holds by chance.
fn large_push(scratch: &Path, file: &Path) {
    let bytes = fs::metadata(file).unwrap().len();
    let directory = scratch.join("large");
    fs::create_dir(&directory).unwrap();
    fs::rename(file, directory.join("large.bin")).unwrap();
    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    server.clear_peak();
    let start = Instant::now();
    let pushed = server.push(&directory, "large");
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "\n4 GiB by `cofferdam deploy`: {:.0} MB/s to durable; peak: server {} MiB, client {} MiB",
        mb_per_s(bytes, seconds),
        peak(server.id()) / MIB,
        pushed.client_peak / MIB,
    );
    server.idle();
}

fn noise_file(scratch: &Path, name: &str, mib: u64) -> PathBuf {
    let path = scratch.join(name);
    let mut file = File::create(&path).unwrap();
    let mut noise = Noise::new(name);
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..mib {
        noise.fill(&mut buffer);
        file.write_all(&buffer).unwrap();
    }
    path
}

/// A copy of the real tree, which may be edited.
fn source_tree(scratch: &Path) -> PathBuf {
    let from = env::var_os("COFFERDAM_BENCH_TREE").map_or_else(
        || {
            let home = env::var_os("CARGO_HOME").map_or_else(
                || Path::new(&env::var_os("HOME").unwrap()).join(".cargo"),
                PathBuf::from,
            );
            home.join("registry/src")
        },
        PathBuf::from,
    );
    let to = scratch.join("source");
    run(Command::new("cp").arg("-r").arg(from).arg(&to));
    to
}

fn tarred(scratch: &Path, tree: &Path, name: &str) -> PathBuf {
    let archive = scratch.join(name);
    run(Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(tree)
        .arg("."));
    archive
}

fn tarred_file(scratch: &Path, file: &Path) -> PathBuf {
    let archive = scratch.join("file.tar");
    let name = file.file_name().unwrap();
    run(Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(scratch)
        .arg(name));
    archive
}

fn small_files(scratch: &Path) -> PathBuf {
    let tree = scratch.join("small");
    let mut noise = Noise::new("small");
    let mut bytes = vec![0; 1024];
    for at in 0..10_000 {
        let directory = tree.join(format!("d{:02}", at / 100));
        fs::create_dir_all(&directory).unwrap();
        noise.fill(&mut bytes);
        fs::write(directory.join(format!("f{at}")), &bytes).unwrap();
    }
    let archive = tarred(scratch, &tree, "small.tar");
    fs::remove_dir_all(tree).unwrap();
    archive
}

/// Appends a line to files spread over the tree, and says how many bytes the edited files have in all.
fn edit(tree: &Path, run: usize) -> u64 {
    let mut files = Vec::new();
    list(tree, &mut files);
    files.sort();
    let step = files.len() / EDITED_FILES;
    let mut changed = 0;
    for path in files.iter().skip(run * 7).step_by(step).take(EDITED_FILES) {
        let mut file = File::options().append(true).open(path).unwrap();
        writeln!(file, "// edited in run {run}").unwrap();
        changed += file.metadata().unwrap().len();
    }
    changed
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            list(&entry.path(), files);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a ratio needs no more than 52 bits"
)]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
