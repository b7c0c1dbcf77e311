//! Leases: which deployment of a project may run, who runs it, and since when.
//!
//! The queue in memory says whose turn it is; the lease in the ledger makes it hold against whatever is not in this
//! memory: a run that was put aside and wakes again, or another process. Its number, the fence, is in every commit of
//! the run, and a commit with a number that is not the present one is refused.

use std::time::Duration;

use cofferdam_ledger::{Change, Durability, LeaseRow, Ledger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Error;
use crate::name::{DeploymentId, ProjectName};
use crate::record::Time;

/// How often the leases of running deployments are renewed.
pub(crate) const RENEWAL: Duration = Duration::from_secs(10);

/// How long an owner may be silent before it is taken for dead: several renewals, and any pause of a machine that
/// still is one.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60);

/// A project's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseView {
    /// The deployment that may run.
    pub deployment: DeploymentId,
    /// The process that runs it: the machine's name, the process id, and what tells two such processes apart.
    pub owner: String,
    /// The number of the lease: greater than that of every earlier one.
    pub fence: u64,
    /// When it was taken.
    pub acquired_at: Time,
    /// When its owner was last heard of.
    pub renewed_at: Time,
}

impl From<LeaseRow> for LeaseView {
    fn from(row: LeaseRow) -> Self {
        Self {
            deployment: row.deployment.into(),
            owner: row.owner,
            fence: row.fence,
            acquired_at: Time::from_millis(row.acquired_at),
            renewed_at: Time::from_millis(row.renewed_at),
        }
    }
}

/// What takes leases for this process.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    ledger: Ledger,
    owner: String,
}

impl Leases {
    pub(crate) fn new(ledger: Ledger) -> Self {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let machine = Some(machine.trim()).filter(|name| !name.is_empty());
        // The end of such an id is random.
        let nonce = Uuid::now_v7().simple().to_string();
        let nonce = &nonce[nonce.len() - 8..];
        Self {
            ledger,
            owner: format!(
                "{}/{}/{nonce}",
                machine.unwrap_or("localhost"),
                std::process::id()
            ),
        }
    }

    /// Takes a project's lease for a deployment; its fence, or the lease that stands in the way.
    pub(crate) async fn take(
        &self,
        project: &ProjectName,
        deployment: DeploymentId,
    ) -> Result<Result<u64, LeaseRow>, Error> {
        loop {
            let change = Change::TakeLease {
                project: project.to_string(),
                deployment: deployment.as_uuid(),
                owner: self.owner.clone(),
                at: Time::now().as_millis(),
            };
            match self.ledger.commit(Durability::Process, vec![change]).await {
                Ok(commit) => return Ok(Ok(commit.number())),
                Err(cofferdam_ledger::Error::Leased { .. }) => {
                    if let Some(lease) = self.ledger.lease(project.as_str()).await? {
                        return Ok(Err(lease));
                    }
                    // It was given back in between.
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says that the run behind a lease is alive. Whether the lease still is its own.
    pub(crate) async fn renew(&self, project: &ProjectName, fence: u64) -> Result<bool, Error> {
        let change = Change::RenewLease {
            project: project.to_string(),
            fence,
            at: Time::now().as_millis(),
        };
        match self.ledger.commit(Durability::Process, vec![change]).await {
            Ok(_) => Ok(true),
            Err(cofferdam_ledger::Error::Fenced { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether nobody is behind a lease any more. `runs` says whether this process runs a deployment.
    pub(crate) fn is_dead(&self, lease: &LeaseRow, runs: impl Fn(DeploymentId) -> bool) -> bool {
        if lease.owner == self.owner {
            return !runs(lease.deployment.into());
        }
        let silent = Time::now().as_millis().saturating_sub(lease.renewed_at);
        u128::try_from(silent).is_ok_and(|silent| silent > LIFETIME.as_millis())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[tokio::test]
    async fn a_lease_is_dead_when_its_owner_is_silent_or_this_process_knows_nothing_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&directory.path().join("ledger.db"))
            .await
            .unwrap();
        let (ours, other) = (Leases::new(ledger.clone()), Leases::new(ledger));
        assert_ne!(ours.owner, other.owner);
        let project = "blog".parse().unwrap();
        let deployment = DeploymentId::new();
        let fence = ours.take(&project, deployment).await.unwrap().unwrap();
        let mut lease = other
            .take(&project, DeploymentId::new())
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(lease.fence, fence);
        assert!(!ours.is_dead(&lease, |id| id == deployment));
        assert!(ours.is_dead(&lease, |_| false));
        assert!(!other.is_dead(&lease, |_| false));
        lease.renewed_at -= i64::try_from(LIFETIME.as_millis()).unwrap() + 1;
        assert!(other.is_dead(&lease, |_| false));
        assert!(ours.renew(&project, fence).await.unwrap());
        assert!(!ours.renew(&project, fence + 1).await.unwrap());
    }
}
