//! What can be read of projects.

use cofferdam_ledger::DeploymentFilter;
use serde::{Deserialize, Serialize};

use super::{Host, Inner};
use crate::error::Error;
use crate::name::{DeploymentId, ProjectName};
use crate::record::{ReleaseRecord, Time};
use crate::status::Status;

/// A project as a client sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProjectView {
    /// Its name.
    pub name: ProjectName,
    /// When it was first deployed.
    pub created_at: Time,
    /// The deployment whose release it serves.
    pub active: Option<DeploymentId>,
    /// The release that it serves.
    pub release: Option<ReleaseRecord>,
    /// Its newest deployment.
    pub latest: Option<Latest>,
}

/// The newest deployment of a project, in short.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latest {
    /// The deployment.
    pub id: DeploymentId,
    /// Where it stands.
    pub status: Status,
}

impl Host {
    /// Every project, by name.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn projects(&self) -> Result<Vec<ProjectView>, Error> {
        let mut views = Vec::new();
        for row in self.inner.ledger.projects().await? {
            views.push(self.inner.project_view(&row).await?);
        }
        Ok(views)
    }

    /// One project.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be read.
    pub async fn project(&self, name: &ProjectName) -> Result<ProjectView, Error> {
        match self.inner.ledger.project(name.as_str()).await? {
            Some(row) => self.inner.project_view(&row).await,
            None => Err(Error::NotFound {
                what: format!("project {name}"),
            }),
        }
    }
}

impl Inner {
    async fn project_view(&self, row: &cofferdam_ledger::ProjectRow) -> Result<ProjectView, Error> {
        let release = match row.active {
            Some(id) => self.ledger.release(id).await?,
            None => None,
        };
        let release = release
            .map(|release| {
                serde_json::from_str(&release.body).map_err(|source| Error::Damaged {
                    what: format!("release {}", release.id),
                    source,
                })
            })
            .transpose()?;
        let newest = DeploymentFilter {
            project: Some(row.name.clone()),
            limit: 1,
            ..DeploymentFilter::default()
        };
        let latest = match self.ledger.deployments(&newest).await?.first() {
            Some(row) => Some(Latest {
                id: row.id.into(),
                status: row.status.parse()?,
            }),
            None => None,
        };
        Ok(ProjectView {
            name: row.name.parse()?,
            created_at: Time::from_millis(row.created_at),
            active: row.active.map(Into::into),
            release,
            latest,
        })
    }
}
