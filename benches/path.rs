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
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const MIB: u64 = 1 << 20;

/// The upload: one file of incompressible bytes.
const UPLOAD_BYTES: u64 = 1 << 30;

/// The tree: this many files of mixed sizes in directories of a hundred.
const TREE_FILES: u64 = 20_000;

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

/// The median time of a small synced write, in milliseconds.
fn sync_latency(directory: &Path) -> f64 {
    let file = File::create(directory.join("sync")).unwrap();
    let times = (0..50)
        .map(|at| {
            let start = Instant::now();
            file.write_at(&[7; 4096], at * 4096).unwrap();
            file.sync_all().unwrap();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    median(times)
}

fn upload(scratch: &Path) {
    let package = scratch.join("upload");
    fs::create_dir(&package).unwrap();
    let mut noise = Noise::new();
    let mut file = File::create(package.join("data.bin")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..UPLOAD_BYTES / MIB {
        noise.fill(&mut buffer);
        file.write_all(&buffer).unwrap();
    }
    drop(file);

    let server = Server::start(&scratch.join("upload-data"));
    server.warm(scratch);
    fs::write(format!("/proc/{}/clear_refs", server.child.id()), "5").unwrap();
    let start = Instant::now();
    let run = server.deploy(&package, "upload");
    let total = start.elapsed();
    println!(
        "upload of {} MiB to live: {:.0} MB/s ({:.2} s); peak memory: server {} MiB, client {} MiB",
        UPLOAD_BYTES / MIB,
        mb_per_s(UPLOAD_BYTES, total),
        total.as_secs_f64(),
        peak(server.child.id()) / MIB,
        run.client_peak / MIB,
    );
}

fn unpack(scratch: &Path) {
    let tree = scratch.join("tree");
    let bytes = make_tree(&tree);
    let archive = scratch.join("tree.tar");
    let made = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&tree)
        .arg(".")
        .status()
        .unwrap();
    assert!(made.success(), "GNU tar is needed for the comparison");

    let server = Server::start(&scratch.join("unpack-data"));
    server.warm(scratch);
    let mut peer = Vec::new();
    let mut ours = Vec::new();
    let mut to_live = Vec::new();
    for run in 0..RUNS {
        let out = scratch.join(format!("out-{run}"));
        fs::create_dir(&out).unwrap();
        let start = Instant::now();
        let done = Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&out)
            .status()
            .unwrap();
        assert!(done.success());
        peer.push(start.elapsed().as_secs_f64());
        // It stays until the end, as a release does: on some file systems a new inode costs a hundred times
        // as much as one that was freed a moment ago.

        let start = Instant::now();
        let run = server.deploy(&archive, "tree");
        to_live.push(start.elapsed().as_secs_f64());
        ours.push(run.extract_seconds);
    }
    let (peer, ours, to_live) = (median(peer), median(ours), median(to_live));
    println!(
        "unpack of {TREE_FILES} files, {} MiB: extract step {ours:.2} s, GNU tar {peer:.2} s, ratio {:.2}; \
         upload, unpack, freeze and durable release together {to_live:.2} s (medians of {RUNS})",
        bytes / MIB,
        ours / peer,
    );
}

/// Files from 100 bytes to 64 KiB, many small ones and few large ones, as in a tree of sources.
fn make_tree(root: &Path) -> u64 {
    let mut noise = Noise::new();
    let mut total = 0;
    for at in 0..TREE_FILES {
        let directory = root.join(format!("d{:03}", at / 100));
        fs::create_dir_all(&directory).unwrap();
        let exponent = noise.next() % 10;
        let size = 100 + noise.next() % (64 << exponent);
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        noise.fill(&mut bytes);
        // Half of each file repeats, so that compression has something to do.
        let half = bytes.len() / 2;
        bytes[half..].fill(b'x');
        fs::write(directory.join(format!("f{at}.txt")), bytes).unwrap();
        total += size;
    }
    total
}

struct Server {
    child: Child,
    api: String,
    data: PathBuf,
}

struct Deployed {
    /// From the start of the extract step to its receipt, in seconds.
    extract_seconds: f64,
    client_peak: u64,
}

impl Server {
    fn start(data: &Path) -> Self {
        let mut child = cofferdam()
            .args([
                "serve",
                "--api",
                "127.0.0.1:0",
                "--ingress",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let api = stderr
            .by_ref()
            .map(Result::unwrap)
            .filter(|line| {
                line.split_whitespace()
                    .any(|word| word.trim_end_matches(':') == "api")
            })
            .find_map(|line| {
                line.split_whitespace()
                    .find(|word| word.starts_with("http://"))
                    .map(str::to_owned)
            })
            .unwrap();
        std::thread::spawn(move || stderr.for_each(drop));
        Self {
            child,
            api,
            data: data.to_owned(),
        }
    }

    /// One small deployment, so that every plugin is compiled and in memory.
    fn warm(&self, scratch: &Path) {
        let package = scratch.join("warm");
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join("index.html"), "<h1>warm</h1>").unwrap();
        self.deploy(&package, "warm");
    }

    fn deploy(&self, package: &Path, project: &str) -> Deployed {
        let token = fs::read_to_string(self.data.join("admin.token")).unwrap();
        let mut client = cofferdam()
            .args(["deploy", "--json", "--project", project])
            .arg(package)
            .env("COFFERDAM_URL", &self.api)
            .env("COFFERDAM_TOKEN", token.trim())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let id = client.id();
        let mut client_peak = 0;
        let mut started = None;
        let mut ended = None;
        for line in BufReader::new(client.stdout.take().unwrap()).lines() {
            let Ok(event) = serde_json::from_str::<Value>(&line.unwrap()) else {
                continue;
            };
            client_peak = peak_of_running(id).unwrap_or(client_peak);
            if event["step"] == "extract" {
                match event["kind"].as_str() {
                    Some("phase") => started = Some(moment(&event)),
                    Some("receipt") => ended = Some(moment(&event)),
                    _ => {}
                }
            }
        }
        assert!(client.wait().unwrap().success());
        Deployed {
            extract_seconds: (ended.unwrap() - started.unwrap()) / 1e3,
            client_peak,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.data);
    }
}

fn cofferdam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Milliseconds within the day of an event's `at` (`...T12:34:56.789Z`); runs over midnight are not made.
fn moment(event: &Value) -> f64 {
    let at = event["at"].as_str().unwrap();
    let time = at.split_once('T').unwrap().1.trim_end_matches('Z');
    let mut parts = time.split(':').map(|part| part.parse::<f64>().unwrap());
    let (hours, minutes, seconds) = (
        parts.next().unwrap(),
        parts.next().unwrap(),
        parts.next().unwrap(),
    );
    ((hours * 60.0 + minutes) * 60.0 + seconds) * 1e3
}

fn peak(process: u32) -> u64 {
    peak_of_running(process).unwrap()
}

fn peak_of_running(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a rate needs no more than 52 bits"
)]
fn mb_per_s(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// Bytes that do not compress: xorshift64*, the same in every run.
struct Noise(u64);

impl Noise {
    fn new() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let value = self.next().to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }
}
