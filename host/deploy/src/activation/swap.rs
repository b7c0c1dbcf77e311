//! A release takes the place of another.
//!
//! In this order: the new one's services are started beside the old one's (or, with `recreate`, after them),
//! each is asked until it is ready, and only then does the caller commit: release, pointer, history and the
//! services' rows in one. The routes follow the commit, the old release is drained, and the new one watched.
//! Whatever fails before the commit leaves everything as it was.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_ledger::{Beside, Change, Durability, ServiceRow};
use cofferdam_sandbox::HttpService;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::drain::{self, DRAIN};
use super::needed::Need;
use super::{Candidate, Pointer, active, watch};
use crate::error::Error;
use crate::head::Strategy;
use crate::host::Inner;
use crate::name::{DeploymentId, ProjectName};
use crate::readiness;
use crate::record::{Service, Time};
use crate::route::{Route, Target};

/// How long the guests of new services may take to stop, once nobody waits for their answers: many ticks of the engine.
const STUCK: Duration = Duration::from_secs(2);

/// The part a release's services play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Being prepared; takes no traffic yet.
    Green,
    /// What the project serves.
    Active,
    /// Replaced; finishes what it has begun.
    Blue,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Active => "active",
            Self::Blue => "blue",
        }
    }
}

/// A release that is to take the place of what its project serves.
#[derive(Debug)]
pub(crate) struct Swap<'a> {
    pub(crate) project: &'a ProjectName,
    pub(crate) release: DeploymentId,
    pub(crate) digest: &'a str,
    pub(crate) root: &'a Path,
    pub(crate) services: &'a [Service],
    pub(crate) strategy: Strategy,
    /// Whether the host goes back by itself when a service fails soon after.
    pub(crate) auto_revert: bool,
}

/// A release that is started and ready, and routed nowhere.
#[derive(Debug)]
pub(crate) struct Prepared {
    project: ProjectName,
    release: DeploymentId,
    /// What the project serves, and must still serve when the pointer moves.
    pub(crate) previous: Option<DeploymentId>,
    green: Routes,
    /// Those who ask the new services whether they are ready.
    asking: JoinSet<Result<(), Error>>,
    blue: Routes,
    services: Vec<Service>,
    /// The old release was taken away to make room.
    is_suspended: bool,
    auto_revert: bool,
    /// Held until the routes have followed.
    _pointer: Pointer,
}

type Routes = Vec<(String, Arc<Route>)>;

impl Swap<'_> {
    /// Takes the right to move the pointer, starts the services and waits until they are ready. When `stop`
    /// resolves meanwhile, that is the end of it: [`Error::Stopping`].
    pub(crate) async fn prepare(
        self,
        host: &Arc<Inner>,
        stop: impl Future<Output = ()>,
    ) -> Result<Prepared, Error> {
        let pointer = host.pointers.take(self.project).await;
        let previous = active(host.ledger.project(self.project.as_str()).await?.as_ref());
        let mut prepared = Prepared {
            project: self.project.clone(),
            release: self.release,
            previous,
            green: Vec::new(),
            asking: JoinSet::new(),
            blue: host.routes.of(self.project),
            services: self.services.to_vec(),
            is_suspended: false,
            auto_revert: self.auto_revert,
            _pointer: pointer,
        };
        let started = tokio::select! {
            started = prepared.start(host, &self) => started,
            () = stop => Err(Error::Stopping),
        };
        match started {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.abandon(host).await;
                Err(error)
            }
        }
    }
}

impl Prepared {
    async fn start(&mut self, host: &Arc<Inner>, swap: &Swap<'_>) -> Result<(), Error> {
        // Files need no time to get ready, so nobody has to be told that they have not had it.
        let slow = self
            .services
            .iter()
            .any(|service| service.kind.is_component());
        if slow {
            let rows = self.rows(Role::Green, "starting");
            host.ledger.commit(Durability::Process, rows).await?;
        }
        let candidate = Candidate {
            project: &self.project,
            id: self.release,
            digest: swap.digest,
            root: swap.root,
            services: &self.services,
        };
        // Compiled and opened; nothing of it runs before it is asked for the first time.
        self.green = host.activator.prepare(&candidate).await?;
        if swap.strategy == Strategy::Recreate {
            self.is_suspended = true;
            host.routes.suspend(&self.project);
            drain::drain(std::mem::take(&mut self.blue), DRAIN).await;
        }
        self.gate().await
    }

    /// All of them, or none.
    async fn gate(&mut self) -> Result<(), Error> {
        for service in &self.services {
            let found = self
                .green
                .iter()
                .find(|(_, route)| route.service == service.name.as_str());
            let Some((host, route)) = found else {
                continue;
            };
            let (host, route, service) = (host.clone(), route.clone(), service.clone());
            self.asking.spawn(async move {
                let ready = readiness::wait(&route.target, &host, service.ready.as_ref()).await;
                ready.map_err(|why| Error::NotReady {
                    message: format!("the service {} did not become ready: {why}", service.name),
                })
            });
        }
        while let Some(ready) = self.asking.join_next().await {
            ready.map_err(|_| Error::Task)??;
        }
        Ok(())
    }

    fn rows(&self, role: Role, state: &str) -> Vec<Change> {
        let row = |service: &Service| {
            Beside::PutService(ServiceRow {
                project: self.project.to_string(),
                release: self.release.as_uuid(),
                name: service.name.to_string(),
                role: role.as_str().to_owned(),
                state: state.to_owned(),
                detail: None,
                changed_at: Time::now().as_millis(),
            })
            .into()
        };
        self.services.iter().map(row).collect()
    }

    /// The services' rows, for the commit that moves the pointer.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut changes = self.rows(Role::Active, "healthy");
        let mut told = Vec::new();
        for (_, route) in &self.blue {
            if route.release == self.release || told.contains(&&route.service) {
                continue;
            }
            told.push(&route.service);
            changes.push(
                Beside::PutService(ServiceRow {
                    project: self.project.to_string(),
                    release: route.release.as_uuid(),
                    name: route.service.clone(),
                    role: Role::Blue.as_str().to_owned(),
                    state: "draining".to_owned(),
                    detail: None,
                    changed_at: Time::now().as_millis(),
                })
                .into(),
            );
        }
        changes
    }

    /// Lets the routes follow the commit; what was served before is drained in the background.
    pub(crate) fn follow(self, host: &Arc<Inner>) {
        let Self {
            project,
            release,
            previous,
            green,
            blue,
            services,
            auto_revert,
            ..
        } = self;
        host.observations.forget(release);
        host.routes.replace(&project, &green);
        if let Some(previous) = previous.filter(|previous| *previous != release) {
            if auto_revert {
                let watched = watch::Watched::new(host, project.clone(), release, previous);
                watched.begin(host, services, &green, Duration::ZERO);
            }
            let need = host.needed.hold(previous);
            tokio::spawn(reap(Arc::downgrade(host), project, previous, blue, need));
        } else {
            tokio::spawn(drain::drain(blue, DRAIN));
        }
    }

    /// Puts everything back as it was before.
    pub(crate) async fn abandon(mut self, host: &Arc<Inner>) {
        self.asking.shutdown().await;
        let asked = || {
            self.green
                .iter()
                .filter_map(|(_, route)| match &route.target {
                    Target::Http(service) => Some(service),
                    Target::Static(_) | Target::Replacing => None,
                })
        };
        // One may go on after it has answered.
        asked().for_each(HttpService::stop);
        let quiet = async {
            for service in asked() {
                service.quiet().await;
            }
        };
        if timeout(STUCK, quiet).await.is_err() {
            tracing::error!(project = %self.project, release = %self.release, "a service that was asked whether it is ready does not stop");
        }
        let is_other = self.previous != Some(self.release);
        if self.is_suspended {
            match self.previous {
                Some(previous) => {
                    let served =
                        crate::recovery::serve(host, self.project.as_str(), previous).await;
                    if let Err(error) = served {
                        tracing::error!(project = %self.project, release = %previous, error = error.chain(), "the release that was taken away to make room cannot be served again");
                    }
                }
                None => host.routes.replace(&self.project, &[]),
            }
        }
        if is_other
            && self
                .services
                .iter()
                .any(|service| service.kind.is_component())
        {
            forget(host, &self.project, self.release).await;
        }
    }
}

/// Drains what was replaced, and forgets it.
async fn reap(
    host: std::sync::Weak<Inner>,
    project: ProjectName,
    release: DeploymentId,
    routes: Routes,
    need: Need,
) {
    drain::drain(routes, DRAIN).await;
    let Some(host) = host.upgrade() else {
        return;
    };
    // It may have come back meanwhile.
    let pointer = host.pointers.take(&project).await;
    match host.ledger.project(project.as_str()).await {
        Ok(row) if active(row.as_ref()) != Some(release) => forget(&host, &project, release).await,
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%project, %release, %error, "a release that was drained is not forgotten");
        }
    }
    drop(pointer);
    if need.end() {
        host.retain(&project).await;
    }
}

/// Forgets the services of a release that does not run any more.
pub(crate) async fn forget(host: &Inner, project: &ProjectName, release: DeploymentId) {
    let change = Beside::RemoveServices {
        project: project.to_string(),
        release: release.as_uuid(),
    };
    let forgotten = host
        .ledger
        .commit(Durability::Process, vec![change.into()])
        .await;
    if let Err(error) = forgotten {
        tracing::warn!(%project, %release, %error, "services that have ended stay on record");
    }
}
