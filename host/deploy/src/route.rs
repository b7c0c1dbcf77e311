//! Which service answers for which host name. The ledger is the truth, this table is its shadow.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cap_std::fs::Dir;
use cofferdam_sandbox::HttpService;

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
                *route = Arc::new(Route {
                    project: route.project.clone(),
                    release: route.release,
                    digest: route.digest.clone(),
                    service: route.service.clone(),
                    target: Target::Replacing,
                });
            }
            table
        });
    }
}
