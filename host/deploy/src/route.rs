//! Which service answers for which host name. The ledger is the truth, this table is its shadow.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use cap_std::fs::Dir;
use cofferdam_sandbox::HttpService;
use tokio::sync::Notify;

use crate::name::{DeploymentId, ProjectName};

/// What answers for a host name. A request holds its route until it is answered, so a swap in between
/// never mixes two releases within one response.
#[derive(Debug)]
pub struct Route {
    /// The project.
    pub project: ProjectName,
    /// The release, by the deployment that made it.
    pub release: DeploymentId,
    /// The release's digest: equal digests mean equal bytes.
    pub digest: String,
    /// The service's name.
    pub service: String,
    /// What serves.
    pub target: Target,
    /// How its requests went.
    pub health: Health,
    retired: Retired,
}

impl Route {
    /// A route that nobody has used yet.
    #[must_use]
    pub fn new(
        project: ProjectName,
        release: DeploymentId,
        digest: String,
        service: String,
        target: Target,
    ) -> Self {
        Self {
            project,
            release,
            digest,
            service,
            target,
            health: Health::default(),
            retired: Retired::default(),
        }
    }

    /// Cuts off whoever is still answered: the release was replaced, and the time for the rest is over.
    pub(crate) fn retire(&self) {
        self.retired.flag.store(true, Ordering::SeqCst);
        self.retired.told.notify_waiters();
    }

    /// Whether the time for requests to it is over.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.flag.load(Ordering::SeqCst)
    }

    /// Resolves when the time for requests to it is over, which for most is never.
    pub async fn retired(&self) {
        loop {
            let told = self.retired.told.notified();
            if self.is_retired() {
                return;
            }
            told.await;
        }
    }
}

/// How the requests to a service went, counted since it was started.
#[derive(Debug, Default)]
pub struct Health {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Health {
    /// A request was answered by the service, whatever it said.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// The service trapped, ran out of what it was granted, or gave no answer.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were answered, and how many were not.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.answered), load(&self.failed))
    }
}

#[derive(Debug, Default)]
struct Retired {
    flag: AtomicBool,
    told: Notify,
}

/// The kinds of thing that serve.
#[derive(Debug)]
pub enum Target {
    /// Files of a frozen release.
    Static(StaticRoot),
    /// A component, an instance for each request.
    Http(HttpService),
    /// Nothing at the moment: the release is being replaced by the `recreate` strategy.
    Replacing,
}

/// The files of a static service.
#[derive(Debug)]
pub struct StaticRoot {
    /// The service's own root; nothing outside can be opened through it.
    pub dir: Dir,
}

/// The table of routes, by host name in lower case.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    table: ArcSwap<HashMap<String, Arc<Route>>>,
}

impl Routes {
    pub(crate) fn get(&self, host: &str) -> Option<Arc<Route>> {
        let table = self.table.load();
        if let Some(route) = table.get(host) {
            return Some(route.clone());
        }
        // Host names are case-insensitive; almost every client sends lower case.
        host.bytes()
            .any(|byte| byte.is_ascii_uppercase())
            .then(|| table.get(&host.to_ascii_lowercase()).cloned())
            .flatten()
    }

    /// Replaces all routes of a project in one step.
    pub(crate) fn replace(&self, project: &ProjectName, routes: &[(String, Arc<Route>)]) {
        self.table.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.retain(|_, route| route.project != *project);
            table.extend(routes.iter().cloned());
            table
        });
    }

    /// Whether nothing is served.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.load().is_empty()
    }

    /// The routes of a project as they are now.
    pub(crate) fn of(&self, project: &ProjectName) -> Vec<(String, Arc<Route>)> {
        let table = self.table.load();
        table
            .iter()
            .filter(|(_, route)| route.project == *project)
            .map(|(host, route)| (host.clone(), route.clone()))
            .collect()
    }

    /// Leaves a project's names in place and makes them answer that it is being replaced.
    pub(crate) fn suspend(&self, project: &ProjectName) {
        self.table.rcu(|table| {
            let mut table = HashMap::clone(table);
            for route in table.values_mut().filter(|route| route.project == *project) {
                *route = Arc::new(Route::new(
                    route.project.clone(),
                    route.release,
                    route.digest.clone(),
                    route.service.clone(),
                    Target::Replacing,
                ));
            }
            table
        });
    }
}
