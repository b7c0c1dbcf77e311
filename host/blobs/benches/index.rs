//! What an index of many chunks costs: `cargo bench -p cofferdam-blobs --bench index`.
//!
//! `COFFERDAM_BENCH_CHUNKS` says how many chunks (default ten million, 640 GB of packages); the index is made in
//! `COFFERDAM_BENCH_DIR`, or the system's temporary directory, and takes about 1.5 GB there. It is filled behind the
//! store's back, in two passes over the order of the names, so that its pages are as full as those of an index
//! that grew; everything that is timed goes through the store.

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_blobs::{ChunkId, Digest, IndexProbe, Store, StoreOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection};

const CHUNKS: u64 = 10_000_000;

/// The chunks in a pack of 64 MiB.
const PACK_CHUNKS: u64 = 1024;

/// The chunks that an upload asks for at once: half a megabyte of it.
const BATCH: usize = 8;

/// How many batches are looked up, of each kind.
const LOOKUPS: u64 = 20_000;

/// How many packs are made known.
const INSERTS: u64 = 20;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let chunks: u64 = match env::var("COFFERDAM_BENCH_CHUNKS") {
        Ok(text) => text.parse()?,
        Err(_) => CHUNKS,
    };
    let directory = match env::var_os("COFFERDAM_BENCH_DIR") {
        Some(path) => tempfile::tempdir_in(path)?,
        None => tempfile::tempdir()?,
    };
    println!("{chunks} chunks in {}", directory.path().display());
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(directory.path(), chunks))
}

async fn run(directory: &Path, chunks: u64) -> Outcome {
    let index = directory.join("index.db");
    IndexProbe::open(&index).await?.close().await;
    let begun = Instant::now();
    fill(&index, chunks).await?;
    println!(
        "filled in {:.0} s: {} MB",
        begun.elapsed().as_secs_f64(),
        index.metadata()?.len() / 1_000_000
    );

    forget_pages(&index)?;
    reset_peak()?;
    for what in ["open, nothing of it in memory", "open again"] {
        let begun = Instant::now();
        let store = Store::open(directory, StoreOptions::default()).await?;
        let taken = begun.elapsed();
        println!("{what:<32} {taken:>10.2?}   goal 1 s");
        drop(store);
        settled(directory).await?;
    }
    println!(
        "peak memory of the process       {:>7} MiB   goal 256 MiB",
        status("VmHWM:")? / 1024
    );

    let probe = IndexProbe::open(&index).await?;
    for (what, is_there) in [
        ("look-ups that find", true),
        ("look-ups that find nothing", false),
    ] {
        let begun = Instant::now();
        let mut found = 0;
        for n in 0..LOOKUPS {
            let ids: Vec<ChunkId> = (0..BATCH as u64)
                .map(|m| id(scatter(n * BATCH as u64 + m) % chunks, chunks, is_there))
                .collect();
            found += black_box(probe.lookup(&ids).await?);
        }
        let taken = begun.elapsed();
        let asked = LOOKUPS * BATCH as u64;
        // Of several that are the same the index says one.
        let as_expected = if is_there { found > 0 } else { found == 0 };
        assert!(as_expected, "{found} of {asked} were found");
        println!("{what:<32} {:>10} chunks/s", rate(asked, taken));
    }
    let begun = Instant::now();
    for pack in 0..INSERTS {
        let ids: Vec<ChunkId> = (0..PACK_CHUNKS)
            .map(|n| Digest::blake3(&(pack * PACK_CHUNKS + n).to_le_bytes()))
            .collect();
        probe.insert(&ids).await?;
    }
    let taken = begun.elapsed();
    println!(
        "{:<32} {:>10} chunks/s, {:.1?} for each pack of {PACK_CHUNKS}",
        "inserts, durable",
        rate(INSERTS * PACK_CHUNKS, taken),
        taken / u32::try_from(INSERTS)?
    );
    println!(
        "peak memory of the process       {:>7} MiB   goal 256 MiB",
        status("VmHWM:")? / 1024
    );
    probe.close().await;
    Ok(())
}

/// How far apart the names of two neighbours are, in their first eight bytes.
fn step(chunks: u64) -> u64 {
    (1 << 62) / chunks.max(1)
}

/// The name of a chunk that is there; or of one that is not, right behind it.
fn id(n: u64, chunks: u64, is_there: bool) -> ChunkId {
    let step = step(chunks);
    let first = n * step + if is_there { 0 } else { step / 2 };
    let mut id = [0; 32];
    id[..8].copy_from_slice(&first.to_be_bytes());
    id[24..].copy_from_slice(&n.to_be_bytes());
    id.into()
}

/// A number that looks random (splitmix64).
fn scatter(n: u64) -> u64 {
    let word = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Fills an index with chunks, the packs that have them, and a blob in each pack that names them.
async fn fill(index: &Path, chunks: u64) -> Outcome {
    let options = SqliteConnectOptions::new()
        .filename(index)
        .journal_mode(SqliteJournalMode::Off)
        .synchronous(SqliteSynchronous::Off)
        .pragma("cache_size", "-16384");
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let packs = chunks.div_ceil(PACK_CHUNKS);
    let step = step(chunks);
    let name = format!("unhex(printf('%016x%032x%016x', i * {step}, 0, i))");
    let numbers = |from: u64, to: u64, by: u64| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + {by} FROM n WHERE i + {by} < {to})"
        )
    };
    let mut statements = vec![
        format!(
            "{} INSERT INTO pack (id, name, bytes, entries, created_at) \
             SELECT i + 1, unhex(printf('%032x', i)), {PACK_CHUNKS} * 65536, {PACK_CHUNKS}, 0 FROM n",
            numbers(0, packs, 1)
        ),
        "INSERT INTO namespace (id, name) VALUES (1, 'bench')".to_owned(),
        format!(
            "{} INSERT INTO blob SELECT unhex(printf('%032x', i)), 'bench', {PACK_CHUNKS} * 65536, \
                 {PACK_CHUNKS} * 65536, {PACK_CHUNKS}, zeroblob(32), zeroblob(32), '{{}}', 0 FROM n",
            numbers(0, packs, 1)
        ),
        format!(
            "{} INSERT INTO manifest SELECT unhex(printf('%032x', i)), 0, \
                 zeroblob(37 + 36 * {PACK_CHUNKS}), zeroblob(32) FROM n",
            numbers(0, packs, 1)
        ),
    ];
    // The second pass goes between the rows of the first, and splits their pages.
    for from in [0, 1] {
        if from >= chunks {
            continue;
        }
        let numbers = numbers(from, chunks, 2);
        statements.push(format!(
            "{numbers} INSERT INTO chunk (id, pack, offset, stored_bytes, bytes, encoding) \
             SELECT {name}, 1 + i / {PACK_CHUNKS}, 65536 * (i % {PACK_CHUNKS}), 65536, 65536, 0 FROM n"
        ));
        statements.push(format!(
            "{numbers} INSERT INTO held (namespace, chunk, uses) SELECT 1, {name}, 1 FROM n"
        ));
    }
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await?;
    }
    connection.close().await?;
    Ok(())
}

/// Waits until nobody has the dropped store open.
async fn settled(directory: &Path) -> Outcome {
    let lock = File::options().write(true).open(directory.join("lock"))?;
    while lock.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Takes a file out of the page cache, as after a start of the machine.
fn forget_pages(path: &Path) -> Outcome {
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

fn rate(count: u64, taken: Duration) -> u64 {
    count * 1_000_000 / u64::try_from(taken.as_micros()).unwrap_or(u64::MAX).max(1)
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
