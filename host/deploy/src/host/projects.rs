//! What can be read of projects.

use std::collections::HashMap;

use cofferdam_ledger::{DeploymentFilter, HoldRow, LeaseRow, ProjectRow};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Host, Inner};
use crate::error::Error;
use crate::hold::HoldView;
use crate::lease::LeaseView;
use crate::name::{DeploymentId, ProjectName};
use crate::reconcile::ServiceView;
use crate::record::{ReleaseRecord, Time};
use crate::status::Status;

/// A project as a client sees it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProjectView {
    /// Its name.
    pub name: ProjectName,
    /// When it was first deployed.
    pub created_at: Time,
    /// The deployment whose release it serves.
    pub active: Option<DeploymentId>,
    /// The release that it serves.
    pub release: Option<ReleaseRecord>,
    /// How its services do.
    #[serde(default)]
    pub services: Vec<ServiceView>,
    /// Its newest deployment.
    pub latest: Option<Latest>,
    /// Why it takes no deployments, when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldView>,
    /// The deployment that may run, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseView>,
}

/// The newest deployment of a project, in short.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
        let holds = self.inner.ledger.holds().await?;
        let mut holds: HashMap<_, _> = holds
            .into_iter()
            .map(|row| (row.project.clone(), row))
            .collect();
        let leases = self.inner.ledger.leases().await?;
        let mut leases: HashMap<_, _> = leases
            .into_iter()
            .map(|row| (row.project.clone(), row))
            .collect();
        let mut views = Vec::new();
        for row in self.inner.ledger.projects().await? {
            let (hold, lease) = (holds.remove(&row.name), leases.remove(&row.name));
            views.push(self.inner.project_view(&row, hold, lease).await?);
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
            Some(row) => {
                let hold = self.inner.ledger.hold(&row.name).await?;
                let lease = self.inner.ledger.lease(&row.name).await?;
                self.inner.project_view(&row, hold, lease).await
            }
            None => Err(Error::NotFound {
                what: format!("project {name}"),
            }),
        }
    }
}

impl Inner {
    async fn project_view(
        &self,
        row: &ProjectRow,
        hold: Option<HoldRow>,
        lease: Option<LeaseRow>,
    ) -> Result<ProjectView, Error> {
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
        let name: ProjectName = row.name.parse()?;
        Ok(ProjectView {
            created_at: Time::from_millis(row.created_at),
            active: row.active.map(Into::into),
            release,
            services: self.services_of(&name).await?,
            latest,
            hold: hold.map(HoldView::from),
            lease: lease.map(LeaseView::from),
            name,
        })
    }
}
