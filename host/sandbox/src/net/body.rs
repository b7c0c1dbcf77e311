//! Bodies on their way between guest and upstream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use super::failure::{FINE, Failure, OUTCOME};
use super::upstream::Account;

/// How long a request that usually has no body waits to see whether it has none: a guest ends it right away.
const LOOK_AHEAD: Duration = Duration::from_millis(100);

/// A request's body at the broker, from the guest to the upstream. Says when all of it was taken.
pub(super) struct Upload {
    inner: Incoming,
    /// What was read of it already.
    first: Option<Frame<Bytes>>,
    ended: bool,
    taken: watch::Sender<bool>,
}

impl Upload {
    /// The body of a request, and where it says that all of it was taken.
    pub(super) async fn of(
        method: &Method,
        mut inner: Incoming,
    ) -> Result<(Self, watch::Receiver<bool>), hyper::Error> {
        let mut ended = inner.is_end_stream();
        let mut first = None;
        // A guest's empty body looks like one whose length is not known: many upstreams do not expect that of these.
        if !ended && matches!(*method, Method::GET | Method::HEAD | Method::DELETE) {
            match tokio::time::timeout(LOOK_AHEAD, next(&mut inner)).await {
                Ok(Some(frame)) => first = Some(frame?),
                Ok(None) => ended = true,
                Err(_) => {}
            }
        }
        let (taken, all_taken) = watch::channel(ended);
        let body = Self {
            inner,
            first,
            ended,
            taken,
        };
        Ok((body, all_taken))
    }
}

/// The next frame that is more than nothing.
async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    loop {
        let frame = body.frame().await;
        if let Some(Ok(frame)) = &frame
            && frame.data_ref().is_some_and(Bytes::is_empty)
        {
            continue;
        }
        return frame;
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None if self.ended => None,
            None => ready!(Pin::new(&mut self.inner).poll_frame(context)),
        };
        if frame.is_none() || self.inner.is_end_stream() {
            self.ended = true;
            self.taken.send_replace(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.first.is_none() && self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match (self.ended, &self.first) {
            (true, _) => SizeHint::with_exact(0),
            (false, Some(_)) => SizeHint::default(),
            (false, None) => self.inner.size_hint(),
        }
    }
}

/// A response's body at the broker, from the upstream to the guest. It ends with trailers that say how. Its connection
/// is kept when it ends well, and else goes with it.
pub(super) struct Download {
    /// `None` when there is nothing more to say than how it ended.
    stream: Option<Streaming>,
    ended: bool,
}

struct Streaming {
    inner: Incoming,
    account: Arc<Account>,
    keep: Keep,
    idle: Duration,
    sleep: Pin<Box<Sleep>>,
}

/// Keeps the connection of a response. Dropping it uncalled drops the connection.
pub(super) type Keep = Box<dyn FnOnce() + Send>;

impl Download {
    pub(super) fn new(inner: Incoming, account: Arc<Account>, keep: Keep, idle: Duration) -> Self {
        Self {
            stream: Some(Streaming {
                inner,
                account,
                keep,
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
        if let Some(stream) = self.stream.take()
            && word == FINE
        {
            (stream.keep)();
        }
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
