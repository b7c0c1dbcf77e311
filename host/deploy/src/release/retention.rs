//! Which releases and packages are kept: by number, age and bytes, but always what is served and what is
//! pinned. A release that goes takes its package with it; of failed deployments the newest one's package is
//! kept, so that it can be looked at.

mod rules;

use std::collections::HashSet;
use std::sync::Arc;

use cofferdam_ledger::{Beside, Change, DeploymentFilter, Durability, ReleaseRow};
use uuid::Uuid;

pub(crate) use self::rules::{Retention, RetentionRules};
use crate::activation::active;
use crate::error::Error;
use crate::faults::point;
use crate::host::Inner;
use crate::name::ProjectName;
use crate::record::{Body, Time};
use crate::status::Status;

/// How many ended deployments are looked at for packages nobody needs. Each end looks, so more never pile up.
const LOOK: u32 = 50;

impl RetentionRules {
    /// The releases that go. They come newest first.
    fn expired(&self, releases: &[ReleaseRow], keep: &HashSet<Uuid>, now_millis: i64) -> Vec<Uuid> {
        // What is kept whatever happens counts first.
        let is_kept = |row: &&ReleaseRow| keep.contains(&row.id);
        let mut count = releases.iter().filter(is_kept).count() as u64;
        let mut bytes: u64 = releases
            .iter()
            .filter(is_kept)
            .fold(0, |sum, row| sum.saturating_add(row.bytes));
        let mut expired = Vec::new();
        for row in releases.iter().filter(|row| !is_kept(row)) {
            let age = u64::try_from(now_millis.saturating_sub(row.created_at)).unwrap_or(0);
            let with = bytes.saturating_add(row.bytes);
            let is_over = count >= u64::from(self.releases)
                || self.age_ms.is_some_and(|limit| age > limit)
                || self.bytes.is_some_and(|limit| with > limit);
            if is_over {
                expired.push(row.id);
            } else {
                count += 1;
                bytes = with;
            }
        }
        expired
    }
}

impl Inner {
    /// Takes away what no rule keeps, and logs what stands in the way.
    pub(crate) async fn retain(self: &Arc<Self>, project: &ProjectName) {
        if let Err(error) = self.try_to_retain(project).await {
            tracing::warn!(%project, error = error.chain(), "what is not kept any more could not be taken away; the next deployment tries again");
        }
    }

    async fn try_to_retain(self: &Arc<Self>, project: &ProjectName) -> Result<(), Error> {
        let pins: HashSet<Uuid> = self
            .ledger
            .pins(project.as_str())
            .await?
            .into_iter()
            .collect();
        self.retain_releases(project, &pins).await?;
        self.retain_packages(project, &pins).await
    }

    async fn retain_releases(
        self: &Arc<Self>,
        project: &ProjectName,
        pins: &HashSet<Uuid>,
    ) -> Result<(), Error> {
        // What is about to be served must not go meanwhile.
        let pointer = self.pointers.take(project).await;
        let row = self.ledger.project(project.as_str()).await?;
        let mut keep = pins.clone();
        keep.extend(active(row.as_ref()).map(crate::DeploymentId::as_uuid));
        let releases = self.ledger.releases(project.as_str()).await?;
        let rules = self.activator.policy.retention().of(project);
        let mut expired = rules.expired(&releases, &keep, Time::now().as_millis());
        expired.retain(|id| !self.needed.keeps((*id).into()));
        if expired.is_empty() {
            return Ok(());
        }
        let mut changes: Vec<Change> = Vec::new();
        for id in &expired {
            changes.push(Change::RemoveRelease { id: *id });
            changes.push(
                Beside::RemoveServices {
                    project: project.to_string(),
                    release: *id,
                }
                .into(),
            );
        }
        // Synced before a file goes: a release on record is whole.
        self.ledger.commit(Durability::Power, changes).await?;
        point("retention-recorded");
        drop(pointer);
        for id in expired {
            let id = id.into();
            tracing::info!(%project, release = %id, "a release is not kept any longer");
            self.discard(self.data.release(project, id)).await;
            self.discard(self.data.listing(project, id)).await;
            if let Some(row) = self.ledger.deployment(id.as_uuid()).await? {
                self.remove_blob(&row).await?;
            }
        }
        Ok(())
    }

    /// Of failed deployments the newest package stays, of cancelled ones none; of those that succeeded, those of
    /// the releases that are kept. The last go with their releases, unless the host dies in between.
    async fn retain_packages(
        &self,
        project: &ProjectName,
        pins: &HashSet<Uuid>,
    ) -> Result<(), Error> {
        for (status, kept) in [
            (Status::Failed, 1),
            (Status::Cancelled, 0),
            (Status::Succeeded, 0),
        ] {
            let filter = DeploymentFilter {
                project: Some(project.to_string()),
                status: Some(status.as_str().to_owned()),
                before: None,
                limit: LOOK,
            };
            let mut seen = 0;
            let rows = self.ledger.deployments(&filter).await?;
            // Asked for after the deployments: one that succeeds has its release from that very commit on.
            let releases: HashSet<Uuid> = match status {
                Status::Succeeded => {
                    let releases = self.ledger.releases(project.as_str()).await?;
                    releases.into_iter().map(|release| release.id).collect()
                }
                _ => HashSet::new(),
            };
            for row in rows {
                if releases.contains(&row.id) || Body::parse(&row)?.blob.is_none() {
                    continue;
                }
                seen += 1;
                if seen > kept && !pins.contains(&row.id) {
                    self.remove_blob(&row).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    /// Releases of 10 bytes, one an hour, the newest first; each is named by its age in hours.
    fn releases(ages: &[i64]) -> Vec<ReleaseRow> {
        ages.iter()
            .map(|age| ReleaseRow {
                id: Uuid::from_u128(u128::try_from(*age).unwrap_or(0)),
                project: "blog".to_owned(),
                digest: String::new(),
                files: 1,
                bytes: 10,
                created_at: -age * HOUR,
                body: String::new(),
            })
            .collect()
    }

    fn expired(rules: RetentionRules, keep: &[u128]) -> Vec<u128> {
        let keep = keep.iter().map(|id| Uuid::from_u128(*id)).collect();
        rules
            .expired(&releases(&[1, 2, 3, 4, 5]), &keep, 0)
            .iter()
            .map(Uuid::as_u128)
            .collect()
    }

    #[test]
    fn number_age_and_bytes_each_end_a_release_and_what_is_served_or_pinned_stays() {
        let rules = RetentionRules {
            releases: 3,
            ..RetentionRules::default()
        };
        assert_eq!(expired(rules, &[1]), [4, 5]);
        // An old one that is served, or pinned, takes a place and stays.
        assert_eq!(expired(rules, &[5]), [3, 4]);
        assert_eq!(expired(rules, &[1, 2, 4, 5]), [3]);
        let rules = RetentionRules {
            age_ms: Some(3_600_000 * 7 / 2),
            ..RetentionRules::default()
        };
        assert_eq!(expired(rules, &[5]), [4]);
        let rules = RetentionRules {
            bytes: Some(25),
            ..RetentionRules::default()
        };
        assert_eq!(expired(rules, &[3]), [2, 4, 5]);
        assert!(expired(RetentionRules::default(), &[]).is_empty());
    }
}
