//! Following a project through all its deployments, and through every break of the connection.

use std::collections::VecDeque;

use super::Api;
use super::sse::Frame;
use super::stream::Stream;
use crate::event::{Event, Kind};
use crate::exit::Failure;
use crate::project::Project;

/// A project's events, each once, from whatever number of streams. They have no end.
#[derive(Debug)]
pub(crate) struct FollowProject {
    api: Api,
    project: Project,
    /// The place of the last event, as the server names it.
    last: Option<String>,
    stream: Stream,
    pending: VecDeque<Event>,
}

impl FollowProject {
    pub(crate) fn of(api: &Api, project: &Project) -> FollowProject {
        FollowProject {
            api: api.clone(),
            project: project.clone(),
            last: None,
            stream: Stream::closed(),
            pending: VecDeque::new(),
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
            if frame.id.is_some() {
                self.last = frame.id;
                self.stream.progressed();
            }
            self.pending.push_back(event);
        }
    }

    async fn reconnect(&mut self) -> Result<(), Failure> {
        self.stream.pause().await;
        let answer = self
            .api
            .project_events(&self.project, self.last.as_deref())
            .await;
        // A server that was never reached is more likely misnamed than restarting.
        if !self.stream.has_opened() {
            return self.stream.open(Ok(answer?));
        }
        self.stream.open(answer).map_err(|failure| match failure {
            Failure::Unreachable(why) => {
                Failure::Unreachable(format!("lost sight of project {}: {why}", self.project))
            }
            refusal => refusal,
        })
    }
}
