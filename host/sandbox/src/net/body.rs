//! Bodies on their way between guest and upstream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use super::failure::{FINE, Failure, OUTCOME};
use super::upstream::Account;

/// A request's body at the broker, from the guest to the upstream. Says when all of it was taken.
pub(super) struct Upload {
    pub(super) inner: Incoming,
    pub(super) taken: watch::Sender<bool>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if frame.is_none() || self.inner.is_end_stream() {
            self.taken.send_replace(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body at the broker, from the upstream to the guest. It ends with trailers that say how, and its
/// connection goes with it.
pub(super) struct Download {
    /// `None` when there is nothing more to say than how it ended.
    stream: Option<Streaming>,
    ended: bool,
}

struct Streaming {
    inner: Incoming,
    account: Arc<Account>,
    _connection: Connection,
    idle: Duration,
    sleep: Pin<Box<Sleep>>,
}

/// The task that drives a connection; it is gone when this is.
pub(super) struct Connection(pub(super) AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Download {
    pub(super) fn new(
        inner: Incoming,
        account: Arc<Account>,
        connection: Connection,
        idle: Duration,
    ) -> Self {
        Self {
            stream: Some(Streaming {
                inner,
                account,
                _connection: connection,
                idle,
                sleep: Box::pin(tokio::time::sleep(idle)),
            }),
            ended: false,
        }
    }

    /// No body at all.
    pub(super) fn empty() -> Self {
        Self {
            stream: None,
            ended: true,
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let mut trailers = HeaderMap::new();
        let word = match Pin::new(&mut stream.inner).poll_frame(context) {
            Poll::Pending => {
                ready!(stream.sleep.as_mut().poll(context));
                Failure::ReadTimeout.word()
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let next = Instant::now() + stream.idle;
                    stream.sleep.as_mut().reset(next);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(frame) => {
                    trailers = frame.into_trailers().unwrap_or_default();
                    FINE
                }
            },
            Poll::Ready(Some(Err(_))) => stream
                .account
                .failure()
                .unwrap_or(Failure::Terminated)
                .word(),
            Poll::Ready(None) => FINE,
        };
        trailers.insert(OUTCOME, HeaderValue::from_static(word));
        self.stream = None;
        self.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// A request's body at the guest's end. A guest that is stopped in the middle of it never ends it well.
pub(super) struct Outgoing {
    pub(super) inner: WasiBody,
    pub(super) closed: Arc<AtomicBool>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if frame.is_none() && self.closed.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body at the guest's end.
pub(super) struct Arriving {
    inner: Incoming,
    ended: bool,
}

impl Arriving {
    pub(super) fn new(inner: Incoming) -> Self {
        Self {
            inner,
            ended: false,
        }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(frame) => frame.into_trailers().unwrap_or_default(),
            },
            // The broker always has a last word.
            Some(Err(_)) | None => HeaderMap::new(),
        };
        self.ended = true;
        let mut trailers = frame;
        Poll::Ready(match trailers.remove(OUTCOME) {
            Some(word) if word == FINE && trailers.is_empty() => None,
            Some(word) if word == FINE => Some(Ok(Frame::trailers(trailers))),
            word => Some(Err(word
                .and_then(|word| Failure::from_word(word.as_bytes()))
                .unwrap_or(Failure::Terminated)
                .error())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
