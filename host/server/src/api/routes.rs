//! The table of routes. A route without a rule for who may use it cannot be written down: the rule holds
//! the handler, and hands it what was authorised.

use axum::response::Response;
use axum::routing::MethodFilter;
use cofferdam_deploy::{Identity, ProjectName, Record};
use futures::future::BoxFuture;
use http::Method;

use super::problem::Problem;
use super::{
    Call, audit, check, deploy, deployments, events, health, holds, log, plugins, projects, secrets,
};

/// What a handler comes to.
pub(super) type Answer = BoxFuture<'static, Result<Response, Problem>>;

/// One route.
pub(super) struct Endpoint {
    /// The method. `GET` answers `HEAD` too.
    pub(super) method: Method,
    /// The path, with its parameters in braces.
    pub(super) path: &'static str,
    /// Who may use it, and what answers.
    pub(super) access: Access,
}

/// Who may use a route, and the handler that answers once that is settled.
pub(super) enum Access {
    /// Anybody, without a token.
    Open(fn(Call) -> Answer),
    /// Whoever has a token; the handler shows what the token may see.
    Token(fn(Call, Identity) -> Answer),
    /// Whoever has the scope `admin`.
    Admin(fn(Call) -> Answer),
    /// Whoever has the right to the project in the path's `{project}`.
    Project(Right, fn(Call, ProjectName) -> Answer),
    /// Whoever has the right to the project of the deployment in the path's `{id}`.
    Deployment(Right, fn(Call, Record) -> Answer),
}

/// What one may do to a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// See it.
    Read,
    /// Change it.
    Deploy,
}

impl Endpoint {
    /// The method as the router wants it.
    pub(super) fn filter(&self) -> MethodFilter {
        self.method
            .clone()
            .try_into()
            .expect("the table names only methods that a router knows")
    }
}

const fn route(method: Method, path: &'static str, access: Access) -> Endpoint {
    Endpoint {
        method,
        path,
        access,
    }
}

/// Whether a route is asked so often, by probes, that its answers are not worth a line each.
pub(super) fn is_quiet(path: &str) -> bool {
    path == HEALTHZ || path == READYZ
}

const HEALTHZ: &str = "/healthz";
const READYZ: &str = "/readyz";
const CREATE: &str = "/v1/projects/{project}/deployments";
const HOLD: &str = "/v1/projects/{project}/hold";
const SECRET: &str = "/v1/projects/{project}/secrets/{name}";

/// Every route there is.
pub(super) static ENDPOINTS: &[Endpoint] = &[
    route(
        Method::GET,
        HEALTHZ,
        Access::Open(|call| Box::pin(health::alive(call))),
    ),
    route(
        Method::GET,
        READYZ,
        Access::Open(|call| Box::pin(health::ready(call))),
    ),
    route(
        Method::POST,
        CREATE,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(deploy::create(call, project))
        }),
    ),
    route(
        Method::PUT,
        CREATE,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(deploy::create(call, project))
        }),
    ),
    route(
        Method::POST,
        "/v1/projects/{project}/check",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(check::check(call, project))
        }),
    ),
    route(
        Method::GET,
        "/v1/deployments",
        Access::Token(|call, identity| Box::pin(deployments::list(call, identity))),
    ),
    route(
        Method::GET,
        "/v1/deployments/{id}",
        Access::Deployment(Right::Read, |_, record| Box::pin(deployments::show(record))),
    ),
    route(
        Method::GET,
        "/v1/deployments/{id}/events",
        Access::Deployment(Right::Read, |call, record| {
            Box::pin(events::stream(call, record))
        }),
    ),
    route(
        Method::GET,
        "/v1/deployments/{id}/log",
        Access::Deployment(Right::Read, |call, record| {
            Box::pin(log::read(call, record))
        }),
    ),
    route(
        Method::GET,
        "/v1/deployments/{id}/package",
        Access::Deployment(Right::Read, |call, record| {
            Box::pin(deployments::package(call, record))
        }),
    ),
    route(
        Method::POST,
        "/v1/deployments/{id}/cancel",
        Access::Deployment(Right::Deploy, |call, record| {
            Box::pin(deployments::cancel(call, record))
        }),
    ),
    route(
        Method::PUT,
        HOLD,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(holds::put(call, project))
        }),
    ),
    route(
        Method::DELETE,
        HOLD,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(holds::release(call, project))
        }),
    ),
    route(
        Method::DELETE,
        "/v1/projects/{project}/lease",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(projects::unlock(call, project))
        }),
    ),
    route(
        Method::GET,
        "/v1/projects",
        Access::Token(|call, identity| Box::pin(projects::list(call, identity))),
    ),
    route(
        Method::GET,
        "/v1/projects/{project}",
        Access::Project(Right::Read, |call, project| {
            Box::pin(projects::show(call, project))
        }),
    ),
    // Their names tell what a project talks to: that is for those who may change it.
    route(
        Method::GET,
        "/v1/projects/{project}/secrets",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(secrets::list(call, project))
        }),
    ),
    route(
        Method::PUT,
        SECRET,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(secrets::put(call, project))
        }),
    ),
    route(
        Method::DELETE,
        SECRET,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(secrets::remove(call, project))
        }),
    ),
    route(
        Method::GET,
        "/v1/plugins",
        Access::Token(|call, _| Box::pin(plugins::list(call))),
    ),
    route(
        Method::GET,
        "/v1/plugins/{name}/{version}",
        Access::Token(|call, _| Box::pin(plugins::show(call))),
    ),
    route(
        Method::PUT,
        "/v1/plugins/{name}/{version}",
        Access::Admin(|call| Box::pin(plugins::admit(call))),
    ),
    route(
        Method::DELETE,
        "/v1/plugins/{name}/{version}",
        Access::Admin(|call| Box::pin(plugins::remove(call))),
    ),
    route(
        Method::GET,
        "/v1/audit",
        Access::Admin(|call| Box::pin(audit::list(call))),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_probes_are_open() {
        for endpoint in ENDPOINTS {
            let open = matches!(endpoint.access, Access::Open(_));
            assert_eq!(
                open,
                is_quiet(endpoint.path),
                "{} {}",
                endpoint.method,
                endpoint.path
            );
        }
    }

    #[test]
    fn every_rule_finds_what_it_judges_in_the_path() {
        for endpoint in ENDPOINTS {
            let wanted = match endpoint.access {
                Access::Project(..) => Some("{project}"),
                Access::Deployment(..) => Some("{id}"),
                Access::Open(_) | Access::Token(_) | Access::Admin(_) => None,
            };
            for parameter in ["{project}", "{id}"] {
                let there = endpoint.path.contains(parameter);
                assert_eq!(there, wanted == Some(parameter), "{}", endpoint.path);
            }
        }
    }

    #[test]
    fn what_changes_something_wants_more_than_a_token() {
        for endpoint in ENDPOINTS {
            let changes = endpoint.method != Method::GET;
            let rule = &endpoint.access;
            let guarded = matches!(
                rule,
                Access::Admin(_)
                    | Access::Project(Right::Deploy, _)
                    | Access::Deployment(Right::Deploy, _)
            );
            assert!(guarded || !changes, "{} {}", endpoint.method, endpoint.path);
        }
    }

    #[test]
    fn no_route_is_there_twice() {
        for (at, endpoint) in ENDPOINTS.iter().enumerate() {
            let twice = ENDPOINTS[..at]
                .iter()
                .any(|other| (&other.method, other.path) == (&endpoint.method, endpoint.path));
            assert!(!twice, "{} {}", endpoint.method, endpoint.path);
        }
    }
}
