//! `GET /v1/projects/{project}/events`: the events of all of a project's deployments, as they come.
//!
//! `id:` is `DEPLOYMENT/NUMBER`, so that a client that was cut off says what it has and gets the rest, though other
//! deployments began and ended meanwhile. Without it, the stream begins with the deployments that run.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use cofferdam_deploy::{DeploymentId, Error, ProjectEvents, ProjectName, ProjectNext};
use futures::stream;
use http::HeaderName;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use tokio_util::sync::CancellationToken;

use super::Call;
use super::problem::Problem;
use crate::metrics::Listener;

/// How often a stream says something when nothing happens: see the events of a deployment.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// For a proxy that buffers answers unless it is told not to.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers with the events after the one that the client names, until one of the two goes away.
pub(super) async fn stream(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let last = call.parts.headers.get("last-event-id");
    let after = last
        .map(|value| place(value.to_str().unwrap_or_default()))
        .transpose()?;
    let events = call.api.host().project_events(&project, after).await?;
    let feed = Feed {
        events,
        stop: call.api.inner.stop.clone(),
        is_over: false,
        is_greeted: false,
        _listener: call.api.inner.metrics.listener(),
    };
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        (X_ACCEL_BUFFERING, "no"),
    ];
    Ok((headers, Body::from_stream(stream::unfold(feed, Feed::step))).into_response())
}

/// `DEPLOYMENT/NUMBER`.
fn place(text: &str) -> Result<(DeploymentId, u64), Problem> {
    let parsed = text
        .split_once('/')
        .and_then(|(deployment, number)| Some((deployment.parse().ok()?, number.parse().ok()?)));
    parsed.ok_or_else(|| {
        Problem::bad_request(format!(
            "Last-Event-ID is {text:?}; it is DEPLOYMENT/NUMBER of the last event seen"
        ))
    })
}

struct Feed {
    events: ProjectEvents,
    stop: CancellationToken,
    is_over: bool,
    is_greeted: bool,
    _listener: Listener,
}

impl Feed {
    async fn step(mut self) -> Option<(Result<Bytes, Error>, Self)> {
        if self.is_over {
            return None;
        }
        if !self.is_greeted {
            self.is_greeted = true;
            return Some((Ok(Bytes::from_static(b"retry: 1000\n\n")), self));
        }
        let next = tokio::select! {
            biased;
            next = self.events.next() => next,
            () = self.stop.cancelled() => return None,
            () = tokio::time::sleep(HEARTBEAT) => {
                return Some((Ok(Bytes::from_static(b": still here\n\n")), self));
            }
        };
        match next {
            Ok(ProjectNext::Event(deployment, event)) => {
                let mut text = String::new();
                write!(
                    text,
                    "id: {deployment}/{}\nevent: {}\ndata: {}\n\n",
                    event.seq, event.kind, event.json
                )
                .expect("a string takes what is written");
                Some((Ok(text.into()), self))
            }
            Ok(ProjectNext::Resync) => {
                self.is_over = true;
                Some((Ok(Bytes::from_static(b"event: resync\ndata: {}\n\n")), self))
            }
            Ok(ProjectNext::End) => None,
            Err(error) => {
                // The connection breaks, and the client comes back with the last place it has.
                tracing::error!(cause = error.chain(), "a project's events cannot go on");
                self.is_over = true;
                Some((Err(error), self))
            }
        }
    }
}
