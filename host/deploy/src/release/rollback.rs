//! Serving an earlier release again: the pointer moves, and nothing is sent, installed or changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::changes::{self, FileChanges};
use super::history::{Cause, Entry};
use crate::activation::{Swap, active};
use crate::audit::{self, Act, Origin};
use crate::catalog::blocking;
use crate::error::Error;
use crate::faults::point;
use crate::head::MAX_MESSAGE;
use crate::host::{Host, Inner, ProjectView};
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Body, ReleaseRecord};
use crate::webhook;
use cofferdam_ledger::{self as ledger, Durability};

/// How many moves are looked through for releases that failed before.
const REMEMBERED: u32 = 200;

/// Where a project's pointer is to move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// The release to serve; the newest one that is older than what is served and did not fail, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<DeploymentId>,
    /// What must be served now for the move to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<DeploymentId>,
    /// Why, for the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Host {
    /// Moves a project's pointer to a release that is kept: its services are started, asked until they are
    /// ready, and given the route. No deployment changes. To move where it is already is no error.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for a release that is not kept; [`Error::Conflict`] when the project serves another
    /// release than expected, nothing, or nothing older; [`Error::NotReady`] when a service does not start,
    /// and then the pointer stays.
    pub async fn rollback(
        &self,
        project: &ProjectName,
        rollback: Rollback,
        origin: &Origin,
    ) -> Result<ProjectView, Error> {
        self.inner
            .roll_back(project, rollback, Cause::Rollback, origin)
            .await?;
        self.project(project).await
    }
}

impl Inner {
    pub(crate) async fn roll_back(
        self: &Arc<Self>,
        project: &ProjectName,
        rollback: Rollback,
        cause: Cause,
        origin: &Origin,
    ) -> Result<(), Error> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        let Rollback {
            to,
            expect,
            message,
        } = rollback;
        let too_long = |message: &String| message.chars().count() > MAX_MESSAGE;
        if message.as_ref().is_some_and(too_long) {
            return Err(Error::HeadInvalid {
                message: format!("the message is longer than {MAX_MESSAGE} characters"),
            });
        }
        let row = self.ledger.project(project.as_str()).await?;
        if row.is_none() {
            return Err(Error::NotFound {
                what: format!("project {project}"),
            });
        }
        let Some(now) = active(row.as_ref()) else {
            return Err(conflict(format!(
                "project {project} serves nothing yet, so there is nothing to go back from"
            )));
        };
        if let Some(expect) = expect.filter(|expect| *expect != now) {
            return Err(moved(project, now, expect));
        }
        let target = match to {
            Some(target) if target == now => return Ok(()),
            Some(target) => target,
            None => self.release_before(project, now).await?,
        };
        let record = self.release(project, target).await?;
        let strategy = match self.ledger.deployment(target.as_uuid()).await? {
            Some(row) => Body::parse(&row)?.head.strategy,
            None => crate::head::Strategy::default(),
        };
        let root = self.data.release(project, target);
        let swap = Swap {
            project,
            release: target,
            digest: &record.digest,
            root: &root,
            services: &record.services,
            strategy,
            auto_revert: false,
        };
        let prepared = swap.prepare(self, std::future::pending()).await?;
        if prepared.previous != Some(now) {
            let found = prepared.previous;
            prepared.abandon(self).await;
            return Err(match found {
                Some(found) => moved(project, found, now),
                None => conflict(format!("project {project} serves nothing any more")),
            });
        }
        let differences = self.differences(project, now, target).await;
        let entry = Entry {
            project,
            cause,
            release: target,
            previous: Some(now),
            origin,
            message: message.clone(),
            record: &record,
            changes: differences,
        };
        let mut changes = entry.into_changes();
        changes.extend(prepared.changes());
        let said = message.as_deref();
        changes.push(webhook::moved(project, cause.as_str(), target, now, said));
        if cause == Cause::Revert {
            // What a person asks for is in the audit log by its request.
            let (released, told) = (target.to_string(), format!("from {now}"));
            let act = Act {
                action: "project.revert",
                project: Some(project),
                target: Some(&released),
                detail: Some(message.as_deref().unwrap_or(&told)),
            };
            changes.push(audit::change(origin, act));
        }
        match self.ledger.commit(Durability::Power, changes).await {
            Ok(_) => {
                point("pointer-moved");
                prepared.follow(self);
                self.news.notify_one();
                tracing::info!(%project, release = %target, previous = %now, ?cause, "the project serves another release");
                Ok(())
            }
            Err(error) => {
                prepared.abandon(self).await;
                Err(match error {
                    ledger::Error::ActiveConflict {
                        found: Some(found), ..
                    } => moved(project, found.into(), now),
                    ledger::Error::NotFound { .. } => missing(project, target),
                    error => error.into(),
                })
            }
        }
    }

    /// The newest release older than this one that did not fail.
    async fn release_before(
        &self,
        project: &ProjectName,
        now: DeploymentId,
    ) -> Result<DeploymentId, Error> {
        let moves = self
            .ledger
            .activations(project.as_str(), None, REMEMBERED)
            .await?;
        let failed: Vec<_> = moves
            .iter()
            .filter(|row| row.entry.cause == Cause::Revert.as_str())
            .filter_map(|row| row.entry.previous)
            .collect();
        let releases = self.ledger.releases(project.as_str()).await?;
        releases
            .iter()
            .map(|release| release.id)
            .find(|id| *id < now.as_uuid() && !failed.contains(id))
            .map(DeploymentId::from)
            .ok_or_else(|| {
                conflict(format!(
                    "no release of project {project} that is older than {now} is kept; `cofferdam history {project}` \
                     shows those that are"
                ))
            })
    }

    /// A release of a project, if it is kept.
    pub(crate) async fn release(
        &self,
        project: &ProjectName,
        id: DeploymentId,
    ) -> Result<ReleaseRecord, Error> {
        let row = self
            .ledger
            .release(id.as_uuid())
            .await?
            .filter(|row| row.project == project.as_str())
            .ok_or_else(|| missing(project, id))?;
        serde_json::from_str(&row.body).map_err(|source| Error::Damaged {
            what: format!("release {id}"),
            source,
        })
    }

    /// How two releases differ, when both have their lists.
    pub(crate) async fn differences(
        &self,
        project: &ProjectName,
        before: DeploymentId,
        after: DeploymentId,
    ) -> Option<FileChanges> {
        let (before, after) = (
            self.data.listing(project, before),
            self.data.listing(project, after),
        );
        match blocking(move || changes::between(&before, &after)).await {
            Ok(Ok(changes)) => Some(changes),
            Ok(Err(error)) => {
                tracing::debug!(%project, %error, "two releases cannot be compared");
                None
            }
            Err(_) => None,
        }
    }
}

fn conflict(message: String) -> Error {
    Error::Conflict { message }
}

fn moved(project: &ProjectName, found: DeploymentId, expected: DeploymentId) -> Error {
    conflict(format!(
        "project {project} serves release {found} and not {expected}: look again, and decide anew"
    ))
}

fn missing(project: &ProjectName, id: DeploymentId) -> Error {
    Error::NotFound {
        what: format!("a kept release {id} of project {project}"),
    }
}
