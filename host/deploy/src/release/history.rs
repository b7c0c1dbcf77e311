//! Every move of a project's pointer, and what there is to tell of it.

use std::collections::HashSet;

use cofferdam_ledger::{ActivationRow, Beside, Change, NewActivation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::changes::FileChanges;
use crate::audit::Origin;
use crate::error::Error;
use crate::host::{Host, MAX_PAGE};
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Body, ReleaseRecord, StepStatus, Time};

/// Why a project's pointer moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A deployment succeeded.
    Deployment,
    /// Somebody asked for an earlier release, or a later one.
    Rollback,
    /// The host went back by itself, because a service failed soon after the swap.
    Revert,
}

impl Cause {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Rollback => "rollback",
            Self::Revert => "revert",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Deployment, Self::Rollback, Self::Revert]
            .into_iter()
            .find(|cause| cause.as_str() == text)
    }
}

/// One move of a project's pointer, as a client sees it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Activation {
    /// Its number; later moves have larger ones.
    pub number: u64,
    /// When.
    pub at: Time,
    /// Why.
    pub cause: Cause,
    /// For whom, and from where.
    pub by: Origin,
    /// What was said about it: a deployment's message, or the reason of whoever moved it.
    pub message: Option<String>,
    /// What is served from then on.
    pub release: Option<DeploymentId>,
    /// What was served before.
    pub previous: Option<DeploymentId>,
    /// The digest of what is served from then on.
    pub digest: Option<String>,
    /// How many files it has, and how many bytes they hold.
    pub files: u64,
    /// See `files`.
    pub bytes: u64,
    /// What differs from what was served before, when both were there to be compared.
    pub changes: Option<FileChanges>,
    /// How long each step took, when it was a deployment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepTime>,
    /// How long the whole deployment took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// Whether the release is still there to go back to.
    pub kept: bool,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Whether it is what the project serves now.
    pub active: bool,
}

/// How long a step took.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StepTime {
    /// The step.
    pub name: String,
    /// The plugin, by name and version where it has them.
    pub plugin: String,
    /// How it ended.
    pub status: StepStatus,
    /// From its start to its end, in milliseconds.
    pub ms: Option<u64>,
}

/// What the ledger keeps of a move beside its columns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Details {
    message: Option<String>,
    digest: Option<String>,
    #[serde(default)]
    files: u64,
    #[serde(default)]
    bytes: u64,
    changes: Option<FileChanges>,
}

/// A move that is about to be recorded.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) project: &'a ProjectName,
    pub(crate) cause: Cause,
    pub(crate) release: DeploymentId,
    pub(crate) previous: Option<DeploymentId>,
    pub(crate) origin: &'a Origin,
    pub(crate) message: Option<String>,
    pub(crate) record: &'a ReleaseRecord,
    pub(crate) changes: Option<FileChanges>,
}

impl Entry<'_> {
    /// The pointer's move and its row, for the commit that makes them. The move holds only if the pointer
    /// is where `previous` says.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        let details = Details {
            message: self.message,
            digest: Some(self.record.digest.clone()),
            files: self.record.files,
            bytes: self.record.bytes,
            changes: self.changes,
        };
        let previous = self.previous.map(DeploymentId::as_uuid);
        vec![
            Change::SetActive {
                project: self.project.to_string(),
                release: Some(self.release.as_uuid()),
                expect: Some(previous),
            },
            Beside::Activation(NewActivation {
                project: self.project.to_string(),
                at: Time::now().as_millis(),
                release: Some(self.release.as_uuid()),
                previous,
                cause: self.cause.as_str().to_owned(),
                token: self.origin.token,
                token_name: self.origin.name.clone(),
                address: self.origin.address.map(|address| address.to_string()),
                body: serde_json::to_string(&details)
                    .expect("it has only string keys and serialises"),
            })
            .into(),
        ]
    }
}

impl Host {
    /// A page of the moves of a project's pointer, newest first, before this number if one is given.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be read.
    pub async fn history(
        &self,
        project: &ProjectName,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Activation>, Error> {
        let ledger = &self.inner.ledger;
        let Some(row) = ledger.project(project.as_str()).await? else {
            return Err(Error::NotFound {
                what: format!("project {project}"),
            });
        };
        let releases = ledger.releases(project.as_str()).await?;
        let kept: HashSet<_> = releases.into_iter().map(|release| release.id).collect();
        let pins: HashSet<_> = ledger.pins(project.as_str()).await?.into_iter().collect();
        let limit = limit.clamp(1, MAX_PAGE);
        let mut history = Vec::new();
        for activation in ledger.activations(project.as_str(), before, limit).await? {
            let mut view = view(&activation)?;
            if let Some(id) = activation.entry.release {
                view.kept = kept.contains(&id);
                view.pinned = pins.contains(&id);
                view.active = row.active == Some(id);
                if view.cause == Cause::Deployment
                    && let Some(row) = ledger.deployment(id).await?
                {
                    let body = Body::parse(&row)?;
                    view.steps = times(&body);
                    view.total_ms = row
                        .finished_at
                        .and_then(|end| u64::try_from(end - row.created_at).ok());
                }
            }
            history.push(view);
        }
        Ok(history)
    }
}

fn times(body: &Body) -> Vec<StepTime> {
    let took = |from: Option<Time>, to: Option<Time>| {
        let took = to?.as_millis() - from?.as_millis();
        u64::try_from(took).ok()
    };
    body.steps
        .iter()
        .map(|step| StepTime {
            name: step.name.clone(),
            plugin: step.plugin.clone(),
            status: step.status,
            ms: took(step.started_at, step.finished_at),
        })
        .collect()
}

fn view(row: &ActivationRow) -> Result<Activation, Error> {
    let entry = &row.entry;
    let details: Details = serde_json::from_str(&entry.body).map_err(|source| Error::Damaged {
        what: format!("move {} of project {}", row.number, entry.project),
        source,
    })?;
    Ok(Activation {
        number: row.number,
        at: Time::from_millis(entry.at),
        cause: Cause::parse(&entry.cause).unwrap_or(Cause::Deployment),
        by: Origin {
            token: entry.token,
            name: entry.token_name.clone(),
            address: entry
                .address
                .as_deref()
                .and_then(|address| address.parse().ok()),
        },
        message: details.message,
        release: entry.release.map(DeploymentId::from),
        previous: entry.previous.map(DeploymentId::from),
        digest: details.digest,
        files: details.files,
        bytes: details.bytes,
        changes: details.changes,
        steps: Vec::new(),
        total_ms: None,
        kept: false,
        pinned: false,
        active: false,
    })
}
