//! Taking away: a package, and a whole project. And what stands against it: a pin.

use std::sync::PoisonError;

use cofferdam_blobs::BlobId;
use cofferdam_ledger::{
    self as ledger, Beside, Change, DeploymentFilter, DeploymentRow, Durability,
};

use crate::catalog::blocking;
use crate::error::Error;
use crate::faults::point;
use crate::host::{Host, Inner, MAX_PAGE};
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Body, Time};

/// How often a project is tried to be torn down that is deployed to all the while.
const ATTEMPTS: u32 = 5;

impl Host {
    /// Keeps the release and the package of a deployment from any retention.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be written.
    pub async fn pin(&self, id: DeploymentId) -> Result<(), Error> {
        let row = self.inner.deployment_row(id).await?;
        let pin = Beside::Pin {
            deployment: row.id,
            project: row.project,
            at: Time::now().as_millis(),
        };
        let changes = vec![pin.into()];
        self.inner.ledger.commit(Durability::Power, changes).await?;
        Ok(())
    }

    /// Takes a pin away; one that is not there is away already.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for the deployment, or when the ledger cannot be written.
    pub async fn unpin(&self, id: DeploymentId) -> Result<(), Error> {
        let row = self.inner.deployment_row(id).await?;
        let changes = vec![Beside::Unpin { deployment: row.id }.into()];
        self.inner.ledger.commit(Durability::Power, changes).await?;
        if let Ok(project) = row.project.parse() {
            self.inner.retain(&project).await;
        }
        Ok(())
    }

    /// Removes the package of a deployment that has ended, and says whether there was one. Its release, if it
    /// has one, stays; it can be gone back to, but not be made again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Conflict`] while the deployment goes on, or when it is pinned.
    pub async fn remove_package(&self, id: DeploymentId) -> Result<bool, Error> {
        let row = self.inner.deployment_row(id).await?;
        if !row.finished {
            return Err(Error::Conflict {
                message: format!(
                    "deployment {id} is {}: its package can be removed when it has ended",
                    row.status
                ),
            });
        }
        if self
            .inner
            .ledger
            .pins(&row.project)
            .await?
            .contains(&row.id)
        {
            return Err(Error::Conflict {
                message: format!(
                    "deployment {id} is pinned: take the pin away first (`cofferdam unpin {id}`)"
                ),
            });
        }
        self.inner.remove_blob(&row).await
    }

    /// Tears a project down: its deployments are cancelled, its name serves nothing, and its releases,
    /// packages, logs, caches, services' directories, secrets and webhook go. The audit log stays. What is gone already is no error;
    /// whether there was anything is the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it is torn down already or a deployment of it cannot be stopped, or when
    /// the ledger cannot be written.
    pub async fn remove_project(&self, project: &ProjectName) -> Result<bool, Error> {
        let inner = &self.inner;
        let _leaving = Leaving::begin(inner, project)?;
        let mut attempts = 0;
        let (existed, deployments) = loop {
            inner.stop_all_of(project).await;
            let _pointer = inner.pointers.take(project).await;
            let deployments = inner.traces_of(project).await?;
            inner.mark_logs(&deployments).await?;
            let existed = inner.ledger.project(project.as_str()).await?.is_some();
            let change = Change::RemoveProject {
                name: project.to_string(),
            };
            match inner.ledger.commit(Durability::Power, vec![change]).await {
                Ok(_) => {
                    inner.routes.replace(project, &[]);
                    break (existed, deployments);
                }
                // One was begun just before the door was shut.
                Err(ledger::Error::Conflict { id, .. }) if attempts == ATTEMPTS => {
                    return Err(Error::Conflict {
                        message: format!(
                            "deployment {id} of project {project} could not be stopped; try again"
                        ),
                    });
                }
                Err(ledger::Error::Conflict { .. }) => attempts += 1,
                Err(error) => return Err(error.into()),
            }
        };
        point("project-removed");
        // From here on nobody refers to any of it; a start after a crash finds it and takes it away.
        inner
            .discard(inner.data.all_releases().join(project.as_str()))
            .await;
        inner
            .discard(inner.data.all_caches().join(project.as_str()))
            .await;
        inner
            .discard(inner.data.all_states().join(project.as_str()))
            .await;
        for (id, blob) in deployments {
            if let Err(error) = inner.logs.remove(id.as_uuid()) {
                tracing::warn!(deployment = %id, %error, "the log of a project that is gone stays behind");
            }
            inner.data.remove_open_end(id);
            if let Some(blob) = blob {
                inner.blobs.remove(blob).await?;
            }
        }
        tracing::info!(%project, "a project was torn down");
        Ok(existed)
    }
}

impl Inner {
    pub(crate) async fn deployment_row(&self, id: DeploymentId) -> Result<DeploymentRow, Error> {
        let row = self.ledger.deployment(id.as_uuid()).await?;
        row.ok_or_else(|| Error::NotFound {
            what: format!("deployment {id}"),
        })
    }

    /// Removes a deployment's package, if there is one.
    pub(crate) async fn remove_blob(&self, row: &DeploymentRow) -> Result<bool, Error> {
        match Body::parse(row)?.blob {
            // Retention asks again and again for what is gone: that takes no right to write.
            Some(blob) if self.blobs.blob(blob).await?.is_some() => {
                Ok(self.blobs.remove(blob).await?)
            }
            _ => Ok(false),
        }
    }

    /// Stops every deployment of a project, and waits until nothing of them runs.
    async fn stop_all_of(&self, project: &ProjectName) {
        let live: Vec<_> = self
            .all_live()
            .into_iter()
            .filter(|live| live.project == *project)
            .collect();
        for live in &live {
            live.stop("cancelled", "the project is torn down");
        }
        for live in live {
            live.ended().await;
        }
    }

    /// What a project's deployments have outside of the ledger: logs and packages.
    async fn traces_of(
        &self,
        project: &ProjectName,
    ) -> Result<Vec<(DeploymentId, Option<BlobId>)>, Error> {
        let mut traces = Vec::new();
        let mut filter = DeploymentFilter {
            project: Some(project.to_string()),
            limit: MAX_PAGE,
            ..DeploymentFilter::default()
        };
        loop {
            let page = self.ledger.deployments(&filter).await?;
            let Some(last) = page.last() else {
                return Ok(traces);
            };
            filter.before = Some(last.id);
            for row in &page {
                traces.push((row.id.into(), Body::parse(row)?.blob));
            }
        }
    }

    /// Lets a start after a crash find the logs whose deployments are not on record any more.
    async fn mark_logs(&self, deployments: &[(DeploymentId, Option<BlobId>)]) -> Result<(), Error> {
        let markers: Vec<_> = deployments
            .iter()
            .map(|(id, _)| self.data.open_end(*id))
            .collect();
        blocking(move || {
            for marker in markers {
                std::fs::write(&marker, "")
                    .map_err(Error::io(format!("write {}", marker.display())))?;
            }
            Ok(())
        })
        .await?
    }

    /// Whether a project is being torn down.
    pub(crate) fn is_leaving(&self, project: &ProjectName) -> bool {
        self.leaving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(project)
    }
}

/// Keeps deployments of a project from being begun while it is torn down.
struct Leaving<'a> {
    host: &'a Inner,
    project: &'a ProjectName,
}

impl<'a> Leaving<'a> {
    fn begin(host: &'a Inner, project: &'a ProjectName) -> Result<Self, Error> {
        let mut leaving = host.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if leaving.insert(project.clone()) {
            Ok(Self { host, project })
        } else {
            Err(Error::Conflict {
                message: format!("project {project} is being torn down already"),
            })
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.host
            .leaving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.project);
    }
}
