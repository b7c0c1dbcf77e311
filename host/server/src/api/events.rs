//! `GET /v1/deployments/{id}/events`: a deployment's events as server-sent events.
//!
//! `id:` is the event's number, so that a client that was cut off says what it has (`Last-Event-ID`) and
//! gets the rest, with no gap and no repeat. Nothing is queued here: an event is taken from the
//! subscription when the connection has room for it, and a reader too slow for the subscription's own
//! bound is told to come back (`resync`).

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use cofferdam_deploy::{Error, Next, Record, StoredEvent, Subscription};
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Deserialize;

use super::Call;
use super::problem::Problem;

/// How often a stream says something when nothing happens: less than the minute after which proxies and
/// mobile networks forget a connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a browser waits before it connects again, in milliseconds. A restart takes about this long.
const RETRY_MILLIS: u32 = 1000;

/// How much is put into one write when many events wait.
const BATCH_BYTES: usize = 32 * 1024;

/// The header by which an `EventSource` says what it has.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    after: Option<String>,
}

/// Answers with the events after the one that the client names, until the end of the deployment.
pub(super) async fn stream(call: Call, record: Record) -> Result<Response, Problem> {
    let query: EventsQuery = call.query()?;
    let header = call.parts.headers.get(LAST_EVENT_ID);
    let header = header.map(|value| value.to_str().unwrap_or_default());
    let resumed = header
        .map(|text| number("Last-Event-ID", text))
        .transpose()?;
    let after = match (resumed, query.after.as_deref()) {
        (Some(after), _) => after,
        (None, Some(text)) => number("after", text)?,
        (None, None) => 0,
    };
    // An EventSource reconnects for ever when a stream ends; this answer is what makes it stop.
    if resumed.is_some() && record.status.is_terminal() && after >= record.events.last {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let subscription = call.api.host().events(record.id, after).await?;
    let stop = call.api.inner.stop.clone();
    Ok(answer(subscription, async move { stop.cancelled().await }))
}

fn number(name: &str, text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| {
        Problem::bad_request(format!(
            "{name} is {text:?}; it is the number of the last event seen"
        ))
    })
}

/// A response that carries a subscription's events until it ends, or until `until` resolves.
pub(super) fn answer(
    subscription: Subscription,
    until: impl Future<Output = ()> + Send + 'static,
) -> Response {
    let feed = Feed {
        state: State::Greeting,
        next: take(subscription),
        until: until.boxed(),
    };
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // For a proxy that buffers answers unless it is told not to.
        (http::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(stream::unfold(feed, Feed::step))).into_response()
}

/// A stream under way.
struct Feed {
    state: State,
    /// The next event, being waited for. It is kept across heartbeats, so that no wait is ever cut off
    /// halfway.
    next: BoxFuture<'static, Taken>,
    until: BoxFuture<'static, ()>,
}

#[derive(PartialEq, Eq)]
enum State {
    Greeting,
    Following,
    Over,
}

/// What came next, and the subscription to ask for more.
type Taken = (Subscription, Result<Next, Error>);

fn take(mut subscription: Subscription) -> BoxFuture<'static, Taken> {
    async move {
        let next = subscription.next().await.map_err(Error::from);
        (subscription, next)
    }
    .boxed()
}

impl Feed {
    /// The next bytes of the answer.
    async fn step(mut self) -> Option<(Result<Bytes, Error>, Self)> {
        match self.state {
            State::Greeting => {
                self.state = State::Following;
                return Some((Ok(format!("retry: {RETRY_MILLIS}\n\n").into()), self));
            }
            State::Following => {}
            State::Over => return None,
        }
        let mut taken = tokio::select! {
            biased;
            taken = &mut self.next => taken,
            () = &mut self.until => return None,
            () = tokio::time::sleep(HEARTBEAT) => {
                return Some((Ok(Bytes::from_static(b": still here\n\n")), self));
            }
        };
        let mut text = String::new();
        loop {
            let (subscription, next) = taken;
            match next {
                Ok(Next::Event(event)) => write_event(&mut text, &event),
                Ok(Next::Resync) => {
                    text.push_str("event: resync\ndata: {}\n\n");
                    self.state = State::Over;
                }
                Ok(Next::End) => self.state = State::Over,
                Err(error) => {
                    // The connection breaks, and the client comes back with the last number it has.
                    tracing::error!(cause = error.chain(), "an event stream cannot go on");
                    self.state = State::Over;
                    return Some((Err(error), self));
                }
            }
            if self.state == State::Over {
                break;
            }
            self.next = take(subscription);
            if text.len() >= BATCH_BYTES {
                break;
            }
            match (&mut self.next).now_or_never() {
                Some(more) => taken = more,
                None => break,
            }
        }
        if text.is_empty() {
            None
        } else {
            Some((Ok(text.into()), self))
        }
    }
}

/// One event in the form of the HTML standard. Its data is one line: JSON escapes line ends.
fn write_event(text: &mut String, event: &StoredEvent) {
    let StoredEvent {
        seq, kind, json, ..
    } = event;
    write!(text, "id: {seq}\nevent: {kind}\ndata: {json}\n\n")
        .expect("a string takes what is written");
}
