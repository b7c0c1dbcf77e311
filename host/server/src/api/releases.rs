//! What becomes of releases: history, rollback, pins, verification, and what is taken away.

use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use cofferdam_deploy::{Activation, Identity, ProjectName, Record, Rollback, ServiceView};
use http::StatusCode;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::audit::{self, Told};
use super::problem::Problem;
use super::{Call, json, page};
use crate::upload::body::UploadBody;

/// How many moves a page has when the client does not say.
const DEFAULT_PAGE: u32 = 20;

/// The longest body of these routes: a message and two ids.
const MAX_BODY: usize = 16 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    before: Option<String>,
    limit: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct HistoryPage {
    history: Vec<Activation>,
    /// What to give as `before` for the next page; nothing when this one is not full.
    next: Option<u64>,
}

/// `GET /v1/projects/{project}/history`: every move of the project's pointer, newest first.
pub(super) async fn history(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let query: HistoryQuery = call.query()?;
    let limit = page::limit(query.limit.as_deref(), DEFAULT_PAGE)?;
    let before = page::before(query.before.as_deref())?;
    let history = call.api.host().history(&project, before, limit).await?;
    let next = page::next(&history, limit, |entry| entry.number);
    json(StatusCode::OK, &HistoryPage { history, next })
}

/// `POST /v1/projects/{project}/rollback`: the body, which may be absent, says where to and why.
pub(super) async fn rollback(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let origin = call
        .parts
        .extensions
        .get::<Identity>()
        .map(|identity| audit::origin(identity, &call.parts))
        .unwrap_or_default();
    let host = call.api.host().clone();
    let wanted: Rollback = body(call).await?;
    let detail = wanted.message.clone();
    let view = host.rollback(&project, wanted, &origin).await?;
    let target = view.active.map(|active| active.to_string());
    let mut response = json(StatusCode::OK, &view)?;
    response.extensions_mut().insert(Told { target, detail });
    Ok(response)
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Verified {
    services: Vec<ServiceView>,
}

/// `POST /v1/projects/{project}/verify`: reads every byte of what is served, and says how its services do.
pub(super) async fn verify(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let services = call.api.host().verify(&project).await?;
    json(StatusCode::OK, &Verified { services })
}

/// `DELETE /v1/projects/{project}`.
pub(super) async fn remove_project(call: Call, project: ProjectName) -> Result<Response, Problem> {
    call.api.host().remove_project(&project).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `PUT /v1/deployments/{id}/pin`.
pub(super) async fn pin(call: Call, record: Record) -> Result<Response, Problem> {
    call.api.host().pin(record.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /v1/deployments/{id}/pin`.
pub(super) async fn unpin(call: Call, record: Record) -> Result<Response, Problem> {
    call.api.host().unpin(record.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /v1/deployments/{id}/package`.
pub(super) async fn remove_package(call: Call, record: Record) -> Result<Response, Problem> {
    call.api.host().remove_package(record.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A small JSON body; an empty one says nothing.
pub(super) async fn body<T: DeserializeOwned + Default>(call: Call) -> Result<T, Problem> {
    let Call { api, body, .. } = call;
    let mut body = UploadBody::new(body, api.inner.body_limits.clone());
    let mut text = BytesMut::new();
    while let Some(bytes) = body.next().await? {
        if text.len() + bytes.len() > MAX_BODY {
            return Err(Problem::too_large(format!(
                "the body is longer than {MAX_BODY} bytes"
            )));
        }
        text.extend_from_slice(&bytes);
    }
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(&text)
        .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))
}
