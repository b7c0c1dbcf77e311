//! Webhooks: where a project's news go.

use axum::response::{IntoResponse as _, Response};
use cofferdam_deploy::ProjectName;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::audit::Told;
use super::problem::Problem;
use super::{Call, json, releases};

/// Where news are to go.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    /// The URL, http or https.
    url: String,
}

/// `PUT /v1/projects/{project}/webhook`: the answer has the key of the signatures, this once.
pub(super) async fn put(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let host = call.api.host().clone();
    let wanted: Wanted = releases::body(call).await?;
    let webhook = host.set_webhook(&project, &wanted.url).await?;
    let mut response = json(StatusCode::OK, &webhook)?;
    // Its path may hold a token: the host is what an auditor wants to know.
    let uri: Option<http::Uri> = webhook.url.parse().ok();
    let target = uri.and_then(|uri| uri.host().map(str::to_owned));
    response.extensions_mut().insert(Told {
        target,
        detail: None,
    });
    Ok(response)
}

/// `GET /v1/projects/{project}/webhook`.
pub(super) async fn show(call: Call, project: ProjectName) -> Result<Response, Problem> {
    json(StatusCode::OK, &call.api.host().webhook(&project).await?)
}

/// `DELETE /v1/projects/{project}/webhook`.
pub(super) async fn remove(call: Call, project: ProjectName) -> Result<Response, Problem> {
    call.api.host().remove_webhook(&project).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
