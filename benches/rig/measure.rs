//! What a benchmark reads off the machine: processes' time and memory, bytes on disk, the disk's own latency.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Instant;

pub(crate) const MIB: u64 = 1 << 20;

/// Clock ticks in a second, as Linux shows times to programs: a constant of its interface.
const TICKS: f64 = 100.0;

/// The median time of a small synced write, in milliseconds.
pub(crate) fn sync_latency(directory: &Path) -> f64 {
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

/// Seconds of both kinds that a process and those of its children that are gone have spent.
pub(crate) fn cpu_of(process: u32) -> f64 {
    times(&format!("/proc/{process}/stat"), 11..15)
}

/// Seconds that this program's children have spent which are gone.
pub(crate) fn cpu_of_children() -> f64 {
    times("/proc/self/stat", 13..15)
}

/// Adds fields of a `stat` file, counted from the one after the name in parentheses.
fn times(path: &str, fields: std::ops::Range<usize>) -> f64 {
    let stat = fs::read_to_string(path).unwrap();
    let (_, after) = stat.rsplit_once(") ").unwrap();
    after
        .split_whitespace()
        .skip(fields.start)
        .take(fields.len())
        .map(|field| field.parse::<f64>().unwrap())
        .sum::<f64>()
        / TICKS
}

/// The most memory that a process had, in bytes.
pub(crate) fn peak(process: u32) -> u64 {
    peak_of_running(process).unwrap()
}

pub(crate) fn peak_of_running(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// What a directory takes on disk, in bytes.
pub(crate) fn stored_bytes(directory: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += if metadata.is_dir() {
            stored_bytes(&entry.path())
        } else {
            metadata.blocks() * 512
        };
    }
    bytes
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value that this share of all values does not exceed.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a list that is in memory"
)]
pub(crate) fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values[at.min(values.len() - 1)]
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a rate needs no more than 52 bits"
)]
pub(crate) fn mb_per_s(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / 1e6 / seconds
}
