//! Thousands of listeners on one deployment.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::measure::{MIB, cpu_of, peak, percentile};
use crate::server::Server;
use crate::{admit, head, small_package};

const LISTENERS: usize = 5000;

/// Of so many listeners each event's delay is taken; the others only read.
const SAMPLED: usize = 50;

/// How the last event of a stream begins, and the one that says that it is not the last.
const DONE: [&[u8]; 2] = [b"event: done\n", b"event:done\n"];
const RESYNC: [&[u8]; 2] = [b"event: resync\n", b"event:resync\n"];

/// How one listener reads.
#[derive(Clone, Copy)]
enum Pace {
    /// As fast as it can.
    Eager,
    /// Not before the eager ones have seen the end.
    Late,
}

/// What the listeners have seen.
#[derive(Default)]
struct Seen {
    bytes: AtomicU64,
    resyncs: AtomicU64,
    ended: AtomicU64,
    /// An eager listener has seen the end.
    over: AtomicBool,
}

/// A line every 10 ms for a minute.
pub(crate) fn steady(scratch: &Path) {
    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    admit(&server, scratch, "print_slowly");
    let config = json!({ "lines": 6000, "pause_ms": 10 });
    let id = Client::new(&server).begin(
        "printing",
        &head("print_slowly", &config),
        &small_package(scratch),
    );
    server.clear_peak();
    let before = cpu_of(server.id());
    let start = Instant::now();
    let (lags, seen) = listen(&server, &id, LISTENERS, |_| Pace::Eager);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "\n{LISTENERS} listeners, 100 lines a second for {seconds:.0} s: {} events timed, delay at the median {:.0} ms, 99th \
         percentile {:.0} ms; {} MiB delivered, {} told to resync, {} saw the end; server: peak {} MiB, CPU {:.0} s",
        lags.len(),
        percentile(lags.clone(), 0.5),
        percentile(lags, 0.99),
        seen.bytes.load(Ordering::Relaxed) / MIB,
        seen.resyncs.load(Ordering::Relaxed),
        seen.ended.load(Ordering::Relaxed),
        peak(server.id()) / MIB,
        cpu_of(server.id()) - before,
    );
}

/// A hundred thousand lines at once, while some listeners do not read.
pub(crate) fn burst(scratch: &Path) {
    let server = Server::start(&scratch.join("data"));
    server.warm(scratch);
    admit(&server, scratch, "flood");
    let config = json!({ "lines": 100_000, "bytes": 80 });
    let id =
        Client::new(&server).begin("flooding", &head("flood", &config), &small_package(scratch));
    server.clear_peak();
    let (_, seen) = listen(&server, &id, 1000, |at| {
        if at % 2 == 0 { Pace::Eager } else { Pace::Late }
    });
    println!(
        "\na burst of 100,000 lines to 500 eager listeners and 500 that did not read: {} MiB delivered, {} told to resync, {} saw the end; \
         server peak {} MiB",
        seen.bytes.load(Ordering::Relaxed) / MIB,
        seen.resyncs.load(Ordering::Relaxed),
        seen.ended.load(Ordering::Relaxed),
        peak(server.id()) / MIB,
    );
}

fn listen(
    server: &Server,
    id: &str,
    listeners: usize,
    pace: impl Fn(usize) -> Pace,
) -> (Vec<f64>, Arc<Seen>) {
    let address: SocketAddr = server.api.strip_prefix("http://").unwrap().parse().unwrap();
    let request: Arc<str> = format!(
        "GET /v1/deployments/{id}/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nAccept: text/event-stream\r\n\r\n",
        server.token
    )
    .into();
    let seen = Arc::new(Seen::default());
    let lags = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let mut tasks = JoinSet::new();
            for at in 0..listeners {
                let (request, seen) = (request.clone(), seen.clone());
                tasks.spawn(one(address, request, seen, at < SAMPLED, pace(at)));
                if at % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let mut lags = Vec::new();
            while let Some(one) = tasks.join_next().await {
                lags.extend(one.unwrap());
            }
            lags
        });
    (lags, seen)
}

/// Reads one stream to its end; the delays in milliseconds, when they are asked for.
async fn one(
    address: SocketAddr,
    request: Arc<str>,
    seen: Arc<Seen>,
    sampled: bool,
    pace: Pace,
) -> Vec<f64> {
    let mut lags = Vec::new();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    // What was recorded before this listener came is no delay.
    let joined = now() + 1000.0;
    let mut text = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let deadline = Instant::now() + Duration::from_secs(120);
    // What the last read ended with: a word may come in two parts.
    let mut recent = Vec::new();
    let mut has_ended = false;
    while Instant::now() < deadline && !has_ended {
        if matches!(pace, Pace::Late) && !seen.over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            break;
        }
        seen.bytes.fetch_add(count as u64, Ordering::Relaxed);
        let read = &buffer[..count];
        recent.extend_from_slice(read);
        if has(&recent, RESYNC) {
            seen.resyncs.fetch_add(1, Ordering::Relaxed);
            has_ended = true;
        } else if has(&recent, DONE) {
            seen.ended.fetch_add(1, Ordering::Relaxed);
            seen.over.store(true, Ordering::Relaxed);
            has_ended = true;
        }
        recent.drain(..recent.len().saturating_sub(32));
        if sampled {
            text.extend_from_slice(read);
            let until = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
            let arrived = now();
            for line in text[..until].split(|byte| *byte == b'\n') {
                if let Some(at) = moment(line).filter(|at| *at > joined) {
                    lags.push((arrived - at).max(0.0));
                }
            }
            text.drain(..until);
        }
    }
    lags
}

fn has(read: &[u8], event: [&[u8]; 2]) -> bool {
    event
        .iter()
        .any(|event| memchr::memmem::find(read, event).is_some())
}

/// Milliseconds since the epoch.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
        * 1e3
}

/// When an event was recorded, in milliseconds since the epoch.
fn moment(line: &[u8]) -> Option<f64> {
    let data = line.strip_prefix(b"data:")?;
    let at = memchr::memmem::find(data, b"\"at\":\"")? + 6;
    let text = std::str::from_utf8(data.get(at..at + 24)?).ok()?;
    let time: jiff::Timestamp = text.parse().ok()?;
    #[allow(
        clippy::cast_precision_loss,
        reason = "milliseconds of this century fit"
    )]
    Some(time.as_millisecond() as f64)
}
