//! Accepting connections and speaking HTTP/1.1 and HTTP/2 on them, with and without TLS, for the API and for
//! the ingress alike.
//!
//! Whatever a peer does, it costs a bounded amount: there are so many connections and no more, and the
//! oldest idle ones make room for new ones ([`activity`]); a handshake or a head that does not arrive ends the
//! connection ([`protocol`]); a peer that does not read its answer is dropped ([`stream::PeerStream`]); and an
//! answer that is sent while the peer still sends reaches it, because a closing connection lingers and discards
//! what comes.

mod activity;
mod protocol;
mod stream;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use rustix::process::{Resource, Rlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};
use tracing::{debug, info, warn};

pub(crate) use self::activity::ConnectionFigures;
use self::activity::{Activity, IdleConnections, Tracked};
use self::protocol::Protocol;
use self::stream::PeerStream;
use crate::tls::Tls;

/// How long a request's head may take, and how long a kept-alive connection may stay idle. A browser
/// keeps connections for minutes; opening a new one costs it a round trip, keeping it costs us a slot.
const HEADER_READ: Duration = Duration::from_secs(30);

/// How long a peer may take none of the bytes we have for it. Longer than the heartbeat of an event
/// stream, and long enough for a laptop's radio to come back.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// How long a TLS handshake may take: three round trips over the worst link that people have.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The size of a request's head, which is also the largest piece in which a body is read: a
/// `Cofferdam-Head` with a long pipeline fits, and a body is read in few calls.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The most connections of one listener at a time. An idle one costs about 10 KiB, so that this many fit
/// beside everything else; more wait in the kernel's queue.
const MAX_CONNECTIONS: u64 = 8192;

/// The share of the connections that may be idle, in quarters: the rest is there for requests, and when more are
/// idle the oldest of them is closed.
const IDLE_QUARTERS: usize = 3;

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
    /// Those of them that may be idle.
    pub(crate) idle: usize,
    /// The time for requests in flight after the shutdown began.
    pub(crate) drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        let connections = affordable_connections();
        Self {
            header_read: HEADER_READ,
            write_stall: WRITE_STALL,
            max_head_bytes: MAX_HEAD_BYTES,
            connections,
            idle: connections / 4 * IDLE_QUARTERS,
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

/// In the extensions of a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverTls;

/// A listener, and what its connections get.
pub(crate) struct Listening {
    pub(crate) listener: TcpListener,
    pub(crate) limits: ConnectionLimits,
    /// The certificate, unless the listener speaks plainly.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) figures: ConnectionFigures,
}

/// Serves `service` on a listener until `shutdown` is cancelled and the connections have drained.
///
/// Connections that are still busy when the drain time is over are dropped.
pub(crate) async fn serve<S, B>(listening: Listening, service: S, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Listening {
        listener,
        limits,
        tls,
        figures,
    } = listening;
    let slots = Arc::new(Semaphore::new(limits.connections));
    let idle = IdleConnections::new(limits.idle, figures);
    let connections = TaskTracker::new();
    let force = CancellationToken::new();
    while let Some((stream, peer, slot)) = accept(&listener, &slots, &shutdown).await {
        let connection = Connection {
            peer,
            tls: tls.clone(),
            limits: limits.clone(),
            activity: Activity::begin(&idle),
            shutdown: shutdown.clone(),
        };
        let (service, force) = (service.clone(), force.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection.run(stream, service) => {}
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
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    limits: ConnectionLimits,
    activity: Arc<Activity>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run<S, B>(self, stream: TcpStream, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let peer = self.peer;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "cannot switch off Nagle's algorithm");
        }
        let Some(tls) = &self.tls else {
            return self.detect(stream, service).await;
        };
        let handshake = tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            () = self.unwanted() => return,
        };
        match accepted {
            Ok(Ok(stream)) => {
                // What was agreed on, else what the client begins with.
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    self.speak(Protocol::Http2, stream, service).await;
                } else {
                    self.detect(stream, service).await;
                }
            }
            Ok(Err(error)) => debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => debug!(%peer, "a TLS handshake took too long"),
        }
    }

    /// Waits until a connection without a request is not to be kept any longer.
    async fn unwanted(&self) {
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = self.activity.retired() => {}
        }
    }

    /// Finds out by its first bytes which protocol a connection speaks, and speaks it.
    async fn detect<T, S, B>(self, mut stream: T, service: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let peer = self.peer;
        let detected = tokio::time::timeout(self.limits.header_read, protocol::detect(&mut stream));
        let detected = tokio::select! {
            detected = detected => detected,
            () = self.unwanted() => return,
        };
        match detected {
            Ok(Ok(Some((protocol, prefix)))) => {
                let stream = protocol::Rewound::new(prefix, stream);
                self.speak(protocol, stream, service).await;
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => debug!(%peer, %error, "a connection ended early"),
            Err(_) => debug!(%peer, "a connection said nothing"),
        }
    }

    async fn speak<T, S, B>(self, protocol: Protocol, stream: T, service: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self {
            peer,
            tls,
            limits,
            activity,
            shutdown,
        } = self;
        let over_tls = tls.is_some();
        let busy = activity.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            if over_tls {
                request.extensions_mut().insert(OverTls);
            }
            let under_way = busy.request();
            let answering = service.clone().oneshot(request);
            async move {
                let response = answering.await?;
                Ok::<_, Infallible>(response.map(|body| Tracked::new(body, under_way)))
            }
        });
        let stream = PeerStream::new(stream, limits.write_stall);
        let ended = match protocol {
            Protocol::Http1 => {
                let connection = protocol::http1(&limits, stream, service);
                protocol::drive(connection, None, &activity, &shutdown).await
            }
            Protocol::Http2 => {
                let connection = protocol::http2(&limits, stream, service);
                protocol::drive(connection, Some(&limits), &activity, &shutdown).await
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "a connection ended early");
        }
    }
}
