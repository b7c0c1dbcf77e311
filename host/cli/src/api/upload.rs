//! A package's way to the server: one multipart body, head first, made while it is sent.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::sync::mpsc;

use super::Api;
use crate::exit::Failure;
use crate::package::{self, Package};
use crate::project::Project;

/// How far an upload is. Shared between the body, which counts, and whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// How far this attempt is: bytes that were handed to the connection or are known to have arrived.
    bytes: AtomicU64,
    /// Bytes that were handed to any connection, in all attempts.
    sent: AtomicU64,
    /// How often it was begun from the first byte.
    attempts: AtomicU64,
    /// How many there will be, once that is known.
    total: AtomicU64,
    /// How many of the package's need not be sent.
    spared: AtomicU64,
    /// How much of the package was compared with what the server has.
    compared: AtomicU64,
    /// How often the connection broke.
    breaks: AtomicU64,
    complete: AtomicBool,
    /// The server has refused: nothing more is to be sent, and nothing is to break until its answer is read.
    held: AtomicBool,
    /// What went wrong with the package itself, which the HTTP client would only call a broken body.
    failure: Mutex<Option<package::Error>>,
}

impl Sent {
    /// Begins to send from the first byte.
    pub(crate) fn restart(&self) {
        for number in [&self.bytes, &self.total, &self.spared, &self.compared] {
            number.store(0, Ordering::Relaxed);
        }
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.held.store(false, Ordering::Release);
        self.complete.store(false, Ordering::Release);
        *self.failure() = None;
    }

    /// Says how many bytes will be sent, and how many need not be.
    pub(crate) fn plan(&self, total: u64, spared: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.spared.store(spared, Ordering::Relaxed);
    }

    /// Says how many bytes will be sent.
    pub(crate) fn total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// Goes on behind the first `bytes` bytes.
    pub(crate) fn resume(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.held.store(false, Ordering::Release);
        self.complete.store(false, Ordering::Release);
    }

    /// So many bytes were handed to the connection.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much of the package was compared with what the server has.
    pub(crate) fn compared(&self, bytes: u64) {
        self.compared.store(bytes, Ordering::Relaxed);
    }

    /// The connection broke.
    pub(crate) fn broke(&self) {
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it was sent.
    pub(crate) fn end(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// The server has refused.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Something went wrong with the package itself.
    pub(crate) fn fail(&self, error: package::Error) {
        *self.failure() = Some(error);
    }

    /// Bytes of the package that were handed to the connection.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the whole body was handed to the connection.
    pub(crate) fn complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// How far it is, for showing.
    pub(crate) fn progress(&self) -> Progress {
        Progress {
            at: self.bytes(),
            sent: self.sent.load(Ordering::Relaxed),
            attempt: self.attempts.load(Ordering::Relaxed),
            total: Some(self.total.load(Ordering::Relaxed)).filter(|total| *total > 0),
            spared: self.spared.load(Ordering::Relaxed),
            compared: self.compared.load(Ordering::Relaxed),
            breaks: self.breaks.load(Ordering::Relaxed),
            complete: self.complete(),
        }
    }

    /// Takes what went wrong with the package, if anything did.
    pub(crate) fn take_failure(&self) -> Option<Failure> {
        self.take_package_failure().map(Failure::from)
    }

    /// The same, as it was.
    pub(crate) fn take_package_failure(&self) -> Option<package::Error> {
        self.failure().take()
    }

    fn failure(&self) -> MutexGuard<'_, Option<package::Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// How far this attempt is.
    pub(crate) at: u64,
    /// Bytes that were sent, in all attempts.
    pub(crate) sent: u64,
    /// Which attempt this is.
    pub(crate) attempt: u64,
    /// How far it will get, if that is another number than the package's.
    pub(crate) total: Option<u64>,
    /// Bytes of the package that the server has already.
    pub(crate) spared: u64,
    /// Bytes of the package that were compared.
    pub(crate) compared: u64,
    /// How often the connection broke.
    pub(crate) breaks: u64,
    /// Whether everything is sent.
    pub(crate) complete: bool,
}

/// How the answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The event stream, which starts while the package is still being sent.
    Events,
    /// The record, once the package is durable.
    Record,
}

impl Answer {
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Answer::Events => "text/event-stream",
            Answer::Record => "application/json",
        }
    }
}

impl Api {
    /// Sends `package` as a deployment of `project`, and returns as soon as the server begins to answer, which
    /// for [`Answer::Events`] is long before the package is through.
    ///
    /// # Errors
    ///
    /// The server's refusal, also when it comes in the middle of the package; the package's own failure; or
    /// that the server is not there.
    pub(crate) async fn deploy(
        &self,
        project: &Project,
        head: &Value,
        key: Option<&str>,
        package: Package,
        answer: Answer,
        sent: &Arc<Sent>,
    ) -> Result<Response, Failure> {
        let boundary = random_name();
        let body = Multipart::new(head, package, &boundary, Arc::clone(sent));
        let request = self
            .request(Method::POST, &format!("/v1/projects/{project}/deployments"))
            .header(
                CONTENT_TYPE,
                format!("multipart/form-data; boundary={boundary}"),
            )
            .header(ACCEPT, answer.media_type())
            .body(reqwest::Body::wrap(body));
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(sent.take_failure().unwrap_or_else(|| self.broken(&error))),
        };
        if !answer.status().is_success() {
            sent.hold();
        }
        self.accept(answer).await
    }
}

/// A name that nobody else has, or could know: a boundary that is in no package, a request's key.
pub(crate) fn random_name() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("cofferdam-{:016x}{:016x}", random(), random())
}

/// The body: the head's part, the package's part header, the package, the end.
struct Multipart {
    state: State,
    start: Bytes,
    end: Bytes,
    parts: mpsc::Receiver<Result<Bytes, package::Error>>,
    /// Exact length, if the package's is known.
    bytes: Option<u64>,
    sent: Arc<Sent>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Package,
    Over,
}

impl Multipart {
    fn new(head: &Value, package: Package, boundary: &str, sent: Arc<Sent>) -> Multipart {
        let start = format!(
            "--{boundary}\r\n\
             Content-Disposition: form-data; name=\"head\"\r\n\
             Content-Type: application/json\r\n\
             \r\n\
             {head}\r\n\
             --{boundary}\r\n\
             Content-Disposition: form-data; name=\"package\"; filename=\"package\"\r\n\
             Content-Type: {}\r\n\
             \r\n",
            package.media_type
        );
        let end = format!("\r\n--{boundary}--\r\n");
        let around = (start.len() + end.len()) as u64;
        Multipart {
            state: State::Start,
            start: start.into(),
            end: end.into(),
            parts: package.parts,
            bytes: package.bytes.map(|bytes| bytes + around),
            sent,
        }
    }
}

impl Body for Multipart {
    type Data = Bytes;
    type Error = package::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, package::Error>>> {
        let this = &mut *self;
        if this.sent.is_held() {
            return Poll::Pending;
        }
        let data = match this.state {
            State::Start => {
                this.state = State::Package;
                this.start.clone()
            }
            State::Package => match ready!(this.parts.poll_recv(context)) {
                Some(Ok(part)) => {
                    this.sent.add(part.len() as u64);
                    part
                }
                Some(Err(error)) => {
                    this.state = State::Over;
                    let shown = error.to_string();
                    this.sent.fail(error);
                    return Poll::Ready(Some(Err(package::Error::Argument(shown))));
                }
                None => {
                    this.state = State::Over;
                    this.sent.end();
                    this.end.clone()
                }
            },
            State::Over => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Over
    }

    fn size_hint(&self) -> SizeHint {
        match (self.state, self.bytes) {
            (State::Start, Some(bytes)) => SizeHint::with_exact(bytes),
            _ => SizeHint::default(),
        }
    }
}
