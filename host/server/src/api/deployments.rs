//! Deployments: list, show, and fetch the package.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use cofferdam_deploy::{
    DeploymentId, Filter, Identity, NameError, PackageReader, ProjectName, Record, Scope, Status,
};
use futures::stream;
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{Call, json, page};

/// How many deployments a page has when the client does not say.
const DEFAULT_PAGE: u32 = 50;

/// The query of a list, as text: a wrong value is answered with what it should be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    project: Option<String>,
    status: Option<String>,
    before: Option<String>,
    limit: Option<String>,
}

/// A page of deployments.
#[derive(Serialize, JsonSchema)]
pub(super) struct Page {
    deployments: Vec<Record>,
    /// What to give as `before` for the next page; nothing when this one is not full.
    next: Option<DeploymentId>,
}

/// `GET /v1/deployments`: those that the token may see, newest first.
pub(super) async fn list(call: Call, identity: Identity) -> Result<Response, Problem> {
    let query: ListQuery = call.query()?;
    let filter = parse(&query)?;
    let host = call.api.host();
    let mut deployments = Vec::new();
    for project in visible(&identity, filter.project.as_ref()) {
        let filter = Filter {
            project,
            ..filter.clone()
        };
        deployments.append(&mut host.deployments(&filter).await?);
    }
    deployments.sort_by_key(|record| std::cmp::Reverse(record.id));
    deployments.dedup_by_key(|record| record.id);
    deployments.truncate(filter.limit as usize);
    let next = page::next(&deployments, filter.limit, |record| record.id);
    json(StatusCode::OK, &Page { deployments, next })
}

/// The projects to ask for, so that the answer holds what the token may see and nothing else; `None`
/// stands for all of them.
fn visible(identity: &Identity, wanted: Option<&ProjectName>) -> Vec<Option<ProjectName>> {
    if let Some(project) = wanted {
        let seen = identity.allows(&Scope::Read(Some(project.clone())));
        return seen.then(|| Some(project.clone())).into_iter().collect();
    }
    if identity.allows(&Scope::Read(None)) {
        return vec![None];
    }
    let named = identity.scopes.iter().filter_map(|scope| match scope {
        Scope::Deploy(project) | Scope::Read(project) => project.clone(),
        Scope::Admin => None,
    });
    named.map(Some).collect()
}

fn parse(query: &ListQuery) -> Result<Filter, Problem> {
    let project = query.project.as_deref().map(str::parse).transpose();
    let before = query.before.as_deref().map(str::parse).transpose();
    Ok(Filter {
        project: project.map_err(|error: NameError| Problem::bad_request(error.to_string()))?,
        status: query.status.as_deref().map(status).transpose()?,
        before: before.map_err(|error: NameError| Problem::bad_request(error.to_string()))?,
        limit: page::limit(query.limit.as_deref(), DEFAULT_PAGE)?,
    })
}

fn status(text: &str) -> Result<Status, Problem> {
    cofferdam_deploy::STATUSES
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| {
            let known: Vec<_> = cofferdam_deploy::STATUSES
                .iter()
                .map(|status| status.as_str())
                .collect();
            let known = known.join(", ");
            Problem::bad_request(format!("{text:?} is not a status; they are {known}"))
        })
}

/// `GET /v1/deployments/{id}`.
pub(super) async fn show(call: Call, record: Record) -> Result<Response, Problem> {
    // What was needed to judge the request is the record in short.
    let record = call.api.host().with_summary(record).await?;
    json(StatusCode::OK, &record)
}

/// `POST /v1/deployments/{id}/cancel`: answers once nothing of it runs any more.
pub(super) async fn cancel(call: Call, record: Record) -> Result<Response, Problem> {
    let (host, by) = (call.api.host().clone(), call.who());
    // A client that gives up waiting has asked all the same.
    let cancelled = call
        .api
        .detach(async move { host.cancel(record.id, &by).await });
    let cancelled = cancelled.await.map_err(|error| Problem::internal(&error))?;
    json(
        StatusCode::OK,
        &cancelled.map_err(|error| Problem::from(error).of(record.id))?,
    )
}

/// `GET /v1/deployments/{id}/package`: the bytes as they were sent.
pub(super) async fn package(call: Call, record: Record) -> Result<Response, Problem> {
    let package = call.api.host().package(record.id).await?;
    let media_type = package
        .media_type
        .as_deref()
        .unwrap_or("application/octet-stream")
        .to_owned();
    let disposition = format!("attachment; filename=\"{}-{}\"", record.project, record.id);
    let headers = [
        (CONTENT_TYPE, media_type),
        (CONTENT_LENGTH, package.bytes.to_string()),
        (CONTENT_DISPOSITION, disposition),
    ];
    // An error in the middle ends the connection before the announced length: a short success is not
    // possible.
    let bytes = stream::try_unfold(package, |mut package: PackageReader| async move {
        match package.next().await {
            Ok(next) => Ok(next.map(|bytes| (bytes, package))),
            Err(error) => {
                tracing::error!(cause = error.chain(), "a package cannot be read");
                Err(error)
            }
        }
    });
    Ok((headers, Body::from_stream(bytes)).into_response())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    /// The projects that a list asks for; `*` stands for all of them.
    fn asked(scopes: &[&str], wanted: Option<&str>) -> Vec<String> {
        let scopes = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
        let identity = Identity::without_token("test", scopes);
        let wanted = wanted.map(|project| project.parse().unwrap());
        let projects = visible(&identity, wanted.as_ref());
        let name = |project: Option<ProjectName>| project.map_or("*".to_owned(), String::from);
        projects.into_iter().map(name).collect()
    }

    #[test]
    fn a_list_asks_for_what_the_token_may_see_and_nothing_else() {
        assert_eq!(asked(&["admin"], None), ["*"]);
        assert_eq!(asked(&["read:*", "deploy:blog"], None), ["*"]);
        assert_eq!(asked(&["read:blog", "deploy:shop"], None), ["blog", "shop"]);
        assert_eq!(asked(&["read:blog"], Some("blog")), ["blog"]);
        assert!(asked(&["read:blog"], Some("blog2")).is_empty());
        assert!(asked(&[], None).is_empty());
    }
}
