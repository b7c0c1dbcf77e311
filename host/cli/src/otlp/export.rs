//! The task that posts batches of spans.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_server::TraceFigures;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::encode::{self, Resource};
use super::spans::Span;
use crate::exit::Failure;

/// Spans of one post, OpenTelemetry's default.
const BATCH: usize = 512;

/// How long the first span of a batch waits for others: long enough for those of a deployment, short enough for a
/// person who looks.
const GATHER: Duration = Duration::from_secs(1);

/// How long a collector may take for one post: half of OTLP's default, because what comes meanwhile waits in memory.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(3);

/// The pause after the first post in vain; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// For how long one batch is tried: a collector that is restarted gets it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much of an answer is read: it says how many spans were not taken, and why.
const MOST_ANSWER: usize = 16 * 1024;

/// How long the end of the server waits for the last spans.
const LAST: Duration = Duration::from_secs(2);

/// An export under way.
#[derive(Debug)]
pub(crate) struct Export {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Export {
    pub(super) fn new(stop: watch::Sender<bool>, task: JoinHandle<()>) -> Self {
        Self { stop, task }
    }

    /// Posts what waits, once, and ends; within [`LAST`], whatever the collector does.
    pub(crate) async fn finish(mut self) {
        self.stop.send_replace(true);
        if timeout(LAST, &mut self.task).await.is_err() {
            tracing::warn!("the last spans did not reach the collector in time");
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a post was in vain.
enum Refusal {
    /// The collector is away, or busy: it may take the same later.
    Passing(String),
    /// It will never take it.
    Lasting(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passing(why) | Self::Lasting(why) => f.write_str(why),
        }
    }
}

/// What posts batches.
pub(super) struct Posts {
    http: Client,
    url: Url,
    headers: HeaderMap,
    resource: Resource,
    figures: Arc<TraceFigures>,
    /// Whether the last post was in vain, so that it is logged once.
    is_away: bool,
}

impl Posts {
    pub(super) fn new(
        url: Url,
        headers: HeaderMap,
        figures: Arc<TraceFigures>,
    ) -> Result<Self, Failure> {
        let mut builder = Client::builder()
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            // What the headers hold goes to the collector that was named and nowhere else.
            .redirect(reqwest::redirect::Policy::none());
        if crate::api::is_loopback(&url) {
            builder = builder.no_proxy();
        }
        if url.scheme() == "https" {
            builder = builder.tls_backend_preconfigured(crate::tls::client(None)?);
        } else {
            crate::tls::install_provider();
        }
        let http = builder
            .build()
            .map_err(|error| Failure::Machine(anyhow::Error::new(error)))?;
        Ok(Self {
            http,
            url,
            headers,
            resource: Resource::here(),
            figures,
            is_away: false,
        })
    }

    /// Posts what comes through the queue until it is told to stop; then what is in it.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Span>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        while gather(&mut queue, &mut stop, &mut batch).await {
            self.deliver(&batch, &mut stop).await;
            batch.clear();
        }
    }

    /// Posts a batch until it is taken, or it is time to give it up.
    async fn deliver(&mut self, batch: &[Span], stop: &mut watch::Receiver<bool>) {
        let spans = batch.len() as u64;
        let body = Bytes::from(encode::request(&self.resource, batch));
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let why = match self.post(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(spans);
                    self.figures.sent(spans - rejected);
                    self.figures.dropped(rejected);
                    if self.is_away {
                        self.is_away = false;
                        let dropped = self.figures.counts().1;
                        tracing::info!(dropped, "the collector takes traces again");
                    }
                    return;
                }
                Err(why) => why,
            };
            if !self.is_away {
                self.is_away = true;
                tracing::warn!(why = %why, "the collector does not take traces; what does not fit the queue meanwhile is dropped");
            }
            let is_last = *stop.borrow() || Instant::now() + pause > deadline;
            if is_last || matches!(why, Refusal::Lasting(_)) {
                self.figures.dropped(spans);
                return;
            }
            tokio::select! {
                () = sleep(pause) => {}
                // Once more, at once. An end of the sender is the same.
                _ = stop.wait_for(|stop| *stop) => {}
            }
            pause *= 2;
        }
    }

    /// Posts once; how many of the spans the collector did not take.
    async fn post(&self, body: Bytes) -> Result<u64, Refusal> {
        let json = HeaderValue::from_static("application/json");
        let answer = self
            .http
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, json)
            .body(body)
            .send()
            .await
            // The address may be confidential, and the operator knows it.
            .map_err(|error| Refusal::Passing(chain(&error.without_url())))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(rejected(answer).await);
        }
        let why = format!("it answers {status}");
        // Those that OTLP's specification names.
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Refusal::Passing(why),
            _ => Refusal::Lasting(why),
        })
    }
}

/// Waits for spans and gathers a batch; false when there are none left and there will be no others.
async fn gather(
    queue: &mut mpsc::Receiver<Span>,
    stop: &mut watch::Receiver<bool>,
    batch: &mut Vec<Span>,
) -> bool {
    tokio::select! {
        biased;
        received = queue.recv_many(batch, BATCH) => if received == 0 {
            return false;
        },
        _ = stop.wait_for(|stop| *stop) => {}
    }
    let until = Instant::now() + GATHER;
    while batch.len() < BATCH && !*stop.borrow() {
        let room = BATCH - batch.len();
        tokio::select! {
            received = timeout_at(until, queue.recv_many(batch, room)) => {
                if !matches!(received, Ok(1..)) {
                    break;
                }
            }
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    while batch.len() < BATCH {
        match queue.try_recv() {
            Ok(span) => batch.push(span),
            Err(_) => break,
        }
    }
    !batch.is_empty()
}

/// How many spans an answer says were not taken.
async fn rejected(mut answer: Response) -> u64 {
    let mut text = Vec::new();
    while text.len() < MOST_ANSWER {
        match answer.chunk().await {
            Ok(Some(part)) => text.extend_from_slice(&part),
            _ => break,
        }
    }
    let Ok(answer) = serde_json::from_slice::<Value>(&text) else {
        return 0;
    };
    let partial = &answer["partialSuccess"];
    // A 64-bit integer is text in protobuf's JSON, and a number where somebody did not know.
    let rejected = match &partial["rejectedSpans"] {
        Value::String(text) => text.parse().unwrap_or(0),
        value => value.as_u64().unwrap_or(0),
    };
    if rejected > 0 {
        tracing::warn!(rejected, "the collector did not take every span");
    }
    rejected
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        text.push_str(": ");
        text.push_str(&found.to_string());
        cause = found.source();
    }
    text
}
