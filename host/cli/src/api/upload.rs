//! A package's way to the server: one multipart body, head first, made while it is sent.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    bytes: AtomicU64,
    complete: AtomicBool,
    /// The server has refused: nothing more is to be sent, and nothing is to break until its answer is read.
    held: AtomicBool,
    /// What went wrong with the package itself, which the HTTP client would only call a broken body.
    failure: Mutex<Option<package::Error>>,
}

impl Sent {
    /// Bytes of the package that were handed to the connection.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the whole body was handed to the connection.
    pub(crate) fn complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Takes what went wrong with the package, if anything did.
    pub(crate) fn take_failure(&self) -> Option<Failure> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().map(Failure::from)
    }
}

/// How the answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The event stream, which starts while the package is still being sent.
    Events,
    /// The record, once the package is durable.
    Record,
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
        let boundary = boundary();
        let body = Multipart::new(head, package, &boundary, Arc::clone(sent));
        let request = self
            .request(Method::POST, &format!("/v1/projects/{project}/deployments"))
            .header(
                CONTENT_TYPE,
                format!("multipart/form-data; boundary={boundary}"),
            )
            .header(
                ACCEPT,
                match answer {
                    Answer::Events => "text/event-stream",
                    Answer::Record => "application/json",
                },
            )
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
            sent.held.store(true, Ordering::Release);
        }
        self.accept(answer).await
    }
}

/// A boundary that nobody who made the package could know.
fn boundary() -> String {
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
        if this.sent.held.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let data = match this.state {
            State::Start => {
                this.state = State::Package;
                this.start.clone()
            }
            State::Package => match ready!(this.parts.poll_recv(context)) {
                Some(Ok(part)) => {
                    let bytes = part.len() as u64;
                    this.sent.bytes.fetch_add(bytes, Ordering::Relaxed);
                    part
                }
                Some(Err(error)) => {
                    this.state = State::Over;
                    let shown = error.to_string();
                    let mut failure = this.sent.failure.lock();
                    if let Ok(failure) = &mut failure {
                        **failure = Some(error);
                    }
                    return Poll::Ready(Some(Err(package::Error::Argument(shown))));
                }
                None => {
                    this.state = State::Over;
                    this.sent.complete.store(true, Ordering::Release);
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
