//! One bounded download.

use std::time::Duration;

use reqwest::{Client, Response, Url, redirect};

use super::MAX_COMPONENT_BYTES;
use crate::api::is_loopback;
use crate::exit::Failure;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an answer may stay silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Hops that are followed: registries hand blobs over to a store, and that to a mirror.
const HOPS: usize = 5;

/// The file at a URL.
pub(super) async fn download(url: &Url) -> Result<Vec<u8>, Failure> {
    let answer = client(url)?
        .get(url.clone())
        .send()
        .await
        .map_err(|error| broken(url, &error))?;
    body(url, succeeded(url, answer)?, MAX_COMPONENT_BYTES).await
}

/// A client for one download. Nothing of ours is sent to anybody, so redirects may be followed.
pub(super) fn client(url: &Url) -> Result<Client, Failure> {
    let mut builder = Client::builder()
        .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .redirect(redirect::Policy::limited(HOPS));
    if is_loopback(url) {
        builder = builder.no_proxy();
    }
    crate::tls::install_provider();
    builder
        .build()
        .map_err(|error| Failure::Machine(anyhow::Error::new(error)))
}

/// The answer, unless it is a refusal.
pub(super) fn succeeded(url: &Url, answer: Response) -> Result<Response, Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let message = format!("{} answers {status}", shown(url));
    Err(if status.is_server_error() {
        Failure::Unreachable(message)
    } else {
        Failure::refused(message)
    })
}

/// The bytes of an answer, unless there are too many.
pub(super) async fn body(url: &Url, mut answer: Response, limit: u64) -> Result<Vec<u8>, Failure> {
    let too_large = || {
        Failure::refused(format!(
            "{} is larger than the {limit} bytes that are taken",
            shown(url)
        ))
    };
    if answer.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| broken(url, &error))? {
        if (bytes.len() + part.len()) as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// A request that got no answer, or half of one.
pub(super) fn broken(url: &Url, error: &reqwest::Error) -> Failure {
    // The innermost reason is the one that a person understands ("Connection refused").
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    Failure::Unreachable(format!("{} cannot be fetched: {reason}", shown(url)))
}

/// A URL without what may be secret in it.
fn shown(url: &Url) -> String {
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!(
        "{}://{}{port}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}
