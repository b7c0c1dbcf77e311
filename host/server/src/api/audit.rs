//! The audit log: which action each route is, written down when it has been done, and `GET /v1/audit`.

use axum::response::Response;
use cofferdam_deploy::{Act, AuditEntry, AuditQuery, Host, Identity, Origin, ProjectName};
use http::request::Parts;
use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::routes::Endpoint;
use super::{Call, json, page};
use crate::connections::Peer;

/// How many rows a page has when the client does not say.
const DEFAULT_PAGE: u32 = 50;

/// What the route does, as the audit log calls it; nothing for one that changes nothing, or that writes the
/// log itself.
pub(super) fn action(method: &Method, path: &str) -> Option<&'static str> {
    Some(match (method.as_str(), path) {
        ("PUT", "/v1/projects/{project}/secrets/{name}") => "secret.set",
        ("DELETE", "/v1/projects/{project}/secrets/{name}") => "secret.remove",
        ("POST", "/v1/tokens") => "token.create",
        ("DELETE", "/v1/tokens/{token}") => "token.revoke",
        ("DELETE", "/v1/projects/{project}") => "project.remove",
        ("POST", "/v1/projects/{project}/rollback") => "project.rollback",
        ("POST", "/v1/projects/{project}/verify") => "project.verify",
        ("PUT", "/v1/projects/{project}/webhook") => "webhook.set",
        ("DELETE", "/v1/projects/{project}/webhook") => "webhook.remove",
        ("PUT", "/v1/deployments/{id}/pin") => "deployment.pin",
        ("DELETE", "/v1/deployments/{id}/pin") => "deployment.unpin",
        ("DELETE", "/v1/deployments/{id}/package") => "package.remove",
        ("PUT", "/v1/plugins/{name}/{version}") => "plugin.admit",
        ("DELETE", "/v1/plugins/{name}/{version}") => "plugin.remove",
        ("POST", "/v1/deployments/{id}/cancel") => "deployment.cancel",
        ("PUT", "/v1/projects/{project}/hold") => "hold.set",
        ("DELETE", "/v1/projects/{project}/hold") => "hold.release",
        ("DELETE", "/v1/projects/{project}/lease") => "lease.break",
        ("POST", "/v1/store/collect") => "store.collect",
        ("POST", "/v1/uploads") => "upload.create",
        ("DELETE", "/v1/uploads/{upload}") => "upload.remove",
        _ => return None,
    })
}

/// What a handler adds to the row of its request, as an extension of its answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Instead of what the path names.
    pub(super) target: Option<String>,
    /// Anything more.
    pub(super) detail: Option<String>,
}

/// Who asks, as the audit log and the history of a project name them.
pub(super) fn origin(identity: &Identity, parts: &Parts) -> Origin {
    let peer = parts.extensions.get::<Peer>().map(|Peer(peer)| peer.ip());
    Origin::new(identity, peer)
}

/// A row that is written if its request comes to a good end.
pub(super) struct Pending {
    host: Host,
    origin: Origin,
    action: &'static str,
    project: Option<ProjectName>,
    target: Option<String>,
}

impl Pending {
    /// The row for a request, if its route changes something.
    pub(super) fn of(
        endpoint: &Endpoint,
        call: &Call,
        identity: &Identity,
        project: Option<ProjectName>,
    ) -> Option<Self> {
        let action = action(&endpoint.method, endpoint.path)?;
        let named: Vec<&str> = call
            .params
            .iter()
            .filter(|(name, _)| name != "project")
            .map(|(_, value)| value.as_str())
            .collect();
        Some(Self {
            host: call.api.host().clone(),
            origin: origin(identity, &call.parts),
            action,
            project,
            target: (!named.is_empty()).then(|| named.join("@")),
        })
    }

    /// Writes it. What was done stays done when this fails, and the answer says that it was: the fault is
    /// the operator's to hear of.
    pub(super) async fn write(self, told: Told) {
        let target = told.target.or(self.target);
        let act = Act {
            action: self.action,
            project: self.project.as_ref(),
            target: target.as_deref(),
            detail: told.detail.as_deref(),
        };
        if let Err(error) = self.host.audit(&self.origin, act).await {
            tracing::error!(
                action = self.action,
                cause = error.chain(),
                "the audit log cannot be written"
            );
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    project: Option<String>,
    before: Option<String>,
    limit: Option<String>,
}

/// A page of the audit log.
#[derive(Serialize, JsonSchema)]
pub(super) struct Page {
    audit: Vec<AuditEntry>,
    /// What to give as `before` for the next page; nothing when this one is not full.
    next: Option<u64>,
}

/// `GET /v1/audit`: newest first.
pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let query: Query = call.query()?;
    let limit = page::limit(query.limit.as_deref(), DEFAULT_PAGE)?;
    let project = query.project.as_deref().map(str::parse).transpose();
    let query = AuditQuery {
        project: project.map_err(|error: cofferdam_deploy::NameError| {
            Problem::bad_request(error.to_string())
        })?,
        before: page::before(query.before.as_deref())?,
        limit,
    };
    let audit = call.api.host().audit_log(&query).await?;
    let next = page::next(&audit, limit, |entry| entry.number);
    json(StatusCode::OK, &Page { audit, next })
}

#[cfg(test)]
mod tests {
    use super::super::routes::ENDPOINTS;
    use super::*;

    /// Routes that change something and write the log themselves, or that only look like it.
    const OTHERWISE: [(&str, &str); 5] = [
        // It writes when the deployment begins, which may be long before the answer.
        ("POST", "/v1/projects/{project}/deployments"),
        ("PUT", "/v1/projects/{project}/deployments"),
        // It asks what would be granted.
        ("POST", "/v1/projects/{project}/check"),
        // It asks what is there.
        ("POST", "/v1/projects/{project}/missing"),
        // One row for an upload says who made it; its pieces are of one making.
        ("PATCH", "/v1/uploads/{upload}"),
    ];

    #[test]
    fn every_route_that_changes_something_is_an_action() {
        for endpoint in ENDPOINTS {
            let (method, path) = (endpoint.method.as_str(), endpoint.path);
            let named = action(&endpoint.method, path).is_some();
            let expected = endpoint.method != Method::GET && !OTHERWISE.contains(&(method, path));
            assert_eq!(named, expected, "{method} {path}");
        }
    }
}
