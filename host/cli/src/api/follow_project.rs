//! Following a project through all its deployments, and through every break of the connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use reqwest::Response;

use super::Api;
use super::sse::Decoder;
use crate::event::{Event, Kind};
use crate::exit::Failure;
use crate::project::Project;

/// Silence after which a stream is taken for dead: the server's heartbeat comes every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The first wait before a stream is asked for again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait before a stream is asked for again.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long a server may be out of reach before following it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A project's events, each once, from whatever number of streams. They have no end.
#[derive(Debug)]
pub(crate) struct FollowProject {
    api: Api,
    project: Project,
    /// The place of the last event, as the server names it.
    last: Option<String>,
    stream: Option<Response>,
    decoder: Decoder,
    pending: VecDeque<Event>,
    wait: Duration,
    unreachable_since: Option<Instant>,
    is_first: bool,
}

impl FollowProject {
    pub(crate) fn of(api: &Api, project: &Project) -> FollowProject {
        FollowProject {
            api: api.clone(),
            project: project.clone(),
            last: None,
            stream: None,
            decoder: Decoder::default(),
            pending: VecDeque::new(),
            wait: FIRST_WAIT,
            unreachable_since: None,
            is_first: true,
        }
    }

    /// The next events.
    ///
    /// # Errors
    ///
    /// [`Failure::Unreachable`] when the server has been out of reach for half a minute, or from the start;
    /// [`Failure::Refused`] when it does not want to tell.
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>, Failure> {
        loop {
            if !self.pending.is_empty() {
                return Ok(self.pending.drain(..).collect());
            }
            match &mut self.stream {
                Some(stream) => match tokio::time::timeout(SILENCE, stream.chunk()).await {
                    Ok(Ok(Some(part))) => self.take(&part),
                    // The end, a break or silence: all mean asking again.
                    _ => self.stream = None,
                },
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
            if frame.id.is_some() {
                self.last = frame.id;
                self.wait = FIRST_WAIT;
            }
            self.pending.push_back(event);
        }
    }

    async fn reconnect(&mut self) -> Result<(), Failure> {
        self.decoder = Decoder::default();
        if !self.is_first {
            tokio::time::sleep(self.wait).await;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        match self
            .api
            .project_events(&self.project, self.last.as_deref())
            .await
        {
            Ok(stream) => {
                self.stream = Some(stream);
                self.unreachable_since = None;
                self.is_first = false;
                Ok(())
            }
            Err(Failure::Unreachable(why)) if !self.is_first => {
                let since = *self.unreachable_since.get_or_insert_with(Instant::now);
                if since.elapsed() < PATIENCE {
                    return Ok(());
                }
                Err(Failure::Unreachable(format!(
                    "lost sight of project {}: {why}",
                    self.project
                )))
            }
            Err(failure) => Err(failure),
        }
    }
}
