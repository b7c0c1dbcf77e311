//! Pulling one WebAssembly file from an OCI registry: its manifest, then the blob that the manifest names.
//!
//! This is the small part of the distribution specification that a pull needs. Every step is held against a digest:
//! the manifest against the one in the reference or the one that the registry says, the blob against the manifest's.

mod challenge;
mod reference;

use reqwest::header::{ACCEPT, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use self::challenge::Challenge;
pub(crate) use self::reference::Reference;
use super::{Digest, MAX_COMPONENT_BYTES, web};
use crate::api::is_loopback;
use crate::exit::Failure;

/// The most bytes of a manifest, as the distribution specification has it.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// The most bytes of an answer that holds a token.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

/// The manifests that can be read.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a layer is that holds a component: the registered type, and the beginning of those that came before it.
const WASM: &str = "application/wasm";
const VENDOR_WASM: &str = "application/vnd.wasm.";

/// What names a registry's user and password for [`pull`], where a registry wants them.
const USER: &str = "COFFERDAM_REGISTRY_USER";
const PASSWORD: &str = "COFFERDAM_REGISTRY_PASSWORD";

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
}

/// Pulls the component that a reference names.
pub(super) async fn pull(reference: &Reference) -> Result<Vec<u8>, Failure> {
    let mut registry = Registry::new(reference)?;
    let url = registry.url("manifests", reference.version())?;
    let answer = registry.get(&url, Some(MANIFEST)).await?;
    let said = answer
        .headers()
        .get("docker-content-digest")
        .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
    let text = web::body(&url, answer, MAX_MANIFEST_BYTES).await?;
    // The registry's own word catches what was damaged on the way, the reference's what was exchanged.
    for digest in said.iter().chain(reference.digest()) {
        digest.check(&text)?;
    }

    let layer = layer(&text, &reference.to_string())?;
    let digest: Digest = layer
        .digest
        .parse()
        .ok()
        .filter(Digest::is_sha256)
        .ok_or_else(|| {
            Failure::refused(format!(
                "the manifest of {reference} names its component by {:?}, which is no SHA-256",
                layer.digest
            ))
        })?;
    if layer.size > MAX_COMPONENT_BYTES {
        return Err(Failure::refused(format!(
            "the component of {reference} has {} bytes and at most {MAX_COMPONENT_BYTES} are taken",
            layer.size
        )));
    }
    let url = registry.url("blobs", &digest.to_string())?;
    let answer = registry.get(&url, None).await?;
    let wasm = web::body(&url, answer, layer.size).await?;
    digest.check(&wasm)?;
    Ok(wasm)
}

/// The one layer of a manifest that is WebAssembly.
fn layer(text: &[u8], reference: &str) -> Result<Layer, Failure> {
    let manifest: Manifest = serde_json::from_slice(text).map_err(|error| {
        Failure::refused(format!(
            "{reference} has no manifest that can be read: {error}"
        ))
    })?;
    let all: Vec<String> = manifest
        .layers
        .iter()
        .map(|layer| layer.media_type.chars().take(100).collect())
        .collect();
    let mut wasm = manifest
        .layers
        .into_iter()
        .filter(|layer| layer.media_type == WASM || layer.media_type.starts_with(VENDOR_WASM));
    match (wasm.next(), wasm.next()) {
        (Some(layer), None) => Ok(layer),
        (Some(_), Some(_)) => Err(Failure::refused(format!(
            "{reference} holds more than one WebAssembly file"
        ))),
        (None, _) if all.is_empty() => Err(Failure::refused(format!(
            "{reference} holds nothing: it may be an index of several, of which one has to be named by its digest"
        ))),
        (None, _) => Err(Failure::refused(format!(
            "{reference} holds no WebAssembly file ({WASM}); it holds {}",
            all.join(", ")
        ))),
    }
}

/// A registry that is being talked to.
struct Registry<'a> {
    reference: &'a Reference,
    http: Client,
    /// The token that a registry's own service gave for the one repository.
    token: Option<String>,
    /// Whether the registry asked for a user and a password.
    basic: bool,
}

impl<'a> Registry<'a> {
    fn new(reference: &'a Reference) -> Result<Self, Failure> {
        let mut registry = Registry {
            reference,
            http: Client::new(),
            token: None,
            basic: false,
        };
        registry.http = web::client(&registry.url("manifests", "x")?)?;
        Ok(registry)
    }

    fn url(&self, kind: &str, name: &str) -> Result<Url, Failure> {
        let text = format!("{}/{kind}/{name}", self.reference.base());
        Url::parse(&text).map_err(|error| Failure::Usage(format!("{text:?} is not a URL: {error}")))
    }

    /// Gets something of the repository; where the registry wants a token first, gets that.
    async fn get(&mut self, url: &Url, accept: Option<&str>) -> Result<Response, Failure> {
        let answer = self.send(url, accept).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return web::succeeded(url, answer);
        }
        self.authorise(answer.headers()).await?;
        let answer = self.send(url, accept).await?;
        web::succeeded(url, answer)
    }

    async fn send(&self, url: &Url, accept: Option<&str>) -> Result<Response, Failure> {
        let mut request = self.http.get(url.clone());
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        } else if self.basic {
            request = with_password(url, request);
        }
        request
            .send()
            .await
            .map_err(|error| web::broken(url, &error))
    }

    /// Does what a refusal asks for: sends a password from now on, or gets a token from where it says.
    async fn authorise(&mut self, headers: &HeaderMap) -> Result<(), Failure> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenge = challenges
            .filter_map(|value| value.to_str().ok())
            .find_map(Challenge::parse);
        let reference = self.reference;
        match challenge {
            Some(Challenge::Basic) if reference.is_local() && has_password() => {
                self.basic = true;
                Ok(())
            }
            Some(Challenge::Bearer { realm, service }) => {
                let mut url = Url::parse(&realm).ok().filter(|url| reference.may_ask(url)).ok_or_else(|| {
                    Failure::refused(format!(
                        "the registry of {reference} sends clients to {realm:?} for a token, which is not asked"
                    ))
                })?;
                url.query_pairs_mut().append_pair(
                    "scope",
                    &format!("repository:{}:pull", reference.repository()),
                );
                if let Some(service) = service {
                    url.query_pairs_mut().append_pair("service", &service);
                }
                let request = with_password(&url, self.http.get(url.clone()));
                let answer = request
                    .send()
                    .await
                    .map_err(|error| web::broken(&url, &error))?;
                let answer = web::succeeded(&url, answer)?;
                let text = web::body(&url, answer, MAX_TOKEN_BYTES).await?;
                self.token = Some(challenge::token(&text).ok_or_else(|| {
                    Failure::refused(format!(
                        "the registry of {reference} gives no token that can be read"
                    ))
                })?);
                Ok(())
            }
            _ => Err(Failure::Refused {
                code: Some("unauthorized".to_owned()),
                message: format!(
                    "the registry does not give {reference} to everybody: set {USER} and {PASSWORD}"
                ),
            }),
        }
    }
}

fn has_password() -> bool {
    std::env::var_os(USER).is_some()
}

/// The request with the registry's user and password, where they are set and nobody on the way can read them.
fn with_password(url: &Url, request: RequestBuilder) -> RequestBuilder {
    if !is_loopback(url) {
        return request;
    }
    match std::env::var(USER) {
        Ok(user) => request.basic_auth(user, std::env::var(PASSWORD).ok()),
        Err(_) => request,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn manifest(types: &[&str]) -> Vec<u8> {
        let layers: Vec<_> = types
            .iter()
            .map(|media_type| serde_json::json!({ "mediaType": media_type, "digest": "d", "size": 1 }))
            .collect();
        serde_json::json!({ "schemaVersion": 2, "layers": layers })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn the_one_layer_that_is_wasm_is_taken() {
        let taken = |types: &[&str]| layer(&manifest(types), "r").map(|layer| layer.media_type);
        assert_eq!(taken(&["text/plain", WASM]).unwrap(), WASM);
        let vendor = "application/vnd.wasm.content.layer.v1+wasm";
        assert_eq!(taken(&[vendor]).unwrap(), vendor);
        assert!(
            taken(&[WASM, vendor])
                .unwrap_err()
                .to_string()
                .contains("more than one")
        );
        assert!(
            taken(&["text/plain"])
                .unwrap_err()
                .to_string()
                .contains("text/plain")
        );
        assert!(taken(&[]).unwrap_err().to_string().contains("index"));
        assert!(layer(b"<html>", "r").is_err());
    }
}
