//! Holds: a project takes no deployments for a while.

use axum::response::{IntoResponse as _, Response};
use cofferdam_deploy::{Identity, ProjectName};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::problem::Problem;
use super::{Call, json};
use crate::upload::body::UploadBody;

/// The longest document: the longest reason, escaped, fits several times.
const MAX_DOCUMENT: usize = 16 * 1024;

/// A hold that is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Hold {
    /// Why, for whoever is refused.
    reason: String,
}

/// `PUT /v1/projects/{project}/hold`: `{"reason": "..."}`.
pub(super) async fn put(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let Call {
        api, parts, body, ..
    } = call;
    let mut body = UploadBody::new(body, api.inner.body_limits.clone());
    let mut text = Vec::new();
    while let Some(bytes) = body.next().await? {
        if text.len() + bytes.len() > MAX_DOCUMENT {
            return Err(Problem::too_large(format!(
                "a hold has at most {MAX_DOCUMENT} bytes"
            )));
        }
        text.extend_from_slice(&bytes);
    }
    let hold: Hold = serde_json::from_slice(&text).map_err(|error| {
        Problem::bad_request(format!("the hold is not {{\"reason\": \"...\"}}: {error}"))
    })?;
    let Some(identity) = parts.extensions.get::<Identity>() else {
        return Err(Problem::bad_request("nobody asks for the hold"));
    };
    let hold = api.host().hold(&project, &hold.reason, identity.id).await?;
    json(StatusCode::OK, &hold)
}

/// `DELETE /v1/projects/{project}/hold`.
pub(super) async fn release(call: Call, project: ProjectName) -> Result<Response, Problem> {
    call.api.host().release_hold(&project).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
