//! How fast bytes go in and come out: `cargo bench -p cofferdam-blobs --bench throughput`.
//!
//! Durable figures mean little without the disk's own: its sync latency is printed beside them. The store is
//! made in the directory `COFFERDAM_BENCH_DIR`, or the system's temporary one; `COFFERDAM_BENCH_MIB` says how
//! much data (default 512).

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cofferdam_blobs::{BlobInfo, Store, StoreOptions};

#[path = "../src/testing.rs"]
mod testing;

use testing::noise;

/// As much as a socket's read gives at best.
const WRITE_BYTES: usize = 64 * 1024;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let mib: usize = match env::var("COFFERDAM_BENCH_MIB") {
        Ok(text) => text.parse()?,
        Err(_) => 512,
    };
    let directory = match env::var_os("COFFERDAM_BENCH_DIR") {
        Some(path) => tempfile::tempdir_in(path)?,
        None => tempfile::tempdir()?,
    };
    println!("{mib} MiB in {}", directory.path().display());
    sync_latency(directory.path())?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(directory.path(), mib << 20))
}

async fn run(directory: &Path, bytes: usize) -> Outcome {
    let random = Bytes::from(noise(1, bytes));
    let source = Bytes::from(source(bytes));
    let store = Store::open(directory, StoreOptions::default()).await?;
    reset_peak()?;

    let blob = timed("ingest, incompressible", bytes, ingest(&store, &random)).await?;
    timed("ingest, the same again", bytes, ingest(&store, &random)).await?;
    let text = timed("ingest, like source text", bytes, ingest(&store, &source)).await?;
    println!(
        "    stored in {:.1} % of its size",
        percent(text.stored_bytes, text.bytes)
    );
    drop(source);
    let fresh = Bytes::from(noise(7, bytes));
    timed("ingest and follow", bytes, follow(&store, &fresh)).await?;
    drop(fresh);
    timed("read, incompressible", bytes, read(&store, &blob)).await?;
    timed("read, like source text", bytes, read(&store, &text)).await?;
    let fresh = Bytes::from(noise(8, bytes));
    timed("8 ingests at once", bytes, at_once(&store, &fresh)).await?;
    drop(fresh);

    let started = Instant::now();
    for n in 0..200 {
        ingest(&store, &Bytes::from(noise(1000 + n, 1024))).await?;
    }
    let each = started.elapsed() / 200;
    println!("a blob of 1 KiB, one after the other: {each:.2?} each");
    Ok(())
}

async fn ingest(store: &Store, data: &Bytes) -> Outcome<BlobInfo> {
    let mut ingest = store.ingest("bench").await?;
    for at in (0..data.len()).step_by(WRITE_BYTES) {
        let end = data.len().min(at + WRITE_BYTES);
        ingest.write(data.slice(at..end)).await?;
    }
    Ok(ingest.finish().await?)
}

async fn follow(store: &Store, data: &Bytes) -> Outcome {
    let mut ingest = store.ingest("bench").await?;
    let mut follower = ingest.follow();
    let seen = tokio::spawn(async move {
        let mut seen = 0;
        while let Some(bytes) = follower.next().await? {
            seen += bytes.len();
        }
        Ok::<usize, cofferdam_blobs::Error>(seen)
    });
    for at in (0..data.len()).step_by(WRITE_BYTES) {
        let end = data.len().min(at + WRITE_BYTES);
        ingest.write(data.slice(at..end)).await?;
    }
    ingest.finish().await?;
    assert_eq!(seen.await??, data.len());
    Ok(())
}

async fn at_once(store: &Store, data: &Bytes) -> Outcome {
    let uploads: Vec<_> = (0..8)
        .map(|n| {
            let store = store.clone();
            let data = data.slice(data.len() / 8 * n..data.len() / 8 * (n + 1));
            tokio::spawn(async move { ingest(&store, &data).await.map_err(|e| e.to_string()) })
        })
        .collect();
    for upload in uploads {
        upload.await??;
    }
    Ok(())
}

async fn read(store: &Store, blob: &BlobInfo) -> Outcome {
    let mut reader = store.reader(blob.id).await?;
    let mut seen = 0;
    while let Some(bytes) = reader.next().await? {
        seen += bytes.len() as u64;
    }
    assert_eq!(seen, blob.bytes);
    Ok(())
}

async fn timed<T>(name: &str, bytes: usize, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    reset_peak()?;
    let (before, cpu) = (status("VmRSS:")?, cpu_seconds()?);
    let started = Instant::now();
    let outcome = work.await?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds()? - cpu;
    let peak = status("VmHWM:")?.saturating_sub(before) / 1024;
    #[expect(clippy::cast_precision_loss, reason = "a rate to three digits")]
    let rate = bytes as f64 / 1e6 / seconds;
    println!("{name:<28} {rate:7.0} MB/s  {seconds:6.2} s  cpu {cpu:5.2} s  memory +{peak} MiB");
    Ok(outcome)
}

/// Text that compresses about as well as source code does: words of a small vocabulary, and some numbers.
fn source(bytes: usize) -> Vec<u8> {
    let vocabulary: Vec<String> = noise(3, 16_000)
        .chunks(8)
        .map(|word| {
            let length = 2 + usize::from(word[0] % 7);
            word[1..]
                .iter()
                .cycle()
                .take(length)
                .map(|b| char::from(b'a' + b % 26))
                .collect()
        })
        .collect();
    let mut text = Vec::with_capacity(bytes + 64);
    for pick in noise(4, bytes).chunks(2) {
        let pick = usize::from(u16::from_le_bytes([pick[0], *pick.get(1).unwrap_or(&0)]));
        text.extend_from_slice(vocabulary[pick % vocabulary.len()].as_bytes());
        text.push(if pick % 11 == 0 { b'\n' } else { b' ' });
        if text.len() >= bytes {
            break;
        }
    }
    text.truncate(bytes);
    text
}

/// What one sync of 4 KiB costs on this disk.
fn sync_latency(directory: &Path) -> Outcome {
    let path = directory.join("sync");
    let mut file = File::create(&path)?;
    let mut taken: Vec<Duration> = Vec::new();
    for _ in 0..50 {
        file.write_all(&[0x55; 4096])?;
        let started = Instant::now();
        file.sync_all()?;
        taken.push(started.elapsed());
    }
    taken.sort_unstable();
    println!(
        "sync of 4 KiB: median {:.2?}, worst of {} {:.2?}",
        taken[taken.len() / 2],
        taken.len(),
        taken[taken.len() - 1]
    );
    let started = Instant::now();
    file.write_all(&noise(9, 64 << 20))?;
    file.sync_all()?;
    println!("write and sync of 64 MiB: {:.0?}", started.elapsed());
    Ok(fs::remove_file(path)?)
}

/// A figure of this process, in KiB.
fn status(field: &str) -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .ok_or("no such field in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn reset_peak() -> Outcome {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

/// User and system time of this process, from /proc, whose unit is 10 ms.
fn cpu_seconds() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "a percentage to three digits")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}
