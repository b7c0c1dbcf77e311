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
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, StatusCode};
use serde::Deserialize;

use super::Call;
use super::problem::Problem;
use crate::metrics::Listener;

/// How often a stream says something when nothing happens: less than the minute after which proxies and
/// mobile networks forget a connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a browser waits before it connects again, in milliseconds. A restart takes about this long.
const RETRY_MILLIS: u32 = 1000;

/// How much is put into one write when many events wait.
const BATCH_BYTES: usize = 32 * 1024;

/// The header by which nginx and its kin are told not to hold an answer back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

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
    let listener = call.api.inner.metrics.listener();
    let until = async move { stop.cancelled().await };
    Ok(answer(subscription, until, listener))
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
    listener: Listener,
) -> Response {
    let events = stream::unfold(subscription, async |mut subscription| {
        let next = subscription.next().await.map_err(Error::from);
        Some((next, subscription))
    });
    let until = async move {
        until.await;
        // Counted until the answer ends or is dropped, whichever comes first.
        drop(listener);
    };
    let feed = Feed::new(events, until);
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // For a proxy that buffers answers unless it is told not to.
        (X_ACCEL_BUFFERING, "no"),
    ];
    (headers, Body::from_stream(stream::unfold(feed, Feed::step))).into_response()
}

/// A stream under way.
struct Feed {
    state: State,
    /// The events to come. Waiting for one can be given up at any point and loses nothing, which a
    /// heartbeat depends on.
    events: BoxStream<'static, Result<Next, Error>>,
    until: BoxFuture<'static, ()>,
}

#[derive(PartialEq, Eq)]
enum State {
    Greeting,
    Following,
    Over,
}

impl Feed {
    fn new(
        events: impl Stream<Item = Result<Next, Error>> + Send + 'static,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Greeting,
            events: events.boxed(),
            until: until.boxed(),
        }
    }

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
        let mut next = tokio::select! {
            biased;
            next = self.events.next() => next,
            () = &mut self.until => return None,
            () = tokio::time::sleep(HEARTBEAT) => {
                return Some((Ok(Bytes::from_static(b": still here\n\n")), self));
            }
        };
        let mut text = String::new();
        loop {
            match next {
                Some(Ok(Next::Event(event))) => write_event(&mut text, &event),
                Some(Ok(Next::Resync)) => {
                    text.push_str("event: resync\ndata: {}\n\n");
                    self.state = State::Over;
                }
                Some(Ok(Next::End)) | None => self.state = State::Over,
                Some(Err(error)) => {
                    // The connection breaks, and the client comes back with the last number it has.
                    tracing::error!(cause = error.chain(), "an event stream cannot go on");
                    self.state = State::Over;
                    return Some((Err(error), self));
                }
            }
            if self.state == State::Over || text.len() >= BATCH_BYTES {
                break;
            }
            match self.events.next().now_or_never() {
                Some(more) => next = more,
                None => break,
            }
        }
        (!text.is_empty()).then(|| (Ok(text.into()), self))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::sync::Arc;

    use futures::future::pending;
    use tokio::time::Instant;

    use super::*;

    fn event(seq: u64) -> Result<Next, Error> {
        let json = format!("{{\"seq\":{seq}}}");
        let kind = "line".to_owned();
        Ok(Next::Event(Arc::new(StoredEvent { seq, kind, json })))
    }

    /// Everything that a feed says, piece by piece.
    async fn told(feed: Feed) -> Vec<Result<String, String>> {
        let pieces = stream::unfold(feed, Feed::step);
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let piece = pieces.map(|piece| piece.map(text).map_err(|error| error.to_string()));
        piece.collect().await
    }

    #[tokio::test]
    async fn events_that_wait_go_out_together() {
        let events = stream::iter([event(4), event(5), Ok(Next::End), event(6)]);
        let expected = [
            "retry: 1000\n\n",
            "id: 4\nevent: line\ndata: {\"seq\":4}\n\nid: 5\nevent: line\ndata: {\"seq\":5}\n\n",
        ];
        let told = told(Feed::new(events, pending())).await;
        assert_eq!(told, expected.map(|piece| Ok(piece.to_owned())));
    }

    #[tokio::test]
    async fn a_flood_goes_out_in_pieces_of_bounded_size() {
        let events = stream::iter((1..=10_000).map(event).chain([Ok(Next::End)]));
        let told = told(Feed::new(events, pending())).await;
        assert!(told.len() > 10);
        for piece in told {
            assert!(piece.unwrap().len() < BATCH_BYTES + 100);
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_sent_away_without_a_number() {
        let events = stream::iter([event(1), Ok(Next::Resync), Ok(Next::End)]);
        let told = told(Feed::new(events, pending())).await;
        let last = told.last().unwrap().clone().unwrap();
        assert!(last.ends_with("\n\nevent: resync\ndata: {}\n\n"), "{last}");
        assert_eq!(last.matches("id: ").count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_a_heartbeat() {
        let late = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            event(1)
        };
        let events = stream::once(late).chain(stream::iter([Ok(Next::End)]));
        let before = Instant::now();
        let told = told(Feed::new(events, pending())).await;
        assert_eq!(before.elapsed().as_secs(), 40);
        assert_eq!(
            told[1..3],
            [
                Ok(": still here\n\n".to_owned()),
                Ok(": still here\n\n".to_owned())
            ]
        );
        assert!(told[3].as_ref().unwrap().starts_with("id: 1\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_the_server_stops() {
        let until = tokio::time::sleep(Duration::from_secs(1));
        let told = told(Feed::new(stream::pending(), until)).await;
        assert_eq!(told.len(), 1);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_breaks_the_stream() {
        let broken = Err(Error::NotFound {
            what: "it".to_owned(),
        });
        let events = stream::iter([event(1), broken, event(2)]);
        let told = told(Feed::new(events, pending())).await;
        assert!(told.last().unwrap().is_err());
    }
}
