//! The first moments of a release: if a service of it fails soon after the swap, the release before takes
//! its place again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::audit::Origin;
use crate::host::Inner;
use crate::name::{DeploymentId, ProjectName};
use crate::readiness::{self, Readiness};
use crate::record::Service;
use crate::release::{Cause, Rollback};
use crate::route::Route;

/// Probes in a row that must fail: one may meet a garbage collection, or a slow disk.
pub(crate) const FAILED_PROBES: u32 = 3;

/// Requests that must have come before their failures mean anything.
pub(crate) const FEW_REQUESTS: u64 = 10;

/// How often the counts of a service without a gate are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A release that was just given the route.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) project: ProjectName,
    pub(super) release: DeploymentId,
    pub(super) previous: DeploymentId,
    pub(super) services: Vec<(Service, String, Arc<Route>)>,
}

impl Watched {
    /// Watches until every watch period is over, one service fails, or the release is replaced.
    pub(super) async fn watch(self, host: Weak<Inner>) {
        let mut watching = tokio::task::JoinSet::new();
        for (service, name, route) in &self.services {
            // A strong hold would keep a drain waiting.
            let (service, name, route) = (service.clone(), name.clone(), Arc::downgrade(route));
            watching.spawn(async move { watch(&service, &name, &route).await });
        }
        let (project, release, previous) = (self.project, self.release, self.previous);
        drop(self.services);
        while let Some(ended) = watching.join_next().await {
            let Ok(Some(why)) = ended else {
                continue;
            };
            drop(watching);
            let Some(host) = host.upgrade() else {
                return;
            };
            tracing::warn!(%project, %release, %previous, why, "a release failed soon after it was activated; the one before takes its place");
            let back = Rollback {
                to: Some(previous),
                expect: Some(release),
                message: Some(why),
            };
            let origin = Origin::host();
            if let Err(error) = host.roll_back(&project, back, Cause::Revert, &origin).await {
                tracing::error!(%project, %release, error = error.chain(), "the release before could not take the place of one that fails");
            }
            return;
        }
    }
}

/// Why a service failed within its watch period; nothing if it did not.
async fn watch(service: &Service, name: &str, route: &Weak<Route>) -> Option<String> {
    let assumed = Readiness::default();
    let gate = service.ready.as_ref().unwrap_or(&assumed);
    let until = Instant::now() + Duration::from_millis(gate.watch_ms);
    let pause = match &service.ready {
        Some(gate) => Duration::from_millis(gate.interval_ms),
        None => LOOK,
    };
    let mut failed = 0;
    while Instant::now() < until {
        sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        // Replaced, and gone.
        let route = route.upgrade()?;
        let (answered, trapped) = route.health.counts();
        if answered + trapped >= FEW_REQUESTS && trapped > answered {
            return Some(format!(
                "the service {} failed {trapped} of its first {} requests",
                service.name,
                answered + trapped
            ));
        }
        if service.ready.is_none() {
            continue;
        }
        match readiness::probe(&route.target, name, service.ready.as_ref()).await {
            Ok(()) => failed = 0,
            Err(why) => {
                failed += 1;
                if failed >= FAILED_PROBES {
                    return Some(format!(
                        "the service {} failed {failed} probes in a row: {why}",
                        service.name
                    ));
                }
            }
        }
    }
    None
}
