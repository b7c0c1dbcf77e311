//! The names that people and programs meet, each parsed once, at the edge.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that does not name what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct NameError {
    what: &'static str,
    value: String,
    rule: &'static str,
}

/// The longest project name: the longest label of a host name (RFC 1035), because a project is served
/// under its name.
const MAX_PROJECT_NAME: usize = 63;

/// The longest plugin name. Nothing depends on it but the width of a terminal.
const MAX_PLUGIN_NAME: usize = 63;

/// The longest name of a secret. Nothing depends on it but the width of a terminal.
const MAX_SECRET_NAME: usize = 128;

/// The longest name of a token. Nothing depends on it but the width of a terminal.
const MAX_TOKEN_NAME: usize = 63;

/// How much of a wrong name an error repeats.
const MAX_QUOTED: usize = 80;

fn quoted(value: &str) -> String {
    value.chars().take(MAX_QUOTED).collect()
}

/// Lower-case letters, digits and inner hyphens: a label of a host name.
fn is_label(value: &str, longest: usize) -> bool {
    let bytes = value.as_bytes();
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !bytes.is_empty()
        && bytes.len() <= longest
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|byte| edge(byte) || *byte == b'-')
}

fn is_secret_name(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    value.len() <= MAX_SECRET_NAME
        && value
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && value.bytes().all(inner)
}

fn is_token_name(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    value.len() <= MAX_TOKEN_NAME
        && value
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && value.bytes().all(inner)
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(value: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(value) {
                    Ok(Self(value.to_owned()))
                } else {
                    Err(NameError { what: $what, value: quoted(value), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(value: String) -> Result<Self, NameError> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_name!(
    /// A thing that is deployed again and again: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
    ProjectName,
    "the project name",
    "use 1 to 63 lower-case letters, digits and inner hyphens",
    |value| is_label(value, MAX_PROJECT_NAME)
);

text_name!(
    /// The name of a plugin, without its version.
    PluginName,
    "the plugin name",
    "use 1 to 63 lower-case letters, digits and inner hyphens",
    |value| is_label(value, MAX_PLUGIN_NAME)
);

text_name!(
    /// The name of a service of a release; a project's further services are served under it.
    ServiceName,
    "the service name",
    "use 1 to 63 lower-case letters, digits and inner hyphens",
    |value| is_label(value, MAX_PROJECT_NAME)
);

text_name!(
    /// The name of a secret within its project: `[A-Za-z_][A-Za-z0-9_-]{0,127}`.
    SecretName,
    "the secret name",
    "use 1 to 128 letters, digits, underscores and hyphens, and do not begin with a digit or a hyphen",
    is_secret_name
);

text_name!(
    /// What people call a token: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`.
    TokenName,
    "the token name",
    "use 1 to 63 letters, digits, dots, underscores and hyphens, and begin with a letter or a digit",
    is_token_name
);

/// One run of a pipeline over one package: a `UUIDv7`, so ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeploymentId(Uuid);

impl DeploymentId {
    /// An id for a deployment that begins now.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id as the ledger and the event log know it.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for DeploymentId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl FromStr for DeploymentId {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        // Only the usual form: a second spelling of an id would be a second path to one file.
        match Uuid::try_parse(value) {
            Ok(id) if id.hyphenated().to_string() == value => Ok(Self(id)),
            _ => Err(NameError {
                what: "the deployment id",
                value: quoted(value),
                rule: "it is a UUID in lower case with hyphens",
            }),
        }
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// How a pipeline names a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PluginRef {
    /// `name` (the highest admitted version) or `name@1.2.0`.
    Named {
        /// The plugin's name.
        name: PluginName,
        /// The version asked for; `None` means the highest.
        version: Option<semver::Version>,
    },
    /// `blake3:<64 hex digits>`: exactly these bytes.
    Digest(String),
}

impl FromStr for PluginRef {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        if let Some(hex) = value.strip_prefix("blake3:") {
            if hex.len() == 64
                && hex
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            {
                return Ok(Self::Digest(value.to_owned()));
            }
            return Err(NameError {
                what: "the plugin digest",
                value: quoted(value),
                rule: "it is blake3: and 64 lower-case hex digits",
            });
        }
        let Some((name, version)) = value.split_once('@') else {
            return Ok(Self::Named {
                name: value.parse()?,
                version: None,
            });
        };
        let version = semver::Version::parse(version).map_err(|_| NameError {
            what: "the plugin version",
            value: quoted(version),
            rule: "it is a semantic version such as 1.2.0",
        })?;
        Ok(Self::Named {
            name: name.parse()?,
            version: Some(version),
        })
    }
}

impl TryFrom<String> for PluginRef {
    type Error = NameError;

    fn try_from(value: String) -> Result<Self, NameError> {
        value.parse()
    }
}

impl From<PluginRef> for String {
    fn from(reference: PluginRef) -> String {
        reference.to_string()
    }
}

impl fmt::Display for PluginRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named {
                name,
                version: None,
            } => name.fmt(f),
            Self::Named {
                name,
                version: Some(version),
            } => write!(f, "{name}@{version}"),
            Self::Digest(digest) => f.write_str(digest),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_project_name_is_a_label_of_a_host_name_and_nothing_else() {
        for good in ["a", "0", "blog", "my-site-2", &"x".repeat(63)] {
            assert!(good.parse::<ProjectName>().is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        let bad = [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "..",
            "a b",
            "a\n",
            "ä",
            "%2e%2e",
            "a\u{0}",
            long.as_str(),
        ];
        for bad in bad {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_plugin_is_named_by_name_version_or_digest() {
        assert_eq!("unpack".parse::<PluginRef>().unwrap().to_string(), "unpack");
        assert_eq!(
            "npm@1.2.0".parse::<PluginRef>().unwrap().to_string(),
            "npm@1.2.0"
        );
        let digest = format!("blake3:{}", "0a".repeat(32));
        assert_eq!(
            digest.parse::<PluginRef>().unwrap(),
            PluginRef::Digest(digest)
        );
        for bad in [
            "npm@",
            "npm@1",
            "@1.0.0",
            "blake3:00",
            "../x",
            "npm@1.0.0/..",
        ] {
            assert!(bad.parse::<PluginRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_named_like_a_variable() {
        for good in ["A", "_", "NPM_TOKEN", "deploy-key-2", &"x".repeat(128)] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in [
            "",
            "1A",
            "-a",
            "a.b",
            "a/b",
            "..",
            "a b",
            "ä",
            long.as_str(),
        ] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = DeploymentId::new();
        assert_eq!(id.to_string().parse::<DeploymentId>().unwrap(), id);
        assert!(
            id.to_string()
                .to_uppercase()
                .parse::<DeploymentId>()
                .is_err()
        );
        assert!(
            id.as_uuid()
                .simple()
                .to_string()
                .parse::<DeploymentId>()
                .is_err()
        );
    }
}
