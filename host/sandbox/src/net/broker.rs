//! The host's end: takes a guest's requests, refuses what was not granted, and sends the rest.

mod check;
mod connection;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

use self::check::{Checked, HOP_BY_HOP};
use self::connection::{Idle, Open, Peer, Way};
use super::body::{Download, Upload};
use super::failure::{FINE, Failure, LENGTH, OUTCOME, TIMES};
use super::grant::NetGrant;
use super::upstream::{self, Account, Purse, Tls};
use super::{MAX_HEAD, STREAM_WINDOW, connection_window, streams};
use crate::error::Error;
use crate::limits::Limits;
use crate::outcome::HostUsage;
use crate::redact::Redactor;
use crate::spec::StepSpec;

/// How long resolving, connecting and the handshake of TLS may take together.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an upstream may take from the last byte of a request to the head of its response.
const FIRST_BYTE: Duration = Duration::from_secs(60);

/// How long an upstream may take between two bytes of its response.
const BETWEEN_BYTES: Duration = Duration::from_secs(60);

/// Requests that were given up before the broker saw them, and wait to be forgotten.
const GIVEN_UP: usize = 1024;

/// Names that a receipt lists; a guest may ask for any number of them.
const NAMES: usize = 64;

/// Where what is beyond [`NAMES`], and what is no host's name, is counted.
const OTHERS: &str = "(others)";

/// The broker of one guest. Everything it does ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    task: AbortHandle,
    usage: Arc<Usage>,
    /// A guest can put a secret into a name that it asks for.
    redactor: Redactor,
}

impl Broker {
    /// Ends everything, and says what was used.
    pub(crate) fn finish(self) -> BTreeMap<String, HostUsage> {
        self.task.abort();
        let hosts = self.usage.lock().clone();
        let redacted = |(host, usage)| (self.redactor.text(host).into_owned(), usage);
        hosts.into_iter().map(redacted).collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the brokers of one grant have in common.
#[derive(Clone)]
pub(crate) struct Granted {
    grant: Arc<NetGrant>,
    tls: Arc<Tls>,
    redactor: Redactor,
}

impl Granted {
    /// Reads the certificates that are trusted; nothing when no host is granted.
    pub(crate) fn new(grant: &NetGrant, redactor: Redactor) -> Result<Option<Self>, Error> {
        if grant.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            grant: Arc::new(grant.clone()),
            tls: Arc::new(Tls::new(&grant.extra_roots)?),
            redactor,
        }))
    }
}

/// Starts the broker of a step that was granted a network, on the caller's runtime. Returns the guest's end too.
pub(crate) fn open(spec: &StepSpec) -> Result<Option<(UnixStream, Broker)>, Error> {
    if spec.net.is_empty() {
        return Ok(None);
    }
    if spec.reproducible {
        return Err(Error::specification(
            "a reproducible step has no network, which answers otherwise each time",
        ));
    }
    let runtime = Handle::try_current().map_err(|_| {
        Error::specification(
            "a step with a network is started within a tokio runtime, which sends its requests",
        )
    })?;
    let granted = Granted::new(&spec.net, Redactor::new(&spec.secrets))?;
    granted
        .map(|granted| begin(&granted, &spec.limits, &runtime))
        .transpose()
}

/// Starts a broker on this runtime. Returns the guest's end too.
pub(crate) fn begin(
    granted: &Granted,
    limits: &Limits,
    runtime: &Handle,
) -> Result<(UnixStream, Broker), Error> {
    let failed = |error| Error::host(format!("no stream for a guest's network: {error}"));
    let (guest, host) = UnixStream::pair().map_err(failed)?;
    host.set_nonblocking(true).map_err(failed)?;
    let host = tokio::net::UnixStream::from_std(host).map_err(failed)?;
    let usage = Arc::new(Usage::default());
    let shared = Arc::new(Shared {
        grant: Arc::clone(&granted.grant),
        requests: AtomicU64::new(if limits.connections == 0 {
            0
        } else {
            limits.requests
        }),
        purse: Arc::new(Purse::new(limits)),
        usage: Arc::clone(&usage),
        tls: Arc::clone(&granted.tls),
        idle: Arc::new(Idle::new(limits.connections)),
    });
    let streams = streams(limits.connections);
    let task = runtime.spawn(async move {
        let tasks = Tasks::default();
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(shared.answer(request).await) }
        });
        let served = hyper::server::conn::http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(streams))
            .max_concurrent_streams(streams)
            .max_header_list_size(MAX_HEAD)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .max_pending_accept_reset_streams(GIVEN_UP)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(host), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "the stream to a step's guest ended");
        }
    });
    let broker = Broker {
        task: task.abort_handle(),
        usage,
        redactor: granted.redactor.clone(),
    };
    Ok((guest, broker))
}

/// The tasks of one broker: they end with it.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future);
    }
}

/// What was used, by host.
#[derive(Debug, Default)]
struct Usage(Mutex<BTreeMap<String, HostUsage>>);

impl Usage {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, HostUsage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, host: &str, change: impl FnOnce(&mut HostUsage)) {
        let mut hosts = self.lock();
        let known = hosts.contains_key(host) || hosts.len() < NAMES;
        let host = if known { host } else { OTHERS };
        change(hosts.entry(host.to_owned()).or_default());
    }
}

/// What the requests of a step share.
struct Shared {
    grant: Arc<NetGrant>,
    requests: AtomicU64,
    purse: Arc<Purse>,
    usage: Arc<Usage>,
    tls: Arc<Tls>,
    idle: Arc<Idle>,
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Download> {
        let target = check::target(request.uri());
        let host = match &target {
            Ok(target) => target.to_string(),
            Err(_) => OTHERS.to_owned(),
        };
        self.usage.add(&host, |usage| usage.requests += 1);
        let checked = target.and_then(|target| {
            self.requests
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .map_err(|_| Failure::Denied)?;
            check::request(&self.grant, target, &request)
        });
        let sent = match checked {
            Ok(checked) => Box::pin(self.send(checked, request)).await,
            Err(failure) => {
                self.usage.add(&host, |usage| usage.denied += 1);
                Err(failure)
            }
        };
        match sent {
            Ok(response) => response,
            Err(failure) => {
                if failure == Failure::Prohibited {
                    self.usage.add(&host, |usage| usage.denied += 1);
                }
                let mut response = Response::new(Download::empty());
                let word = HeaderValue::from_static(failure.word());
                response.headers_mut().insert(OUTCOME, word);
                response
            }
        }
    }

    async fn send(
        &self,
        checked: Checked,
        request: Request<Incoming>,
    ) -> Result<Response<Download>, Failure> {
        let Checked { target, tls, path } = checked;
        let peer = Peer { target, tls };
        let times = Times::of(request.headers());
        let (parts, body) = request.into_parts();
        let upload = Upload::of(&parts.method, body).await;
        let (body, all_taken) = upload.map_err(|_| Failure::Terminated)?;
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = path;
        *outgoing.headers_mut() = check::outgoing(parts.headers, &parts.uri)?;

        let mut kept = self.idle.take(&peer).await;
        let (response, open) = loop {
            let is_kept = kept.is_some();
            let mut open = match kept.take() {
                Some(open) => open,
                None => self.open(&peer, times.connect).await?,
            };
            let mut all_taken = all_taken.clone();
            let late = async {
                // The guest may take its time to send; the upstream's begins when it has everything.
                let _ = all_taken.wait_for(|taken| *taken).await;
                tokio::time::sleep(times.first_byte).await;
            };
            let sent = tokio::select! {
                sent = open.sender.try_send_request(outgoing) => sent,
                () = late => return Err(Failure::ResponseTimeout),
            };
            match sent {
                Ok(response) => break (response, open),
                Err(mut unsent) => match unsent.take_message() {
                    // The upstream closed a connection that was kept, before anything of this went out.
                    Some(again) if is_kept => outgoing = again,
                    _ => {
                        let error = unsent.into_error();
                        let otherwise = if error.is_parse() {
                            Failure::Protocol
                        } else {
                            Failure::Terminated
                        };
                        return Err(open.account.failure().unwrap_or(otherwise));
                    }
                },
            }
        };
        if response.status().is_informational() {
            return Err(Failure::Upgrade);
        }
        let (mut parts, body) = response.into_parts();
        parts.version = http::Version::HTTP_2;
        parts.headers = incoming(parts.headers);
        parts.extensions.clear();
        let account = Arc::clone(&open.account);
        let idle = Arc::clone(&self.idle);
        let keep = Box::new(move || {
            // A response may come before all of its request has gone.
            if *all_taken.borrow() {
                idle.keep(peer, open);
            }
        });
        let body = Download::new(body, account, keep, times.between_bytes);
        Ok(Response::from_parts(parts, body))
    }

    async fn open(&self, peer: &Peer, limit: Duration) -> Result<Open, Failure> {
        let way = Way {
            lookup: upstream::system,
            ranges: &self.grant.allow_ranges,
            tls: &self.tls,
        };
        let account = self.account(peer.target.to_string());
        connection::open(peer, &way, account, limit).await
    }

    fn account(&self, host: String) -> Arc<Account> {
        let usage = Arc::clone(&self.usage);
        let count = move |bytes_out, bytes_in| {
            usage.add(&host, |usage| {
                usage.bytes_out += bytes_out;
                usage.bytes_in += bytes_in;
            });
        };
        Arc::new(Account::new(Arc::clone(&self.purse), count))
    }
}

/// An upstream's headers for the guest, with the broker's own word.
fn incoming(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| {
            value
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(LENGTH);
    if let Some(length) = headers.remove(CONTENT_LENGTH) {
        headers.insert(LENGTH, length);
    }
    headers.insert(OUTCOME, HeaderValue::from_static(FINE));
    headers
}

/// How long this request's upstream may take: the host's limits, and the guest's where they are shorter.
struct Times {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Times {
    fn of(headers: &HeaderMap) -> Self {
        let text = headers.get(TIMES).and_then(|value| value.to_str().ok());
        let mut wanted = text
            .unwrap_or_default()
            .split(',')
            .map(|millis| millis.parse().map_or(Duration::MAX, Duration::from_millis));
        let mut shorter = |host: Duration| wanted.next().map_or(host, |guest| guest.min(host));
        Self {
            connect: shorter(CONNECT),
            first_byte: shorter(FIRST_BYTE),
            between_bytes: shorter(BETWEEN_BYTES),
        }
    }
}
