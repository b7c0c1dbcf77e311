//! Accepting connections and speaking HTTP/1.1 on them, for the API and for the ingress alike.
//!
//! Whatever a peer does, it costs a bounded amount: there are so many connections and no more, a head
//! that does not arrive ends the connection, a peer that does not read its answer is dropped
//! ([`stream::PeerStream`]), and an answer that is sent while the peer still sends reaches it, because a
//! closing connection lingers and discards what comes.

mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};
use tracing::{debug, info, warn};

use self::stream::PeerStream;

/// How long a request's head may take, and how long a kept-alive connection may stay idle. A browser
/// keeps connections for minutes; opening a new one costs it a round trip, keeping it costs us a slot.
const HEADER_READ: Duration = Duration::from_secs(30);

/// How long a peer may take none of the bytes we have for it. Longer than the heartbeat of an event
/// stream, and long enough for a laptop's radio to come back.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// The size of a request's head, which is also the largest piece in which a body is read: a
/// `Cofferdam-Head` with a long pipeline fits, and a body is read in few calls.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The most connections of one listener at a time. An idle one costs about 10 KiB, so that this many fit
/// beside everything else; more wait in the kernel's queue.
const MAX_CONNECTIONS: u64 = 8192;

/// The descriptors that are kept for everything but connections: packs, logs, the ledger, the steps'
/// directories. A server that runs out of them fails deployments; one that is out of connections makes
/// its clients wait.
const RESERVED_DESCRIPTORS: u64 = 512;

/// What a connection may need: there are two listeners, and one may have a file open for its answer.
const DESCRIPTORS_PER_CONNECTION: u64 = 4;

/// Connections of one listener that are taken even where descriptors are scarce.
const MIN_CONNECTIONS: u64 = 64;

/// How long requests in flight may take once the server was asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// How long to wait before accepting again when the process has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the connections of one listener may cost.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimits {
    /// The time for a request's head, and the idle time between requests.
    pub(crate) header_read: Duration,
    /// The time in which a peer must take at least one byte of what is sent to it.
    pub(crate) write_stall: Duration,
    /// The bytes of a request's head.
    pub(crate) max_head_bytes: usize,
    /// The connections at a time.
    pub(crate) connections: usize,
    /// The time for requests in flight after the shutdown began.
    pub(crate) drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            header_read: HEADER_READ,
            write_stall: WRITE_STALL,
            max_head_bytes: MAX_HEAD_BYTES,
            connections: affordable_connections(),
            drain: DRAIN,
        }
    }
}

/// How many connections of one listener the process has descriptors for.
fn affordable_connections() -> usize {
    let most = rustix::process::getrlimit(Resource::Nofile).current;
    let spare = most.map_or(u64::MAX, |most| most.saturating_sub(RESERVED_DESCRIPTORS));
    let affordable = (spare / DESCRIPTORS_PER_CONNECTION).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
    usize::try_from(affordable).expect("it is at most MAX_CONNECTIONS")
}

/// Lifts the process's limit on descriptors as far as it may without privileges. The usual limit of 1024
/// is there for programs that use select(2).
pub(crate) fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        debug!(%error, ?limit, "the limit on descriptors stays");
    }
}

/// The address of the peer, in the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Serves `service` on `listener` until `shutdown` is cancelled and the connections have drained.
///
/// Connections that are still busy when the drain time is over are dropped.
pub(crate) async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let force = CancellationToken::new();
    while let Some((stream, peer, slot)) = accept(&listener, &slots, &shutdown).await {
        let connection = Connection {
            stream,
            peer,
            limits: limits.clone(),
            shutdown: shutdown.clone(),
        };
        let (service, force) = (service.clone(), force.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection.run(service) => {}
                () = force.cancelled() => debug!(%peer, "dropped a connection that did not drain"),
            }
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait())
        .await
        .is_err()
    {
        info!(
            connections = connections.len(),
            "requests did not finish in time and are dropped"
        );
        force.cancel();
        connections.wait().await;
    }
}

/// The next connection, with the slot it occupies; nothing once the shutdown has begun.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = tokio::select! {
        slot = Arc::clone(slots).acquire_owned() => slot.expect("the semaphore is never closed"),
        () = shutdown.cancelled() => return None,
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return None,
        };
        match accepted {
            Ok((stream, peer)) => return Some((stream, peer, slot)),
            Err(error) if is_the_peers(&error) => debug!(%error, "a connection failed early"),
            Err(error) => {
                warn!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an error of accept(2) is about that one connection and not about us.
fn is_the_peers(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run<S, B>(self, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self {
            stream,
            peer,
            limits,
            shutdown,
        } = self;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "cannot switch off Nagle's algorithm");
        }
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            service.clone().oneshot(request)
        });
        // The timer is what makes the header timeout real: without one hyper never checks it.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read)
            .max_buf_size(limits.max_head_bytes)
            .serve_connection(
                TokioIo::new(PeerStream::new(stream, limits.write_stall)),
                service,
            );
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "a connection ended early");
        }
    }
}
