//! Leases while the host runs: taking them at a deployment's turn, renewing them, reaping those of the dead, and
//! breaking one on request.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use cofferdam_ledger::{Change, Durability, LeaseRow};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Host, Inner};
use crate::ending;
use crate::error::Error;
use crate::faults::point;
use crate::lease::{LeaseView, RENEWAL};
use crate::live::Live;
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Body, ErrorRecord, Record, Time};
use crate::status::derive;

/// How long a deployment whose lease is broken may take to end by itself before it is put aside: its steps are
/// killed in a fraction of this.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(5);

/// After how many rounds of renewals expired idempotency keys are removed: about once in an hour.
const FORGET_ROUNDS: u64 = 360;

/// How long a deployment waits for a lease that another process has before it looks again.
const LEASE_LOOK: Duration = Duration::from_millis(500);

/// A lease that was broken.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Broken {
    /// The lease as it was.
    pub lease: LeaseView,
    /// How long it had been held, in milliseconds.
    pub age_ms: u64,
    /// The deployment that had it, as it has ended.
    pub record: Record,
}

impl Host {
    /// Takes the lease of a project from whoever has it, and ends that deployment as `interrupted`; `by` says who
    /// wants it. Answers whom it broke: nothing, when nobody had it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such project; when the ledger fails.
    pub async fn unlock(&self, project: &ProjectName, by: &str) -> Result<Option<Broken>, Error> {
        let inner = &self.inner;
        inner.recovered().await;
        let Some(lease) = inner.ledger.lease(project.as_str()).await? else {
            self.project(project).await?;
            return Ok(None);
        };
        let id = DeploymentId::from(lease.deployment);
        let age = Time::now().as_millis().saturating_sub(lease.acquired_at);
        let error = ErrorRecord::new(
            "interrupted",
            format!("its lease of {project} was broken by {by}; deploy again"),
        );
        tracing::warn!(%project, deployment = %id, owner = lease.owner, by, "a lease is broken");
        match inner.live(id) {
            Some(live) => inner.break_off(&live, error, UNLOCK_PATIENCE).await?,
            None => inner.reap(&lease, error).await?,
        }
        Ok(Some(Broken {
            age_ms: u64::try_from(age).unwrap_or(0),
            lease: lease.into(),
            record: inner.record(id).await?,
        }))
    }
}

impl Inner {
    /// Takes a deployment's lease, once nobody alive has it.
    pub(crate) async fn take_lease(&self, live: &Live) -> Result<(), Error> {
        loop {
            match self.leases.take(&live.project, live.id).await? {
                Ok(fence) => {
                    live.fence.store(fence, Ordering::SeqCst);
                    point("lease-taken");
                    return Ok(());
                }
                Err(lease) if self.is_dead(&lease) => self.reap_dead(&lease).await?,
                Err(_) => tokio::time::sleep(LEASE_LOOK).await,
            }
        }
    }

    /// Renews the leases of what runs and reaps those of the dead, for as long as the host lives.
    pub(crate) fn tend_leases(self: &Arc<Self>) {
        let host = Arc::downgrade(self);
        tokio::spawn(async move {
            for round in 1_u64.. {
                tokio::time::sleep(RENEWAL).await;
                let Some(host) = Weak::upgrade(&host) else {
                    return;
                };
                let tended = match host.tend_once().await {
                    Ok(()) if round.is_multiple_of(FORGET_ROUNDS) => host.forget_keys().await,
                    tended => tended,
                };
                if let Err(error) = tended {
                    tracing::warn!(
                        error = error.chain(),
                        "leases could not be looked after; the next round tries again"
                    );
                }
            }
        });
    }

    async fn tend_once(&self) -> Result<(), Error> {
        // What was paused is for the next start, though nobody here runs it any more.
        if self.is_pausing() {
            return Ok(());
        }
        for live in self.all_live() {
            let fence = live.fence.load(Ordering::SeqCst);
            if fence != 0 && !self.leases.renew(&live.project, fence).await? {
                // Unless it has just ended and given the lease back itself.
                live.stop("interrupted", "its lease was taken by another deployment");
            }
        }
        for lease in self.ledger.leases().await? {
            if self.is_dead(&lease) {
                self.reap_dead(&lease).await?;
            }
        }
        Ok(())
    }

    /// Forgets the idempotency keys whose time has passed. Whoever looks one up judges it anyway.
    async fn forget_keys(&self) -> Result<(), Error> {
        let before = Time::now().as_millis();
        let change = Change::ForgetIdempotencyKeys { before };
        self.ledger
            .commit(Durability::Process, vec![change])
            .await?;
        Ok(())
    }

    fn is_dead(&self, lease: &LeaseRow) -> bool {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        self.leases.is_dead(lease, |id| live.contains_key(&id))
    }

    async fn reap_dead(&self, lease: &LeaseRow) -> Result<(), Error> {
        tracing::warn!(
            project = lease.project,
            deployment = %lease.deployment,
            owner = lease.owner,
            "the lease of a dead owner is reaped"
        );
        let error = ErrorRecord::new(
            "interrupted",
            "whoever ran the deployment is gone; deploy again",
        );
        self.reap(lease, error).await
    }

    /// Frees a lease that no run of this process has, and ends its deployment if it has not ended.
    async fn reap(&self, lease: &LeaseRow, error: ErrorRecord) -> Result<(), Error> {
        let mut changes = vec![Change::FreeLease {
            project: lease.project.clone(),
            fence: lease.fence,
        }];
        let id = DeploymentId::from(lease.deployment);
        let row = self.ledger.deployment(lease.deployment).await?;
        let unfinished = row.filter(|row| !row.finished);
        let mut ended = None;
        if let Some(row) = unfinished {
            let mut body = Body::parse(&row)?;
            let log = self.logs.reopen(row.id)?;
            body.fail(error);
            body.events.last = log.last() + ending::EVENTS_AFTER_FAILURE;
            changes.push(Change::UpdateDeployment {
                id: row.id,
                expect: row.version,
                status: derive(&body).as_str().to_owned(),
                finished: true,
                body: body.to_json(),
            });
            ended = Some((log, body));
        }
        match self.ledger.commit(Durability::Power, changes).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(cofferdam_ledger::Error::Fenced { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if let Some((log, body)) = ended {
            ending::write(&log, derive(&body), body.error.as_ref(), None).await?;
            log.close().await?;
            self.data.remove_open_end(id);
            self.discard(self.data.staging(id)).await;
        }
        Ok(())
    }

    /// Ends a deployment of this process that keeps its project from others: by asking it, or by recording its end
    /// over its head. What it records afterwards is refused.
    async fn break_off(
        &self,
        live: &Live,
        error: ErrorRecord,
        patience: Duration,
    ) -> Result<(), Error> {
        live.stop("interrupted", error.message.clone());
        if tokio::time::timeout(patience, live.ended()).await.is_ok() {
            return Ok(());
        }
        tracing::error!(deployment = %live.id, "a deployment does not stop and is put aside");
        let last = live.log.last() + ending::EVENTS_AFTER_FAILURE;
        let recorded = error.clone();
        let status = live
            .record(Durability::Power, Vec::new(), |body| {
                body.fail(recorded);
                body.events.last = last;
            })
            .await;
        let status = match status {
            Ok(status) => status,
            // It has ended in this very moment.
            Err(Error::Ledger(
                cofferdam_ledger::Error::Finished { .. } | cofferdam_ledger::Error::Fenced { .. },
            )) => return Ok(()),
            Err(error) => return Err(error),
        };
        live.mark_failing();
        self.queue.release(&live.project, live.id);
        self.discard(self.data.staging(live.id)).await;
        let said = ending::write(&live.log, status, Some(&error), None).await;
        // Nobody waits for it any more, neither to read its record nor to stop.
        self.forget(live, true).await;
        said
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use cofferdam_ledger::NewDeployment;
    use cofferdam_sandbox::worker::Isolation;

    use super::*;
    use crate::host::HostOptions;
    use crate::policy::Policy;
    use crate::queue::Turn;
    use crate::status::Status;

    async fn host(directory: &std::path::Path) -> Host {
        let options = HostOptions {
            data: directory.join("data"),
            shipped: Vec::new(),
            domain: "localhost".to_owned(),
            isolation: Isolation::Thread,
            policy: Policy::built_in(),
            max_steps: 1,
            storage: crate::storage::StorageOptions::default(),
        };
        let host = Host::open(options).await.unwrap();
        host.recovered().await;
        host
    }

    /// A deployment that another process runs, as far as the ledger says.
    async fn elsewhere(inner: &Inner, project: &ProjectName, at: i64) -> DeploymentId {
        let id = DeploymentId::new();
        inner
            .logs
            .create(id.as_uuid())
            .unwrap()
            .close()
            .await
            .unwrap();
        let changes = vec![
            Change::PutProject {
                name: project.to_string(),
                created_at: at,
            },
            Change::InsertDeployment(NewDeployment {
                id: id.as_uuid(),
                project: project.to_string(),
                status: Status::Queued.as_str().to_owned(),
                created_at: at,
                body: Body::default().to_json(),
            }),
            Change::TakeLease {
                project: project.to_string(),
                deployment: id.as_uuid(),
                owner: "elsewhere/1/00000000".to_owned(),
                at,
            },
        ];
        inner
            .ledger
            .commit(Durability::Process, changes)
            .await
            .unwrap();
        id
    }

    #[tokio::test]
    async fn the_lease_of_a_silent_owner_is_reaped_and_its_deployment_ends() {
        let directory = tempfile::tempdir().unwrap();
        let host = host(directory.path()).await;
        let (silent, alive) = ("silent".parse().unwrap(), "alive".parse().unwrap());
        let ended = elsewhere(&host.inner, &silent, 1).await;
        let runs = elsewhere(&host.inner, &alive, Time::now().as_millis()).await;
        host.inner.tend_once().await.unwrap();
        let record = host.deployment(ended).await.unwrap();
        assert_eq!(record.status, Status::Failed);
        assert_eq!(record.error.unwrap().code, "interrupted");
        let leases = host.inner.ledger.leases().await.unwrap();
        assert_eq!(leases.len(), 1);
        assert_eq!(DeploymentId::from(leases[0].deployment), runs);
        assert_eq!(host.deployment(runs).await.unwrap().status, Status::Queued);
    }

    #[tokio::test]
    async fn a_run_that_does_not_stop_is_put_aside_and_records_nothing_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let host = host(directory.path()).await;
        let inner = &host.inner;
        let project: ProjectName = "blog".parse().unwrap();
        let id = DeploymentId::new();
        let changes = vec![
            Change::PutProject {
                name: project.to_string(),
                created_at: 1,
            },
            Change::InsertDeployment(NewDeployment {
                id: id.as_uuid(),
                project: project.to_string(),
                status: Status::Queued.as_str().to_owned(),
                created_at: 1,
                body: Body::default().to_json(),
            }),
        ];
        inner
            .ledger
            .commit(Durability::Process, changes)
            .await
            .unwrap();
        let log = inner.logs.create(id.as_uuid()).unwrap();
        let ledger = inner.ledger.clone();
        let live = Live::new(id, project.clone(), Body::default(), log, ledger);
        inner.remember(&live);
        let aside = inner.queue.enter(&project, id).await.unwrap();
        let next = inner.queue.enter(&project, DeploymentId::new());
        inner.take_lease(&live).await.unwrap();

        let error = ErrorRecord::new("interrupted", "it was in the way");
        let patience = Duration::from_millis(10);
        inner.break_off(&live, error, patience).await.unwrap();
        assert!(matches!(next.await.unwrap(), Turn::Run(_)));
        let record = host.deployment(id).await.unwrap();
        assert_eq!(record.error.unwrap().message, "it was in the way");
        assert_eq!(inner.ledger.lease("blog").await.unwrap(), None);
        // It wakes.
        let late = live.record(Durability::Process, Vec::new(), |_| {}).await;
        assert!(
            matches!(
                late,
                Err(Error::Ledger(cofferdam_ledger::Error::Finished { .. }))
            ),
            "{late:?}"
        );
        inner.forget(&live, true).await;
        drop(aside);
    }

    #[tokio::test]
    async fn an_unlock_breaks_the_lease_of_another_process_too_and_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let host = host(directory.path()).await;
        let project = "blog".parse().unwrap();
        let id = elsewhere(&host.inner, &project, Time::now().as_millis()).await;
        let broken = host.unlock(&project, "a test").await.unwrap().unwrap();
        assert_eq!(broken.lease.owner, "elsewhere/1/00000000");
        assert_eq!(broken.record.id, id);
        let error = broken.record.error.unwrap();
        assert!(error.message.contains("a test"), "{}", error.message);
        assert!(host.unlock(&project, "a test").await.unwrap().is_none());
    }
}
