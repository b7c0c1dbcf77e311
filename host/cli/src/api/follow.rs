//! Following a deployment to its end, through every break of the connection.

use std::collections::VecDeque;
#[cfg(test)]
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};

use super::Api;
use super::sse::Frame;
use super::stream::Stream;
use crate::event::{Event, Kind};
use crate::exit::Failure;

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
    stream: Stream,
    pending: VecDeque<Event>,
    ended: bool,
}

impl Follow {
    /// Follows the deployment `id` from after event `last` on.
    pub(crate) fn of(api: &Api, id: String, last: u64) -> Follow {
        Follow {
            api: api.clone(),
            id: Some(id),
            last,
            stream: Stream::closed(),
            pending: VecDeque::new(),
            ended: false,
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
            follow.stream = Stream::of(answer);
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
        self.stream.set_patience(patience);
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
            match self.stream.next().await {
                Some(frames) => self.take(frames),
                None => self.reconnect().await?,
            }
        }
    }

    fn take(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            let event = Event::read(&frame.event, &frame.data);
            if event.kind == Kind::Resync {
                self.stream.close();
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
                self.stream.progressed();
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
        self.stream.pause().await;
        let answer = match self.api.events(&id, self.last).await {
            // The deployment is over, and all of it was seen already.
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => {
                self.ended = true;
                return Ok(());
            }
            answer => answer,
        };
        self.stream.open(answer).map_err(|failure| match failure {
            Failure::Unreachable(why) => Failure::Unreachable(format!(
                "lost sight of deployment {id} after event {}: {why}\n\
                 it goes on or ends without us: `cofferdam events {id} --after {}` takes it up again",
                self.last, self.last
            )),
            refusal => refusal,
        })
    }
}
