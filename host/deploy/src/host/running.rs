//! The deployments that have not ended, and the stop that waits for them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Host, Inner};
use crate::live::Live;
use crate::name::DeploymentId;
use crate::status::derive;

impl Host {
    /// Accepts nothing more, lets what runs come to its end for as long as `grace`, and interrupts the
    /// rest.
    pub async fn shutdown(&self, grace: Duration) {
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::SeqCst);
        if tokio::time::timeout(grace, inner.drained()).await.is_err() {
            for live in inner.all_live() {
                live.stop(
                    "interrupted",
                    "the server was stopped before the deployment had ended",
                );
            }
            inner.drained().await;
        }
    }
}

impl Inner {
    pub(super) fn live(&self, id: DeploymentId) -> Option<Arc<Live>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(super) fn all_live(&self) -> Vec<Arc<Live>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Forgets a deployment that has ended.
    pub(crate) async fn forget(&self, live: &Live) {
        if let Err(error) = live.log.close().await {
            tracing::error!(deployment = %live.id, %error, "an event log could not be closed");
        } else {
            self.data.remove_open_end(live.id);
        }
        let body = live.body().await;
        self.meter
            .ended(live.id, &body, derive(&body), live.log.last());
        live.mark_ended();
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&live.id);
        self.idle.notify_waiters();
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
