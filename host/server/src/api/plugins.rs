//! Plugins: admit, list, show and remove. Whoever has a token may see them all: a pipeline needs their names.

use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use cofferdam_deploy::{Admission, Identity, NameError, PluginName, PluginView};
use http::header::{HeaderName, LOCATION};
use http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use semver::Version;
use serde::Serialize;

use super::problem::Problem;
use super::{Call, json};
use crate::upload::body::UploadBody;
use crate::upload::content_length;

/// The largest component that is taken. Those made from Rust have a megabyte, those with an interpreter
/// inside 20 to 40.
const MAX_COMPONENT_BYTES: u64 = 64 * 1024 * 1024;

/// The header that carries a plugin's signature: its `.minisig` file in base64.
const COFFERDAM_SIGNATURE: HeaderName = HeaderName::from_static("cofferdam-signature");

/// The most bytes of that file. Those of minisign have three hundred.
const MAX_SIGNATURE_BYTES: usize = 4096;

/// A list of plugins.
#[derive(Serialize, JsonSchema)]
pub(super) struct Page {
    plugins: Vec<PluginView>,
}

/// `GET /v1/plugins`.
pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let plugins = call.api.host().plugins().await?;
    json(StatusCode::OK, &Page { plugins })
}

/// `GET /v1/plugins/{name}/{version}`.
pub(super) async fn show(call: Call) -> Result<Response, Problem> {
    let (name, version) = named(&call).map_err(Problem::not_found)?;
    json(
        StatusCode::OK,
        &call.api.host().plugin(&name, &version).await?,
    )
}

/// `PUT /v1/plugins/{name}/{version}`: the body is the component.
pub(super) async fn admit(call: Call) -> Result<Response, Problem> {
    let (name, version) = named(&call).map_err(Problem::bad_request)?;
    let signature = signature(&call.parts.headers)?;
    let identity: Option<&Identity> = call.parts.extensions.get();
    let by = identity.map_or_else(String::new, |identity| identity.id.to_string());
    let too_large = || {
        Problem::too_large(format!(
            "a component has at most {MAX_COMPONENT_BYTES} bytes"
        ))
    };
    if content_length(&call.parts.headers).is_some_and(|length| length > MAX_COMPONENT_BYTES) {
        return Err(too_large());
    }
    let Call { api, body, .. } = call;
    let turns = api.inner.admissions.clone();
    let turn = turns
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let mut body = UploadBody::new(body, api.inner.body_limits.clone());
    let mut wasm = BytesMut::new();
    while let Some(bytes) = body.next().await? {
        if (wasm.len() + bytes.len()) as u64 > MAX_COMPONENT_BYTES {
            return Err(too_large());
        }
        wasm.extend_from_slice(&bytes);
    }
    let location = format!("/v1/plugins/{name}/{version}");
    let host = api.host().clone();
    let admission = Admission {
        name,
        version,
        wasm: wasm.freeze(),
        signature,
        by,
    };
    let admit = api.detach(async move {
        let view = host.admit(admission).await;
        drop(turn);
        view
    });
    let view = admit.await.map_err(|error| Problem::internal(&error))??;
    Ok(([(LOCATION, location)], json(StatusCode::CREATED, &view)?).into_response())
}

/// `DELETE /v1/plugins/{name}/{version}`.
pub(super) async fn remove(call: Call) -> Result<Response, Problem> {
    let (name, version) = named(&call).map_err(Problem::not_found)?;
    let host = call.api.host().clone();
    let removal = call
        .api
        .detach(async move { host.remove_plugin(&name, &version).await });
    removal.await.map_err(|error| Problem::internal(&error))??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The signature that a request carries.
fn signature(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(COFFERDAM_SIGNATURE) else {
        return Ok(None);
    };
    let refused = || {
        Problem::bad_request(format!(
            "Cofferdam-Signature is the base64 of a .minisig file of at most {MAX_SIGNATURE_BYTES} bytes"
        ))
    };
    let text = STANDARD.decode(value).map_err(|_| refused())?;
    if text.len() > MAX_SIGNATURE_BYTES {
        return Err(refused());
    }
    String::from_utf8(text).map(Some).map_err(|_| refused())
}

fn named(call: &Call) -> Result<(PluginName, Version), String> {
    let name = call
        .param("name")
        .parse()
        .map_err(|error: NameError| error.to_string())?;
    let version = call.param("version");
    let version = Version::parse(version)
        .map_err(|error| format!("{version:?} is not a version such as 1.2.0: {error}"))?;
    Ok((name, version))
}
