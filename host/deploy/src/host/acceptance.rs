//! The way of a deployment in: its head is settled and recorded, and its run begins.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use cofferdam_blobs::Ingest;
use cofferdam_ledger::{Change, Durability, NewDeployment};
use serde_json::json;

use super::{Host, Inner};
use crate::catalog::blocking;
use crate::check::Check;
use crate::data_dir::make_dir;
use crate::error::Error;
use crate::events::EventKind;
use crate::head::{ExpectedDigest, Head};
use crate::intake::Intake;
use crate::live::Live;
use crate::name::{DeploymentId, ProjectName};
use crate::pipeline::{RELEASE, Run};
use crate::plan::Plan;
use crate::record::{Body, Package, Time};
use crate::status::Status;

impl Host {
    /// Accepts a deployment: its head is checked and recorded, and its pipeline starts with the first
    /// byte that the returned intake is given.
    ///
    /// # Errors
    ///
    /// When the head, a plugin or a request is refused, and when nothing more is accepted.
    pub async fn begin(
        &self,
        project: &ProjectName,
        head: Head,
        media_type: Option<String>,
    ) -> Result<Intake, Error> {
        self.inner.clone().begin(project, head, media_type).await
    }

    /// Says what a deployment with this head would get, and starts nothing.
    ///
    /// # Errors
    ///
    /// When the head, a plugin or a configuration is refused, or a granted secret does not exist. A request that
    /// is refused is no error here: it is what the answer says.
    pub async fn check(&self, project: &ProjectName, head: &Head) -> Result<Check, Error> {
        head.check(project)?;
        let activator = &self.inner.activator;
        let check = Plan::check(head, project, &activator.catalog, &activator.policy).await?;
        if check.allowed {
            // What is granted must be there, too.
            let plan = Plan::settle(head, project, &activator.catalog, &activator.policy).await?;
            plan.check_secrets(&self.inner.secrets, project).await?;
        }
        Ok(check)
    }
}

impl Inner {
    async fn begin(
        self: Arc<Self>,
        project: &ProjectName,
        head: Head,
        media_type: Option<String>,
    ) -> Result<Intake, Error> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        head.check(project)?;
        let plan = Plan::settle(
            &head,
            project,
            &self.activator.catalog,
            &self.activator.policy,
        )
        .await?;
        plan.check_secrets(&self.secrets, project).await?;

        let id = DeploymentId::new();
        let accepted = self.accept(id, project, head, media_type, &plan).await;
        let (live, ingest, expected) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.discard(self.data.staging(id)).await;
                if let Err(error) = self.logs.remove(id.as_uuid()) {
                    tracing::warn!(deployment = %id, %error, "the log of a refused deployment stays behind");
                }
                self.data.remove_open_end(id);
                return Err(error);
            }
        };
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, live.clone());
        let turn = self.queue.enter(project, id);
        let run = Run {
            host: self.clone(),
            live: live.clone(),
            plan,
            package: ingest.follow(),
            turn,
        };
        tokio::spawn(run.finish());
        Ok(Intake::new(self, live, ingest, expected))
    }

    /// Makes a place for a deployment and records it. On failure the caller takes the place away; the
    /// record is the last thing that can fail.
    async fn accept(
        &self,
        id: DeploymentId,
        project: &ProjectName,
        head: Head,
        media_type: Option<String>,
        plan: &Plan,
    ) -> Result<(Arc<Live>, Ingest, Option<ExpectedDigest>), Error> {
        let release = self.data.staging(id).join(RELEASE);
        let marker = self.data.open_end(id);
        blocking(move || {
            make_dir(&release)?;
            std::fs::write(&marker, "").map_err(Error::io(format!("write {}", marker.display())))
        })
        .await??;
        let log = self.logs.create(id.as_uuid())?;
        let fields =
            json!({ "status": Status::Queued, "project": project, "message": head.message });
        log.append(EventKind::Phase, None, fields).await?;
        let ingest = self.blobs.ingest(project.as_str()).await?;

        let expected = head.digest.clone();
        let body = Body {
            package: Package {
                media_type,
                ..Package::default()
            },
            steps: plan.records(),
            head,
            ..Body::default()
        };
        let now = Time::now().as_millis();
        let changes = vec![
            Change::PutProject {
                name: project.to_string(),
                created_at: now,
            },
            Change::InsertDeployment(NewDeployment {
                id: id.as_uuid(),
                project: project.to_string(),
                status: Status::Queued.as_str().to_owned(),
                created_at: now,
                body: body.to_json(),
            }),
        ];
        self.ledger.commit(Durability::Process, changes).await?;
        let live = Live::new(id, project.clone(), body, log, self.ledger.clone());
        Ok((live, ingest, expected))
    }
}
