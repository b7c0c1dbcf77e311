//! Tokens: make, list and revoke. A token itself is answered once, when it is made.

use axum::Extension;
use axum::response::{IntoResponse as _, Response};
use cofferdam_deploy::{NewToken, TokenView};
use http::StatusCode;
use http::header::{CACHE_CONTROL, LOCATION};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::audit::Told;
use super::problem::Problem;
use super::{Call, json};

/// The longest description of a token: its scopes with the longest project names fit twice.
const MAX_BODY: usize = 16 * 1024;

/// A list of tokens.
#[derive(Serialize, JsonSchema)]
pub(super) struct Page {
    tokens: Vec<TokenView>,
}

/// A token that was made.
#[derive(Serialize, JsonSchema)]
pub(super) struct Made {
    #[serde(flatten)]
    view: TokenView,
    /// The token. It is shown now and never again.
    token: String,
}

/// `GET /v1/tokens`: what they are called and what they allow.
pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let tokens = call.api.host().tokens().list();
    json(StatusCode::OK, &Page { tokens })
}

/// `POST /v1/tokens`.
pub(super) async fn create(call: Call) -> Result<Response, Problem> {
    let host = call.api.host().clone();
    let api = call.api.clone();
    let new: NewToken = call.json_body(MAX_BODY).await?;
    // Whoever leaves now has a token that nobody knows, and not half of one.
    let made = api.detach(async move { host.tokens().create(&new).await });
    let (view, token) = made.await.map_err(|error| Problem::internal(&error))??;
    tracing::info!(made = %view.id, scopes = view.scopes.join(" "), "a token was made");
    let location = format!("/v1/tokens/{}", view.id);
    let made = Made {
        view,
        token: (*token).clone(),
    };
    let headers = [(LOCATION, location), (CACHE_CONTROL, "no-store".to_owned())];
    let told = Told {
        target: Some(made.view.id.to_string()),
        detail: Some(made.view.scopes.join(" ")),
    };
    Ok((headers, Extension(told), json(StatusCode::CREATED, &made)?).into_response())
}

/// `DELETE /v1/tokens/{token}`: what it had begun ends at once.
pub(super) async fn revoke(call: Call) -> Result<Response, Problem> {
    let text = call.param("token");
    let id = Uuid::try_parse(text)
        .ok()
        .filter(|id| id.hyphenated().to_string() == text)
        .ok_or_else(|| Problem::not_found("there is no such token: its id is a UUID"))?;
    let host = call.api.host().clone();
    let revoked = call
        .api
        .detach(async move { host.tokens().revoke(id).await });
    let view = revoked.await.map_err(|error| Problem::internal(&error))??;
    tracing::info!(revoked = %view.id, "a token was revoked");
    Ok(StatusCode::NO_CONTENT.into_response())
}
