//! A request's body on its way in, and a response's on its way out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::{Exchange, ServiceError};
use crate::control::Stop;

/// The body of a request, which says when its guest waits for its client.
pub(super) struct Arriving<B> {
    inner: Pin<Box<B>>,
    exchange: Arc<Exchange>,
}

impl<B> Arriving<B> {
    pub(super) fn new(inner: B, exchange: Arc<Exchange>) -> Self {
        Self {
            inner: Box::pin(inner),
            exchange,
        }
    }
}

impl<B: Body> Body for Arriving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = self.inner.as_mut().poll_frame(context);
        match polled {
            // Who only looks whether there is something does not wait for it.
            Poll::Pending if context.waker().will_wake(Waker::noop()) => {}
            Poll::Pending => self.exchange.arrival.pause(),
            Poll::Ready(_) => self.exchange.arrival.resume(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        // The guest wants no more of it.
        self.exchange.arrival.resume();
    }
}

/// The body of a service's response. It ends in an error when its guest fails before the end, and stops its guest
/// when it is dropped before.
pub struct ServiceBody {
    inner: HyperOutgoingBody,
    exchange: Arc<Exchange>,
    ended: bool,
}

impl ServiceBody {
    pub(super) fn new(inner: HyperOutgoingBody, exchange: Arc<Exchange>) -> Self {
        // The head is there; the guest's time goes on when the client asks for more.
        exchange.clock.pause();
        let ended = inner.is_end_stream();
        Self {
            inner,
            exchange,
            ended,
        }
    }
}

impl std::fmt::Debug for ServiceBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceBody")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Body for ServiceBody {
    type Data = Bytes;
    type Error = ServiceError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ServiceError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.exchange.clock.resume();
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match frame {
            Some(Ok(frame)) => {
                self.exchange.clock.pause();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.ended = true;
                let message = format!("its body broke off: {error:?}");
                let error = self.exchange.failure().unwrap_or(ServiceError::NoResponse {
                    service: String::new(),
                    message,
                });
                Poll::Ready(Some(Err(error)))
            }
            // A guest that failed closes its body too, and has said so before.
            None => {
                self.ended = true;
                Poll::Ready(self.exchange.failure().map(Err))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ServiceBody {
    fn drop(&mut self) {
        if self.ended {
            // What the guest does after its response is bounded by its limits as before.
            self.exchange.clock.resume();
        } else {
            self.exchange.control.stop(Stop::Cancelled);
        }
    }
}
