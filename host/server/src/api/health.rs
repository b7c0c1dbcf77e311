//! Whether the server is there, whether it takes deployments, and its figures.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use schemars::JsonSchema;
use serde::Serialize;

use super::problem::Problem;
use super::{Call, json};
use crate::metrics;

/// How the server is.
#[derive(Serialize, JsonSchema)]
pub(super) struct Health {
    /// `ok`, or `ready`.
    status: &'static str,
}

/// `GET /healthz`: the process answers.
pub(super) async fn alive(_: Call) -> Result<Response, Problem> {
    json(StatusCode::OK, &Health { status: "ok" })
}

/// `GET /readyz`: the host accepts deployments.
pub(super) async fn ready(call: Call) -> Result<Response, Problem> {
    if call.api.host().ready() {
        json(StatusCode::OK, &Health { status: "ready" })
    } else {
        Err(Problem::not_ready(
            "the server accepts no deployments now: it is starting, or stopping",
        ))
    }
}

/// `GET /metrics`: figures for Prometheus.
pub(super) async fn metrics(call: Call) -> Result<Response, Problem> {
    let inner = &call.api.inner;
    let figures = inner.host.figures().await?;
    let text = inner.metrics.render(&figures, inner.bodies.uploads.count());
    Ok(([(CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response())
}
