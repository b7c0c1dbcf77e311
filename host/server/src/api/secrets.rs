//! Secrets: set, list by name, remove. Nothing here ever answers a value.

use axum::response::{IntoResponse as _, Response};
use cofferdam_deploy::{MAX_SECRET_BYTES, NameError, ProjectName, SecretName, SecretView};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use zeroize::Zeroizing;

use super::problem::Problem;
use super::{Call, json};
use crate::upload::body::UploadBody;

/// A list of secrets.
#[derive(Serialize, JsonSchema)]
pub(super) struct Page {
    secrets: Vec<SecretView>,
}

/// `GET /v1/projects/{project}/secrets`: their names, and when they were set.
pub(super) async fn list(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let secrets = call.api.host().secrets().list(&project).await?;
    json(StatusCode::OK, &Page { secrets })
}

/// `PUT /v1/projects/{project}/secrets/{name}`: the body is the value, byte for byte.
pub(super) async fn put(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let name = named(&call)?;
    let Call { api, body, .. } = call;
    let mut body = UploadBody::new(body, api.inner.body_limits.clone());
    // At its full size from the start: a vector that grows leaves copies of the value behind.
    let mut value = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES));
    while let Some(bytes) = body.next().await? {
        if value.len() + bytes.len() > MAX_SECRET_BYTES {
            return Err(Problem::too_large(format!(
                "a secret has at most {MAX_SECRET_BYTES} bytes"
            )));
        }
        value.extend_from_slice(&bytes);
    }
    let stored = api.host().secrets().put(&project, &name, value).await?;
    let status = if stored.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    json(status, &stored)
}

/// `DELETE /v1/projects/{project}/secrets/{name}`.
pub(super) async fn remove(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let name = named(&call)?;
    call.api.host().secrets().remove(&project, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn named(call: &Call) -> Result<SecretName, Problem> {
    call.param("name")
        .parse()
        .map_err(|error: NameError| Problem::bad_request(error.to_string()))
}
