//! Following a deployment to its end, through every break of the connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};

use super::Api;
use super::sse::Decoder;
use crate::event::{Event, Kind};
use crate::exit::Failure;

/// Silence after which a stream is taken for dead: the server's heartbeat comes every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The first wait before a stream is asked for again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait before a stream is asked for again.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long a server may be out of reach before following it is given up: a restart fits well into this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Events decoded from one read may be many; this many at most are handed out at once, so that a flood does
/// not keep the caller from its clock and its signals.
const BATCH: usize = 512;

/// A deployment's events in order, each once, from whatever number of streams.
#[derive(Debug)]
pub(crate) struct Follow {
    api: Api,
    /// Learnt from the first event when the stream is a deployment's own answer.
    id: Option<String>,
    last: u64,
    stream: Option<Response>,
    decoder: Decoder,
    pending: VecDeque<Event>,
    ended: bool,
    wait: Duration,
    unreachable_since: Option<Instant>,
    patience: Duration,
}

impl Follow {
    /// Follows the deployment `id` from after event `last` on.
    pub(crate) fn of(api: &Api, id: String, last: u64) -> Follow {
        Follow {
            api: api.clone(),
            id: Some(id),
            last,
            stream: None,
            decoder: Decoder::default(),
            pending: VecDeque::new(),
            ended: false,
            wait: FIRST_WAIT,
            unreachable_since: None,
            patience: PATIENCE,
        }
    }

    /// Follows the deployment whose creation was answered with `answer`: its event stream, or its record.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`] when the answer is neither.
    pub(crate) async fn answer(api: &Api, answer: Response) -> Result<Follow, Failure> {
        let media_type = answer.headers().get(CONTENT_TYPE);
        let is_stream = media_type
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/event-stream"));
        if is_stream {
            let mut follow = Follow::of(api, String::new(), 0);
            follow.id = None;
            follow.stream = Some(answer);
            return Ok(follow);
        }
        let record = api.json(answer).await?;
        match record.get("id").and_then(serde_json::Value::as_str) {
            Some(id) => Ok(Follow::of(api, id.to_owned(), 0)),
            None => Err(Failure::Unreachable(format!(
                "{} answers a deployment without naming it",
                api.url()
            ))),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_patience(mut self, patience: Duration) -> Follow {
        self.patience = patience;
        self
    }

    /// The deployment's id, once it is known.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The next events, or nothing after the last one.
    ///
    /// A stream that breaks is taken up again where it was left, for as long as the server can be reached.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`] when the server has been out of reach for half a minute, or went away before it
    /// named the deployment; [`Failure::Refused`] when it does not want to tell.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Event>>, Failure> {
        loop {
            if !self.pending.is_empty() {
                let batch = self.pending.len().min(BATCH);
                return Ok(Some(self.pending.drain(..batch).collect()));
            }
            if self.ended {
                return Ok(None);
            }
            match &mut self.stream {
                Some(stream) => {
                    match tokio::time::timeout(SILENCE, stream.chunk()).await {
                        Ok(Ok(Some(part))) => self.take(&part),
                        // The end, a break or silence: all mean asking again.
                        _ => self.stream = None,
                    }
                }
                None => self.reconnect().await?,
            }
        }
    }

    fn take(&mut self, part: &[u8]) {
        let Ok(frames) = self.decoder.feed(part) else {
            self.stream = None;
            return;
        };
        for frame in frames {
            let event = Event::read(&frame.event, &frame.data);
            if event.kind == Kind::Resync {
                self.stream = None;
                return;
            }
            if self.id.is_none() {
                self.id.clone_from(&event.deployment);
            }
            let seq = event.seq.or_else(|| frame.id.as_deref()?.parse().ok());
            if let Some(seq) = seq {
                if seq <= self.last {
                    continue;
                }
                self.last = seq;
                self.wait = FIRST_WAIT;
            }
            self.ended |= matches!(event.kind, Kind::Done { .. });
            self.pending.push_back(event);
        }
    }

    async fn reconnect(&mut self) -> Result<(), Failure> {
        let Some(id) = self.id.clone() else {
            return Err(Failure::Unreachable(format!(
                "the server at {} went away before it named the deployment",
                self.api.url()
            )));
        };
        self.decoder = Decoder::default();
        // Every stream but the very first has just broken; without a wait, one that breaks at once would be
        // asked for as fast as the machine can.
        if self.last > 0 || self.unreachable_since.is_some() || self.wait > FIRST_WAIT {
            tokio::time::sleep(self.wait).await;
        }
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        match self.api.events(&id, self.last).await {
            // The deployment is over, and all of it was seen already.
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => {
                self.ended = true;
                Ok(())
            }
            Ok(stream) => {
                self.stream = Some(stream);
                self.unreachable_since = None;
                Ok(())
            }
            Err(Failure::Unreachable(why)) => {
                let since = *self.unreachable_since.get_or_insert_with(Instant::now);
                if since.elapsed() < self.patience {
                    return Ok(());
                }
                Err(Failure::Unreachable(format!(
                    "lost sight of deployment {id} after event {}: {why}\n\
                     it goes on or ends without us: `cofferdam events {id} --after {}` takes it up again",
                    self.last, self.last
                )))
            }
            Err(refusal) => Err(refusal),
        }
    }
}
