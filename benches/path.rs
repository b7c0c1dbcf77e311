//! The whole path, measured with the real binary: an upload of 1 GiB, and a tree of 20,000 files unpacked
//! beside GNU tar in the same run.
//!
//! `cargo bench -p cofferdam --bench path` (about 8 GiB of disk for a few minutes, in the directory for
//! temporary files; `TMPDIR=/dev/shm` measures without a disk). The figures go to docs/benchmarks.md.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark may stop at the first surprise"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

#[path = "rig/measure.rs"]
mod measure;
#[path = "rig/server.rs"]
mod server;
#[path = "rig/tree.rs"]
mod tree;

use measure::{MIB, mb_per_s, median, peak, sync_latency};
use server::Server;
use tree::{Noise, TREE_FILES, gnu_unpack};

/// The upload: one file of incompressible bytes.
const UPLOAD_BYTES: u64 = 1 << 30;

/// Runs of each side of the comparison, interleaved.
const RUNS: usize = 5;

fn main() {
    let scratch = tempfile::tempdir().unwrap();
    println!(
        "sync latency of the disk: {:.2} ms (median of 50 writes of 4 KiB with fsync)",
        sync_latency(scratch.path())
    );
    upload(scratch.path());
    unpack(scratch.path());
}

fn upload(scratch: &Path) {
    let package = scratch.join("upload");
    fs::create_dir(&package).unwrap();
    let mut noise = Noise::new("upload");
    let mut file = File::create(package.join("data.bin")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..UPLOAD_BYTES / MIB {
        noise.fill(&mut buffer);
        file.write_all(&buffer).unwrap();
    }
    drop(file);

    let server = Server::start(&scratch.join("upload-data"));
    server.warm(scratch);
    server.clear_peak();
    let start = Instant::now();
    let run = server.deploy(&package, "upload");
    let total = start.elapsed().as_secs_f64();
    println!(
        "upload of {} MiB to live: {:.0} MB/s ({total:.2} s); peak memory: server {} MiB, client {} MiB",
        UPLOAD_BYTES / MIB,
        mb_per_s(UPLOAD_BYTES, total),
        peak(server.id()) / MIB,
        run.client_peak / MIB,
    );
}

fn unpack(scratch: &Path) {
    let (archive, bytes) = tree::tree(scratch);
    let server = Server::start(&scratch.join("unpack-data"));
    server.warm(scratch);
    let (mut peer, mut ours, mut to_live) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        // What was unpacked stays until the end, as a release does: on some file systems a new inode costs a hundred times
        // as much as one that was freed a moment ago.
        peer.push(gnu_unpack(&archive, &scratch.join(format!("out-{run}"))));
        let start = Instant::now();
        let run = server.deploy(&archive, "tree");
        to_live.push(start.elapsed().as_secs_f64());
        ours.push(run.extract_seconds.unwrap());
    }
    let (peer, ours, to_live) = (median(peer), median(ours), median(to_live));
    println!(
        "unpack of {TREE_FILES} files, {} MiB: extract step {ours:.2} s, GNU tar {peer:.2} s, ratio {:.2}; \
         upload, unpack, freeze and durable release together {to_live:.2} s (medians of {RUNS})",
        bytes / MIB,
        ours / peer,
    );
}
