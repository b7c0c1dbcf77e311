//! The first moments of a release: if a service of it fails soon after the swap, the release before takes
//! its place again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::active;
use super::needed::Need;
use crate::audit::Origin;
use crate::error::Error;
use crate::host::Inner;
use crate::name::{DeploymentId, ProjectName};
use crate::readiness::{self, Readiness};
use crate::record::{Body, Service, Time};
use crate::release::{Cause, Rollback};
use crate::route::{Route, Target};

/// Probes in a row that must fail: one may meet a garbage collection, or a slow disk.
pub(crate) const FAILED_PROBES: u32 = 3;

/// Requests that must have come before their failures mean anything.
pub(crate) const FEW_REQUESTS: u64 = 10;

/// The longest watch period that a service can ask for.
const LONGEST: Duration = Duration::from_millis(readiness::LONGEST_MS);

/// How often the counts of a service without a gate are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A release that was given the route a moment ago.
#[derive(Debug)]
pub(super) struct Watched {
    project: ProjectName,
    release: DeploymentId,
    previous: DeploymentId,
    /// What it would give way to.
    need: Need,
}

/// Goes on with the watches that the end of the last run cut off.
pub(crate) async fn resume(host: &Arc<Inner>) -> Result<(), Error> {
    for row in host.ledger.projects().await? {
        let Some(release) = active(Some(&row)) else {
            continue;
        };
        let project: ProjectName = row.name.parse()?;
        let moves = host.ledger.activations(project.as_str(), None, 1).await?;
        let Some(last) = moves.into_iter().next().map(|row| row.entry) else {
            continue;
        };
        let age = Time::now().as_millis().saturating_sub(last.at);
        let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
        let (Some(previous), true) = (
            last.previous,
            last.cause == Cause::Deployment.as_str()
                && last.release == Some(release.as_uuid())
                && age < LONGEST,
        ) else {
            continue;
        };
        let deployment = host.ledger.deployment(release.as_uuid()).await?;
        let Some(deployment) = deployment else {
            continue;
        };
        if !Body::parse(&deployment)?.head.auto_revert.unwrap_or(true) {
            continue;
        }
        let services = host.release(&project, release).await?.services;
        let routes = host.routes.of(&project);
        let watched = Watched::new(host, project, release, previous.into());
        watched.begin(host, services, &routes, age);
    }
    Ok(())
}

impl Watched {
    pub(super) fn new(
        host: &Inner,
        project: ProjectName,
        release: DeploymentId,
        previous: DeploymentId,
    ) -> Self {
        Self {
            project,
            release,
            previous,
            need: host.needed.hold(previous),
        }
    }

    /// Begins to watch the components among its services, which have taken traffic for `age`.
    pub(super) fn begin(
        self,
        host: &Arc<Inner>,
        services: Vec<Service>,
        routes: &[(String, Arc<Route>)],
        age: Duration,
    ) {
        let watched: Vec<(Service, String, Weak<Route>)> = services
            .into_iter()
            .filter_map(|service| {
                let (name, route) = routes.iter().find(|(_, route)| {
                    route.release == self.release && route.service == service.name.as_str()
                })?;
                // A strong hold would keep a drain waiting.
                matches!(route.target, Target::Http(_))
                    .then(|| (service, name.clone(), Arc::downgrade(route)))
            })
            .collect();
        if !watched.is_empty() {
            tokio::spawn(self.watch(Arc::downgrade(host), watched, age));
        }
    }

    /// Watches until every watch period is over, one service fails, or the release is replaced.
    async fn watch(
        self,
        host: Weak<Inner>,
        services: Vec<(Service, String, Weak<Route>)>,
        age: Duration,
    ) {
        let mut watching = tokio::task::JoinSet::new();
        for (service, name, route) in services {
            watching.spawn(async move { watch(&service, &name, &route, age).await });
        }
        let mut failed = None;
        while let Some(ended) = watching.join_next().await {
            if let Ok(Some(why)) = ended {
                failed = Some(why);
                break;
            }
        }
        drop(watching);
        let Some(host) = host.upgrade() else {
            return;
        };
        if let Some(why) = failed {
            self.give_way(&host, why).await;
        }
        if self.need.end() {
            host.retain(&self.project).await;
        }
    }

    /// Lets the release before take its place again.
    async fn give_way(&self, host: &Arc<Inner>, why: String) {
        let (project, release, previous) = (&self.project, self.release, self.previous);
        tracing::warn!(%project, %release, %previous, why, "a release failed soon after it was activated; the one before takes its place");
        let back = Rollback {
            to: Some(previous),
            expect: Some(release),
            message: Some(why),
        };
        let origin = Origin::host();
        if let Err(error) = host.roll_back(project, back, Cause::Revert, &origin).await {
            tracing::error!(%project, %release, error = error.chain(), "the release before could not take the place of one that fails");
        }
    }
}

/// Why a service failed within its watch period; nothing if it did not.
async fn watch(
    service: &Service,
    name: &str,
    route: &Weak<Route>,
    age: Duration,
) -> Option<String> {
    let assumed = Readiness::default();
    let gate = service.ready.as_ref().unwrap_or(&assumed);
    let until = Instant::now() + Duration::from_millis(gate.watch_ms).saturating_sub(age);
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
