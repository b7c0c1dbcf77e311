//! The head: what a client says about the package it sends.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::name::{PluginRef, ProjectName};

/// The most install steps of a pipeline. Each is a process, a thread and a few directories.
pub const MAX_INSTALL_STEPS: usize = 32;

/// The longest message, in characters: a commit's subject fits, a novel does not.
pub const MAX_MESSAGE: usize = 1000;

/// The JSON or CBOR document that comes with a package. Every field is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Head {
    /// The project; the URL's when absent, and the same as the URL's when present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The steps.
    pub pipeline: Pipeline,
    /// How the new release replaces the old one.
    pub strategy: Strategy,
    /// Whether the release before takes the place of this one again when a service of it fails within its watch
    /// period; yes when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_revert: Option<bool>,
    /// Whether the steps' clocks and random numbers are virtual.
    pub reproducible: bool,
    /// Digests that the package must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<ExpectedDigest>,
    /// A note for people, such as a commit's subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The steps of a deployment: one extract, any number of installs, one load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pipeline {
    /// Turns the package's bytes into files; `unpack` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extract: Option<Step>,
    /// What happens to the files, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub install: Vec<Step>,
    /// Describes the services; `serve` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Step>,
}

/// One step as its author writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The plugin to run.
    pub plugin: PluginRef,
    /// The plugin's own configuration, passed through as it is.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub config: Value,
    /// What the step asks for beyond its directories.
    #[serde(default, skip_serializing_if = "Request::is_empty")]
    pub request: Request,
}

/// What a step asks for. What it gets is a grant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Environment variables, with their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// `host:port` pairs to reach over HTTP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<String>,
    /// A directory that survives deployments.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cache: bool,
    /// For a service: a directory that survives requests and deployments.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub state: bool,
    /// Limits other than the defaults.
    #[serde(skip_serializing_if = "RequestedLimits::is_empty")]
    pub limits: RequestedLimits,
}

impl Request {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits that a step asks for, in integers with the unit in the name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequestedLimits {
    /// Linear memory of all instances together, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Time from start to end, without waiting for the package, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Processor time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Bytes written to files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Files, directories and links created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Files and streams open at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles: Option<u64>,
    /// Bytes printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Bytes of one printed line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_bytes: Option<u64>,
    /// Outgoing HTTP requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Bytes sent over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bytes: Option<u64>,
    /// Bytes received over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_bytes: Option<u64>,
    /// HTTP requests under way at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
}

impl RequestedLimits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How the new release replaces the old one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Start the new release beside the old one and swap the route.
    #[default]
    BlueGreen,
    /// Take the old release away first; the route answers 503 meanwhile.
    Recreate,
}

/// A digest that the package must have, in lower-case hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExpectedDigest {
    /// BLAKE3, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// SHA-256, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Head {
    /// Parses a head from JSON.
    ///
    /// # Errors
    ///
    /// [`Error::HeadInvalid`] with the place and the reason.
    pub fn from_json(text: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(text).map_err(|error| Error::HeadInvalid {
            message: error.to_string(),
        })
    }

    /// The steps that are written down, with their names.
    fn steps(&self) -> impl Iterator<Item = (String, &Step)> {
        let Pipeline {
            extract,
            install,
            load,
        } = &self.pipeline;
        let installs = install.iter().enumerate();
        let extract = extract.iter().map(|step| ("extract".to_owned(), step));
        let load = load.iter().map(|step| ("load".to_owned(), step));
        extract
            .chain(installs.map(|(at, step)| (format!("install-{}", at + 1), step)))
            .chain(load)
    }

    /// Checks what the types cannot say.
    pub(crate) fn check(&self, project: &ProjectName) -> Result<(), Error> {
        let invalid = |message: String| Err(Error::HeadInvalid { message });
        if let Some(named) = &self.project
            && named != project
        {
            return invalid(format!(
                "the head names the project {named}, the request {project}"
            ));
        }
        if self.pipeline.install.len() > MAX_INSTALL_STEPS {
            let count = self.pipeline.install.len();
            return invalid(format!(
                "{count} install steps are more than the {MAX_INSTALL_STEPS} allowed"
            ));
        }
        if self
            .message
            .as_ref()
            .is_some_and(|message| message.chars().count() > MAX_MESSAGE)
        {
            return invalid(format!(
                "the message is longer than {MAX_MESSAGE} characters"
            ));
        }
        if self.reproducible {
            let asks = |(name, step): (String, &Step)| {
                let request = &step.request;
                let what = match (request.cache, request.net.is_empty()) {
                    (true, _) => "a cache",
                    (false, false) => "network",
                    (false, true) => return None,
                };
                Some(format!(
                    "{name} asks for {what}, which differs from run to run: leave it out, or leave out reproducible"
                ))
            };
            if let Some(message) = self.steps().find_map(asks) {
                return invalid(message);
            }
        }
        if let Some(digest) = &self.digest {
            for hex in [&digest.blake3, &digest.sha256].into_iter().flatten() {
                if hex.len() != 64
                    || !hex
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
                {
                    return invalid(format!(
                        "the digest {hex:?} is not 64 lower-case hex digits"
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn an_empty_head_is_a_head() {
        assert_eq!(Head::from_json(b"{}").unwrap(), Head::default());
    }

    #[test]
    fn an_unknown_field_is_refused_by_its_name() {
        let error = Head::from_json(br#"{"pipelines": {}}"#).unwrap_err();
        assert_eq!(error.code(), "head_invalid");
        assert!(error.to_string().contains("pipelines"), "{error}");
    }

    #[test]
    fn a_head_for_another_project_is_refused() {
        let head = Head::from_json(br#"{"project": "blog"}"#).unwrap();
        let error = head.check(&"shop".parse().unwrap()).unwrap_err();
        assert_eq!(error.code(), "head_invalid");
    }

    #[test]
    fn a_reproducible_step_with_a_cache_or_network_is_refused_by_name() {
        for request in [r#"{"cache": true}"#, r#"{"net": ["example.org:443"]}"#] {
            let text = format!(
                r#"{{"reproducible": true, "pipeline": {{"install": [{{"plugin": "a"}}, {{"plugin": "b", "request": {request}}}]}}}}"#
            );
            let mut head = Head::from_json(text.as_bytes()).unwrap();
            let error = head.check(&"blog".parse().unwrap()).unwrap_err();
            assert_eq!(error.code(), "head_invalid");
            assert!(error.to_string().contains("install-2"), "{error}");
            head.reproducible = false;
            assert!(head.check(&"blog".parse().unwrap()).is_ok());
        }
    }

    #[test]
    fn a_long_number_in_a_config_is_the_same_after_it_was_stored() {
        let head = Head::from_json(
            br#"{"pipeline": {"load": {"plugin": "a", "config": {"n": 14000000000000000000000000000000000000055}}}}"#,
        )
        .unwrap();
        let stored = serde_json::to_vec(&head).unwrap();
        assert_eq!(Head::from_json(&stored).unwrap(), head);
    }

    #[test]
    fn a_digest_of_the_wrong_length_is_refused() {
        let head = Head::from_json(br#"{"digest": {"sha256": "abc"}}"#).unwrap();
        assert!(head.check(&"blog".parse().unwrap()).is_err());
    }
}
