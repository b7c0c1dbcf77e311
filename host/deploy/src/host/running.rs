//! The deployments that have not ended, and the stop that waits for them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Host, Inner};
use crate::live::Live;
use crate::name::DeploymentId;
use crate::status::derive;

impl Host {
    /// Accepts nothing more, lets the steps that run come to their end for as long as `grace`, and stops the rest.
    /// What has not ended then is resumed by the next start.
    pub async fn shutdown(&self, grace: Duration) {
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::SeqCst);
        inner.pausing.send_replace(true);
        inner.collections.stop();
        inner.begun.notify_waiters();
        if tokio::time::timeout(grace, inner.drained()).await.is_err() {
            for live in inner.all_live() {
                live.pause();
            }
            inner.drained().await;
        }
    }

    /// Returns when everything that the last run of the host left is in order: what had not ended has, or is under
    /// way again.
    pub async fn recovered(&self) {
        self.inner.recovered().await;
    }
}

impl Inner {
    /// Whether the host has not been asked to stop.
    pub(crate) fn accepts(&self) -> bool {
        !self.stopping.load(Ordering::SeqCst)
    }

    pub(super) fn live(&self, id: DeploymentId) -> Option<Arc<Live>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(crate) fn all_live(&self) -> Vec<Arc<Live>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) async fn recovered(&self) {
        let mut recovered = self.recovered.subscribe();
        // The sender lives in `self`, so the only way out is the condition.
        let _ = recovered.wait_for(|recovered| *recovered).await;
    }

    /// Whether no deployment begins another step, because the host stops.
    pub(crate) fn is_pausing(&self) -> bool {
        *self.pausing.borrow()
    }

    /// Waits for [`Self::is_pausing`].
    pub(crate) async fn pausing(&self) {
        let mut pausing = self.pausing.subscribe();
        // As above.
        let _ = pausing.wait_for(|pausing| *pausing).await;
    }

    /// Takes note of a deployment that is under way.
    pub(crate) fn remember(&self, live: &Arc<Live>) {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(live.id, live.clone());
    }

    /// Forgets a deployment that has ended, or that is left to the next start.
    pub(crate) async fn forget(&self, live: &Live, is_over: bool) {
        if let Err(error) = live.log.close().await {
            tracing::error!(deployment = %live.id, %error, "an event log could not be closed");
        } else if is_over {
            self.data.remove_open_end(live.id);
        }
        // One that was put aside was counted then.
        if is_over && self.live(live.id).is_some() {
            let body = live.body().await;
            self.meter
                .ended(live.id, &body, derive(&body), live.log.last());
        }
        live.mark_ended();
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&live.id);
        self.idle.notify_waiters();
        self.news.notify_one();
    }

    async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            if self
                .live
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
            {
                return;
            }
            idle.await;
        }
    }
}
