//! What should be served, held against what is: a loop that asks services how they do, looks whether the
//! files of the active releases are what they were, and puts back what is missing.
//!
//! - here: the loop, and what it puts on record
//! - `judgement`: how a service's state follows from what was seen
//! - `restore`: a release made whole again

mod judgement;
mod restore;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cofferdam_ledger::{Beside, Durability, ServiceRow};
use cofferdam_sandbox::ServiceUsage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::activation::{Role, active};
use crate::catalog::blocking;
use crate::error::Error;
use crate::freeze;
use crate::host::{Host, Inner};
use crate::name::{DeploymentId, ProjectName};
use crate::readiness;
use crate::record::{ReleaseRecord, Service, ServiceKind, Time};
use crate::route::{Route, Target};

use self::judgement::Observation;

/// From one look at all services to the next: often enough for a person who waits, seldom enough that a
/// thousand idle projects cost nothing.
const LOOK: Duration = Duration::from_secs(5);

/// The same for releases of files alone, which do not change by themselves.
const LOOK_AT_FILES: Duration = Duration::from_secs(60);

/// From one reading of every byte of an active release to the next. A gigabyte takes seconds.
const READ: Duration = Duration::from_secs(6 * 3600);

/// From one look at what is kept to the next, for what expires by its age.
const RETAIN: Duration = Duration::from_secs(3600);

/// How a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// It is being prepared.
    Starting,
    /// It answers.
    Healthy,
    /// It fails probes, or most of its requests.
    Unhealthy,
    /// Its files are gone, or not what they were.
    Missing,
    /// It was replaced, and finishes what it has begun.
    Draining,
}

impl ServiceState {
    fn parse(text: &str) -> Option<Self> {
        [
            Self::Starting,
            Self::Healthy,
            Self::Unhealthy,
            Self::Missing,
            Self::Draining,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Missing => "missing",
            Self::Draining => "draining",
        }
    }
}

/// A service of a project, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its name within the release.
    pub name: String,
    /// The release.
    pub release: DeploymentId,
    /// `green` is being prepared, `active` takes the traffic, `blue` was replaced.
    pub role: String,
    /// How it does.
    pub state: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Since when.
    pub since: Time,
    /// What a component that takes the traffic used of its grants since the server started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<ServiceUsage>,
}

impl From<ServiceRow> for ServiceView {
    fn from(row: ServiceRow) -> Self {
        Self {
            name: row.name,
            release: row.release.into(),
            role: row.role,
            state: row.state,
            detail: row.detail,
            since: Time::from_millis(row.changed_at),
            used: None,
        }
    }
}

/// What the loop remembers between its rounds.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    services: Mutex<HashMap<(DeploymentId, String), Observation>>,
    /// When every byte of a release was last read.
    read: Mutex<HashMap<DeploymentId, Instant>>,
    /// When a release is looked at next.
    next: Mutex<HashMap<DeploymentId, Instant>>,
    restore: restore::Attempts,
}

/// Runs the loop for as long as the host is there.
pub(crate) async fn run(host: Weak<Inner>) {
    let mut retained: Option<Instant> = None;
    // A start has enough to do, and every release was opened just now.
    let started = Instant::now();
    loop {
        sleep(LOOK).await;
        let Some(host) = host.upgrade() else {
            return;
        };
        // What the last run left lies where repairs are put together, too.
        if !*host.recovered.borrow() {
            continue;
        }
        let due = retained.is_none_or(|at| at.elapsed() >= RETAIN);
        if let Err(error) = host.look_at_all(due, started).await {
            tracing::warn!(error = error.chain(), "the services could not be looked at");
        }
        if due {
            retained = Some(Instant::now());
        }
    }
}

impl Host {
    /// Reads every byte of what a project serves, restores what is not what it was, and says how its
    /// services do.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be read.
    pub async fn verify(&self, project: &ProjectName) -> Result<Vec<ServiceView>, Error> {
        let inner = &self.inner;
        let Some(row) = inner.ledger.project(project.as_str()).await? else {
            return Err(Error::NotFound {
                what: format!("project {project}"),
            });
        };
        if let Some(release) = active(Some(&row)) {
            inner.look_at(project, release, true).await?;
        }
        inner.services_of(project).await
    }
}

impl Inner {
    pub(crate) async fn services_of(
        &self,
        project: &ProjectName,
    ) -> Result<Vec<ServiceView>, Error> {
        let rows = self.ledger.services(project.as_str()).await?;
        let routes = self.routes.of(project);
        let used = |view: &ServiceView| {
            let (_, route) = routes
                .iter()
                .find(|(_, route)| route.release == view.release && route.service == view.name)?;
            match &route.target {
                Target::Http(service) => Some(service.usage()),
                _ => None,
            }
        };
        let views = rows.into_iter().map(|row| {
            let view = ServiceView::from(row);
            let used = used(&view);
            ServiceView { used, ..view }
        });
        Ok(views.collect())
    }

    async fn look_at_all(self: &Arc<Self>, retain: bool, started: Instant) -> Result<(), Error> {
        let mut seen = Vec::new();
        for row in self.ledger.projects().await? {
            let project: ProjectName = row.name.parse()?;
            if retain {
                self.retain(&project).await;
            }
            let Some(release) = active(Some(&row)) else {
                continue;
            };
            seen.push(release);
            if !self.observations.is_its_turn(release) {
                continue;
            }
            let due = self.observations.is_due(release, started);
            if let Err(error) = self.look_at(&project, release, due).await {
                tracing::warn!(%project, %release, error = error.chain(), "a project's services could not be looked at");
            }
        }
        self.observations.forget_all_but(&seen);
        Ok(())
    }

    /// Looks at one release that should be served. With `read` every byte of it is read.
    async fn look_at(
        self: &Arc<Self>,
        project: &ProjectName,
        release: DeploymentId,
        read: bool,
    ) -> Result<(), Error> {
        let record = self.release(project, release).await?;
        let is_slow = record
            .services
            .iter()
            .any(|service| service.kind.is_component());
        let pause = if is_slow { LOOK } else { LOOK_AT_FILES };
        self.observations.look_again(release, pause);
        if read {
            self.observations.was_read(release);
        }
        self.recall(project, release, &record.services).await?;
        if let Some(why) = self.damage(project, release, &record, read).await? {
            for service in &record.services {
                self.tell(
                    project,
                    release,
                    service,
                    ServiceState::Missing,
                    Some(why.clone()),
                )
                .await?;
            }
            // What was put back is looked at again by the next round.
            return self.restore(project, release, &record, &why).await;
        }
        let routes = self.routes.of(project);
        if !record.services.is_empty() && !routes.iter().any(|(_, route)| route.release == release)
        {
            // It could not be served at the start, or a move is under way.
            let _pointer = self.pointers.take(project).await;
            let row = self.ledger.project(project.as_str()).await?;
            if active(row.as_ref()) == Some(release) && self.routes.of(project).is_empty() {
                crate::recovery::serve(self, project.as_str(), release).await?;
            }
            return Ok(());
        }
        for service in &record.services {
            let found = routes.iter().find(|(_, route)| {
                route.release == release && route.service == service.name.as_str()
            });
            let Some((host, route)) = found else {
                continue;
            };
            let (state, detail) = self.judge(service, host, route).await;
            self.tell(project, release, service, state, detail).await?;
        }
        Ok(())
    }

    /// What is wrong with the files of a release; nothing, if they are what they were.
    async fn damage(
        &self,
        project: &ProjectName,
        release: DeploymentId,
        record: &ReleaseRecord,
        read: bool,
    ) -> Result<Option<String>, Error> {
        let root = self.data.release(project, release);
        let paths: Vec<String> = record
            .services
            .iter()
            .map(|service| match &service.kind {
                ServiceKind::Static { root } => root.clone(),
                ServiceKind::Component { path, .. } => path.clone(),
            })
            .collect();
        let digest = record.digest.clone();
        blocking(move || {
            for path in std::iter::once("").chain(paths.iter().map(String::as_str)) {
                if let Err(error) = std::fs::metadata(root.join(path)) {
                    let what = if path.is_empty() { "the release" } else { path };
                    return Some(format!("{what} is not there: {}", error.kind()));
                }
            }
            if !read {
                return None;
            }
            match freeze::digest_of(&root) {
                Ok(tree) if tree.digest == digest => None,
                Ok(tree) => Some(format!(
                    "its files have the digest {}, and were frozen as {digest}",
                    tree.digest
                )),
                Err(error) => Some(format!("its files cannot be read: {error}")),
            }
        })
        .await
    }

    /// How a service does.
    async fn judge(
        &self,
        service: &Service,
        host: &str,
        route: &Arc<Route>,
    ) -> (ServiceState, Option<String>) {
        let key = (route.release, route.service.clone());
        let mut seen = self.observations.of(&key);
        let probed = match (&service.ready, &route.target) {
            (Some(gate), Target::Http(_)) => {
                Some(readiness::probe(&route.target, host, Some(gate)).await)
            }
            _ => None,
        };
        let verdict = seen.judge(Instant::now(), probed, route.health.counts());
        self.observations.keep(key, seen);
        verdict
    }

    /// Learns what is on record of the services of a release that this run has not looked at yet.
    async fn recall(
        &self,
        project: &ProjectName,
        release: DeploymentId,
        services: &[Service],
    ) -> Result<(), Error> {
        let key = |service: &Service| (release, service.name.to_string());
        let is_known = |service| self.observations.of(&key(service)).told.is_some();
        if services.iter().all(is_known) {
            return Ok(());
        }
        let rows = self.ledger.services(project.as_str()).await?;
        for service in services {
            let row = rows.iter().find(|row| {
                row.release == release.as_uuid()
                    && row.name == service.name.as_str()
                    && row.role == Role::Active.as_str()
            });
            let told =
                row.and_then(|row| Some((ServiceState::parse(&row.state)?, row.detail.clone())));
            let mut seen = self.observations.of(&key(service));
            if told.is_some() && seen.told.is_none() {
                seen.told = told;
                self.observations.keep(key(service), seen);
            }
        }
        Ok(())
    }

    /// Puts on record how a service does, if that is news.
    async fn tell(
        &self,
        project: &ProjectName,
        release: DeploymentId,
        service: &Service,
        state: ServiceState,
        detail: Option<String>,
    ) -> Result<(), Error> {
        let key = (release, service.name.to_string());
        let mut seen = self.observations.of(&key);
        // Figures change from round to round and are no news by themselves.
        if seen.told.as_ref().is_some_and(|(told, _)| *told == state) {
            return Ok(());
        }
        let row = ServiceRow {
            project: project.to_string(),
            release: release.as_uuid(),
            name: service.name.to_string(),
            role: Role::Active.as_str().to_owned(),
            state: state.as_str().to_owned(),
            detail: detail.clone(),
            changed_at: Time::now().as_millis(),
        };
        self.ledger
            .commit(Durability::Process, vec![Beside::PutService(row).into()])
            .await?;
        match (seen.told.is_some(), state) {
            (_, ServiceState::Unhealthy | ServiceState::Missing) => {
                tracing::warn!(%project, %release, service = %service.name, state = state.as_str(), detail, "a service does not do well");
            }
            (true, _) => {
                tracing::info!(%project, %release, service = %service.name, state = state.as_str(), "a service does well again");
            }
            (false, _) => {}
        }
        seen.told = Some((state, detail));
        self.observations.keep(key, seen);
        Ok(())
    }
}

impl Observations {
    fn of(&self, key: &(DeploymentId, String)) -> Observation {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.get(key).cloned().unwrap_or_default()
    }

    fn keep(&self, key: (DeploymentId, String), seen: Observation) {
        self.services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, seen);
    }

    /// Forgets what was seen of a release: it is served anew, and its record says so.
    pub(crate) fn forget(&self, release: DeploymentId) {
        self.services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(known, _), _| *known != release);
    }

    fn is_due(&self, release: DeploymentId, started: Instant) -> bool {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let last = read.get(&release).copied().unwrap_or(started);
        last.elapsed() >= READ
    }

    fn is_its_turn(&self, release: DeploymentId) -> bool {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.get(&release)
            .is_none_or(|next| *next <= Instant::now())
    }

    fn look_again(&self, release: DeploymentId, after: Duration) {
        self.next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(release, Instant::now() + after);
    }

    fn was_read(&self, release: DeploymentId) {
        self.read
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(release, Instant::now());
    }

    fn forget_all_but(&self, releases: &[DeploymentId]) {
        self.services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(release, _), _| releases.contains(release));
        for times in [&self.read, &self.next] {
            times
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|release, _| releases.contains(release));
        }
    }
}
