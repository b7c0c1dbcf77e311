//! Whether the server is there, and whether it takes deployments.

use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::problem::Problem;
use super::{Call, json};

/// `GET /healthz`: the process answers.
pub(super) async fn alive(_: Call) -> Result<Response, Problem> {
    json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// `GET /readyz`: the host accepts deployments.
pub(super) async fn ready(call: Call) -> Result<Response, Problem> {
    if call.api.host().ready() {
        json(StatusCode::OK, &json!({ "status": "ready" }))
    } else {
        Err(Problem::not_ready(
            "the server accepts no deployments now; it is stopping",
        ))
    }
}
