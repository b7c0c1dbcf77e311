//! What a request holds while it is under way: the token it came with, and a place among the uploads.
//!
//! A token that is revoked or expires ends what it began: the bodies of its requests and of its answers fail,
//! and with them an upload, an event stream or a download.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use cofferdam_deploy::Identity;
use http_body::{Body as _, Frame, SizeHint};
use uuid::Uuid;

use super::problem::Problem;
use crate::BodyLimits;
use crate::metrics::Metrics;
use crate::upload::UploadError;
use crate::upload::body::UploadBody;

/// The most uploads at a time, of all tokens: as many as the store takes at once. Each holds some 10 MiB there.
pub(crate) const MAX_UPLOADS: usize = 64;

/// The most uploads at a time of one token: a build server pushes a handful of projects at once, and four such
/// tokens together still leave nobody out.
pub(crate) const MAX_UPLOADS_PER_TOKEN: usize = 16;

/// A body that announces at most this much is no upload: it is read before anything begins, so whoever dribbles it holds
/// nothing but these bytes.
const SMALL_BODY: u64 = 64 * 1024;

/// The most small bodies that are read at a time, of all tokens and of one: 64 MiB, were all of them to stop before
/// their last byte.
const MAX_SMALL_BODIES: usize = 1024;
const MAX_SMALL_BODIES_PER_TOKEN: usize = 256;

/// The bodies under way.
#[derive(Debug)]
pub(super) struct Bodies {
    pub(super) uploads: Arc<Places>,
    small: Arc<Places>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            uploads: Places::new("uploads", MAX_UPLOADS, MAX_UPLOADS_PER_TOKEN),
            small: Places::new("requests", MAX_SMALL_BODIES, MAX_SMALL_BODIES_PER_TOKEN),
        }
    }
}

/// Bodies of one kind that are under way.
#[derive(Debug)]
pub(crate) struct Places {
    /// What they are called.
    noun: &'static str,
    max: usize,
    max_per_token: usize,
    by_token: Mutex<HashMap<Uuid, usize>>,
}

impl Places {
    pub(crate) fn new(noun: &'static str, max: usize, max_per_token: usize) -> Arc<Self> {
        Arc::new(Self {
            noun,
            max,
            max_per_token,
            by_token: Mutex::default(),
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        let by_token = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        by_token.values().sum()
    }

    fn begin(self: &Arc<Self>, token: Uuid) -> Result<Place, Problem> {
        let mut by_token = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = by_token.get(&token).copied().unwrap_or_default();
        if mine >= self.max_per_token {
            return Err(Problem::too_many(format!(
                "this token has {mine} {} under way, and at most {} are taken: wait for one to end",
                self.noun, self.max_per_token
            )));
        }
        if by_token.values().sum::<usize>() >= self.max {
            return Err(Problem::not_ready(format!(
                "{} {} are under way, the most that are taken: try again in a moment",
                self.max, self.noun
            )));
        }
        by_token.insert(token, mine + 1);
        Ok(Place {
            places: self.clone(),
            token,
        })
    }
}

/// A place among them, given back when it is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    token: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_token = self
            .places
            .by_token
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_token.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                by_token.remove(&self.token);
            }
        }
    }
}

/// The request's body as its handler gets it: it ends with the token, and is counted. A small one is here to its last
/// byte, unless its sender `asks` whether it is wanted; any other holds a place among the uploads.
///
/// # Errors
///
/// When there are too many bodies, or a small one does not come.
pub(super) async fn request_body(
    body: Body,
    asks: bool,
    identity: &Identity,
    bodies: &Bodies,
    limits: BodyLimits,
    metrics: &Arc<Metrics>,
) -> Result<Body, Problem> {
    if body.is_end_stream() {
        return Ok(body);
    }
    let length = body.size_hint().exact();
    let small = !asks && length.is_some_and(|bytes| bytes <= SMALL_BODY);
    let places = if small {
        &bodies.small
    } else {
        &bodies.uploads
    };
    let held = Body::new(Held {
        body,
        over: Box::pin(identity.over()),
        received: Some(metrics.clone()),
        _place: Some(places.begin(identity.id)?),
    });
    if small {
        gathered(UploadBody::new(held, limits)).await
    } else {
        Ok(held)
    }
}

/// A body that is read already. What arrived of one that broke off, and that it did, is for the handler: an upload
/// keeps it.
async fn gathered(mut body: UploadBody) -> Result<Body, Problem> {
    let mut bytes = BytesMut::new();
    loop {
        match body.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(Body::from(bytes.freeze())),
            Err(UploadError::Broken { source, .. }) => {
                let pieces = [Ok(bytes.freeze()), Err(source)];
                return Ok(Body::from_stream(futures::stream::iter(pieces)));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs a handler for as long as the token is good, and ties the answer's body to it too.
pub(super) async fn under(
    identity: Identity,
    answer: impl Future<Output = Result<Response, Problem>>,
) -> Result<Response, Problem> {
    let answered = tokio::select! {
        answered = answer => answered,
        () = identity.over() => return Err(over()),
    };
    match answered {
        // What failed because the token ended says so.
        Err(_) if identity.is_over() => Err(over()),
        Err(problem) => Err(problem),
        // Small answers are on their way before anybody can revoke anything.
        Ok(response) if response.body().size_hint().upper().is_some() => Ok(response),
        Ok(response) => Ok(response.map(|body| {
            Body::new(Held {
                body,
                over: Box::pin(identity.over()),
                received: None,
                _place: None,
            })
        })),
    }
}

fn over() -> Problem {
    Problem::unauthorized(
        "the token was revoked, or has expired, while it was in use",
        super::auth::BAD_TOKEN,
    )
}

/// Why a body failed.
#[derive(Debug, thiserror::Error)]
#[error("the token was revoked or has expired")]
struct TokenOver;

/// A body that ends when a token does.
struct Held {
    body: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Where the bytes of a request are counted.
    received: Option<Arc<Metrics>>,
    _place: Option<Place>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(TokenOver))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(metrics)) = (&polled, &self.received)
            && let Some(data) = frame.data_ref()
        {
            metrics.received(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn places_are_given_back_and_one_token_cannot_take_all() {
        let uploads = Places::new("uploads", 3, 2);
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let first = uploads.begin(one).unwrap();
        let second = uploads.begin(one).unwrap();
        assert_eq!(uploads.begin(one).unwrap_err().code(), "too_many_requests");
        let third = uploads.begin(other).unwrap();
        assert_eq!(uploads.begin(other).unwrap_err().code(), "not_ready");
        drop((first, second));
        assert_eq!(uploads.count(), 1);
        let _ = uploads.begin(other).unwrap();
        drop(third);
        assert_eq!(uploads.count(), 0);
        assert!(uploads.by_token.lock().unwrap().is_empty());
    }
}
