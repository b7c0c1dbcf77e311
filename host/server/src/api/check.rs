//! `POST /v1/projects/{project}/check`: what a deployment with this head would get, without a package.

use axum::response::Response;
use bytes::BytesMut;
use cofferdam_deploy::{Head, ProjectName};
use http::StatusCode;

use super::problem::Problem;
use super::{Call, json};
use crate::upload::body::UploadBody;
use crate::upload::{MAX_HEAD, UploadError, parse_json};

/// Answers with every step's findings, refused ones too. A head that could not be deployed at all is the
/// problem that a deployment of it would meet.
pub(super) async fn check(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let Call { api, body, .. } = call;
    let mut body = UploadBody::new(body, api.inner.body_limits.clone());
    let mut text = BytesMut::new();
    while let Some(bytes) = body.next().await? {
        if text.len() + bytes.len() > MAX_HEAD {
            let reason = format!("it is longer than {MAX_HEAD} bytes");
            return Err(UploadError::Head(reason).into());
        }
        text.extend_from_slice(&bytes);
    }
    let head = if text.is_empty() {
        Head::default()
    } else {
        parse_json(&text)?
    };
    json(StatusCode::OK, &api.host().check(&project, &head).await?)
}
