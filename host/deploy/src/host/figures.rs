//! Figures about the host.

use std::sync::atomic::Ordering;

use super::Host;
use crate::error::Error;
use crate::meter::Figures;

impl Host {
    /// Figures about what the host does and holds.
    ///
    /// # Errors
    ///
    /// When the ledger or the index of the packages cannot be read.
    pub async fn figures(&self) -> Result<Figures, Error> {
        let inner = &self.inner;
        let live = inner.all_live();
        let running: u64 = live.iter().map(|live| live.log.last()).sum();
        let dropping: u64 = live
            .iter()
            .map(|live| live.dropped.load(Ordering::Relaxed))
            .sum();
        Ok(Figures {
            deployments: inner.ledger.deployment_counts().await?,
            live: live.len() as u64,
            deployment_seconds: inner.meter.deployment_seconds(),
            step_seconds: inner.meter.step_seconds(),
            events: inner.meter.events() + running,
            dropped_lines: inner.meter.dropped_lines() + dropping,
            projects: inner.ledger.project_count().await?,
            store: inner.blobs.totals().await?,
            damage: inner.blobs.damage().await?,
            collected_at: inner.collections.last(),
            failed_collections: inner.collections.failures(),
            workers: inner.activator.sandbox.workers(),
        })
    }
}
