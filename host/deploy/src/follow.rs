//! The events of a project: those of its deployments, one deployment after the other, as they come.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::events::{EventError, Next, StoredEvent, Subscription};
use crate::host::{Filter, Host};
use crate::name::{DeploymentId, ProjectName};

/// How many of a project's newest deployments are looked through for those that still run.
const RECENT: u32 = 20;

/// What following a project has to say.
#[derive(Debug, Clone)]
pub enum ProjectNext {
    /// The next event, of this deployment.
    Event(DeploymentId, Arc<StoredEvent>),
    /// The reader was too slow. Whoever wants the rest follows again from the last event it saw.
    Resync,
    /// The host stops.
    End,
}

/// A reader of a project's events: in the order of its deployments, and within each in the order of its log.
#[derive(Debug)]
pub struct ProjectEvents {
    host: Host,
    project: ProjectName,
    /// The deployment that was read to its end last.
    last: Option<DeploymentId>,
    current: Option<(DeploymentId, Subscription)>,
}

impl Host {
    /// The events of a project after event `after.1` of deployment `after.0`; without that, those of the deployments
    /// that run, and of all that are still to come.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for the project or the deployment, or when the ledger or a log cannot be read.
    pub async fn project_events(
        &self,
        project: &ProjectName,
        after: Option<(DeploymentId, u64)>,
    ) -> Result<ProjectEvents, Error> {
        let mut events = ProjectEvents {
            host: self.clone(),
            project: project.clone(),
            last: None,
            current: None,
        };
        if let Some((deployment, seq)) = after {
            let row = self.inner.deployment_row(deployment).await?;
            if row.project != project.as_str() {
                return Err(Error::NotFound {
                    what: format!("deployment {deployment} of project {project}"),
                });
            }
            let subscription = self.events(deployment, seq).await?;
            events.current = Some((deployment, subscription));
            return Ok(events);
        }
        // Fails for a project that is not there.
        self.project(project).await?;
        let filter = Filter {
            project: Some(project.clone()),
            limit: RECENT,
            ..Filter::default()
        };
        let recent = self.deployments(&filter).await?;
        let running = recent
            .iter()
            .rposition(|record| !record.status.is_terminal());
        events.last = match running {
            Some(oldest) => recent.get(oldest + 1).map(|record| record.id),
            None => recent.first().map(|record| record.id),
        };
        Ok(events)
    }
}

impl ProjectEvents {
    /// The next event, as soon as there is one.
    ///
    /// # Errors
    ///
    /// When the ledger or a log cannot be read.
    pub async fn next(&mut self) -> Result<ProjectNext, Error> {
        loop {
            if let Some((id, subscription)) = &mut self.current {
                let id = *id;
                match subscription.next().await? {
                    Next::Event(event) => return Ok(ProjectNext::Event(id, event)),
                    Next::Resync => {
                        self.current = None;
                        return Ok(ProjectNext::Resync);
                    }
                    Next::End => {
                        self.current = None;
                        self.last = Some(id);
                    }
                }
            }
            let host = self.host.clone();
            let begun = host.inner.begun.notified();
            tokio::pin!(begun);
            // Before looking, so that nothing begins unseen in between.
            begun.as_mut().enable();
            if let Some(id) = self.following().await? {
                match self.host.events(id, 0).await {
                    Ok(subscription) => self.current = Some((id, subscription)),
                    // Recorded, and its log gone: there is nothing to tell of it.
                    Err(Error::Events(EventError::NotFound { .. }) | Error::NotFound { .. }) => {
                        self.last = Some(id);
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            if host.inner.stopping.load(Ordering::SeqCst) {
                return Ok(ProjectNext::End);
            }
            begun.await;
        }
    }

    /// The deployment after the last one that was read.
    async fn following(&self) -> Result<Option<DeploymentId>, Error> {
        let last = self.last.map(DeploymentId::as_uuid);
        let ledger = &self.host.inner.ledger;
        let next = ledger.deployment_after(self.project.as_str(), last).await?;
        Ok(next.map(DeploymentId::from))
    }
}
