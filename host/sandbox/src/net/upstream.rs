//! The connection to a granted host: its address checked, its bytes counted, its certificate verified.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::TlsConnector;

use super::address;
use super::failure::Failure;
use super::grant::{Host, HostPort, IpRange};
use crate::error::Error;
use crate::limits::Limits;

/// How long an upstream may take no byte of what is sent to it.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// What all requests of a step may still send and receive.
pub(super) struct Purse {
    egress: AtomicU64,
    ingress: AtomicU64,
}

impl Purse {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            egress: AtomicU64::new(limits.egress_bytes),
            ingress: AtomicU64::new(limits.ingress_bytes),
        }
    }
}

/// Takes `bytes`, and says whether there were as many.
fn take(purse: &AtomicU64, bytes: usize) -> bool {
    let bytes = bytes as u64;
    purse
        .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(bytes)
        })
        .is_ok()
}

/// What a connection moves, for one request after another, and why it was cut off.
pub(super) struct Account {
    purse: Arc<Purse>,
    count: Box<dyn Fn(u64, u64) + Send + Sync>,
    failure: Mutex<Option<Failure>>,
}

impl Account {
    /// An account that takes from `purse` and tells `count` what was sent and received.
    pub(super) fn new(purse: Arc<Purse>, count: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self {
            purse,
            count: Box::new(count),
            failure: Mutex::new(None),
        }
    }

    /// Why the connection was cut off from this side.
    pub(super) fn failure(&self) -> Option<Failure> {
        *self.lock()
    }

    /// The next request has not failed yet.
    pub(super) fn begin(&self) {
        *self.lock() = None;
    }

    fn fail(&self, failure: Failure) -> io::Error {
        *self.lock() = Some(failure);
        failure.into()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose bytes are counted as they are on the wire.
pub(super) struct Metered {
    stream: TcpStream,
    account: Arc<Account>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        (self.account.count)(0, read as u64);
        if take(&self.account.purse.ingress, read) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(self.account.fail(Failure::Ingress)))
        }
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let left = usize::try_from(self.account.purse.egress.load(Ordering::Relaxed));
        let room = left.unwrap_or(usize::MAX).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(self.account.fail(Failure::Egress)));
        }
        match Pin::new(&mut self.stream).poll_write(context, &bytes[..room]) {
            Poll::Ready(written) => {
                self.stalled = None;
                let written = written?;
                (self.account.count)(written as u64, 0);
                if take(&self.account.purse.egress, written) {
                    Poll::Ready(Ok(written))
                } else {
                    Poll::Ready(Err(self.account.fail(Failure::Egress)))
                }
            }
            Poll::Pending => {
                let sleep = self
                    .stalled
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
                ready!(sleep.as_mut().poll(context));
                Poll::Ready(Err(self.account.fail(Failure::WriteTimeout)))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Either kind of connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What asks for the addresses of a name.
pub(super) type Lookup = fn(String, u16) -> Pin<Box<dyn Future<Output = Found> + Send>>;

/// What comes of that.
pub(super) type Found = io::Result<Vec<SocketAddr>>;

/// Asks as the host's other programs do.
pub(super) fn system(name: String, port: u16) -> Pin<Box<dyn Future<Output = Found> + Send>> {
    Box::pin(async move {
        let found = tokio::net::lookup_host((name.as_str(), port)).await?;
        Ok(found.collect())
    })
}

/// The addresses of a host, every one of them checked. The name is resolved once, and the connection is made to
/// what was checked.
pub(super) async fn resolve(
    target: &HostPort,
    ranges: &[IpRange],
    lookup: Lookup,
) -> Result<Vec<SocketAddr>, Failure> {
    let port = target.port();
    let addresses: Vec<SocketAddr> = match target.parsed_host() {
        Host::Address(address) => vec![SocketAddr::new(*address, port)],
        Host::Name(name) => lookup(name.clone(), port).await.map_err(|_| Failure::Dns)?,
    };
    if addresses.is_empty() {
        return Err(Failure::Dns);
    }
    let refused = |address: &&SocketAddr| !address::allowed(address.ip(), ranges);
    match addresses.iter().find(refused) {
        Some(address) => {
            tracing::info!(host = %target, address = %address.ip(), "a step may not reach this address");
            Err(Failure::Prohibited)
        }
        None => Ok(addresses),
    }
}

/// Connects to the first address that answers.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    account: &Arc<Account>,
) -> Result<Metered, Failure> {
    let mut failure = Failure::Unavailable;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Heads and small bodies are not to wait for each other.
                let _ = stream.set_nodelay(true);
                return Ok(Metered {
                    stream,
                    account: Arc::clone(account),
                    stalled: None,
                });
            }
            Err(error) => {
                failure = match error.kind() {
                    io::ErrorKind::ConnectionRefused => Failure::Refused,
                    io::ErrorKind::TimedOut => Failure::ConnectTimeout,
                    _ => Failure::Unavailable,
                }
            }
        }
    }
    Err(failure)
}

/// TLS with the system's roots and those of the grant, made when it is first needed.
pub(super) struct Tls {
    extra: Vec<CertificateDer<'static>>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    pub(super) fn new(extra_roots: &[String]) -> Result<Self, Error> {
        let mut extra = Vec::new();
        for (index, pem) in extra_roots.iter().enumerate() {
            let unreadable = |problem: String| {
                Error::specification(format!(
                    "the network's extra root certificate number {} cannot be read: {problem}",
                    index + 1
                ))
            };
            let before = extra.len();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                extra.push(certificate.map_err(|error| unreadable(error.to_string()))?);
            }
            if extra.len() == before {
                return Err(unreadable("there is no certificate in it".to_owned()));
            }
        }
        Ok(Self {
            extra,
            config: OnceLock::new(),
        })
    }

    /// Encrypts a connection, to whoever proves to be `target`.
    pub(super) async fn wrap(
        self: &Arc<Self>,
        stream: Metered,
        target: &HostPort,
    ) -> Result<tokio_rustls::client::TlsStream<Metered>, Failure> {
        let config = match self.config.get() {
            Some(config) => Arc::clone(config),
            None => {
                let tls = Arc::clone(self);
                // Reads files.
                let made = tokio::task::spawn_blocking(move || tls.make()).await;
                let made = made.map_err(|_| Failure::Tls)??;
                Arc::clone(self.config.get_or_init(|| made))
            }
        };
        let name = ServerName::try_from(target.host()).map_err(|_| Failure::Uri)?;
        let account = Arc::clone(&stream.account);
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| {
                let tls = error
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<rustls::Error>());
                match (account.failure(), tls) {
                    (Some(failure), _) => failure,
                    (None, Some(rustls::Error::InvalidCertificate(_))) => Failure::Certificate,
                    (None, Some(_)) => Failure::Tls,
                    (None, None) => Failure::Terminated,
                }
            })
    }

    fn make(&self) -> Result<Arc<ClientConfig>, Failure> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::warn!(%error, "a root certificate of the system cannot be used");
        }
        roots.add_parsable_certificates(system.certs);
        roots.add_parsable_certificates(self.extra.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| Failure::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
