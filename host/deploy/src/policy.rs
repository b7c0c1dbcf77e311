//! The operator's ceilings: the most that a step may be granted, and which line says so.
//!
//! A policy is a file, `policy.toml`. Without one, [`Policy::built_in`] holds. What a key's ceiling is
//! follows from one rule: **the most specific table that names the key decides it**, and a project's table
//! is more specific than a plugin's version's, that more than the plugin's, that more than `[defaults]`,
//! and that more than what is built in. Tables are never merged below a key: a list replaces a list.
//!
//! Layout:
//!
//! - `ceilings`: the keys, what is built in, and how a table decides;
//! - `file`: `policy.toml`, read and checked;
//! - `limit`: the limits by name, with the built-in ceiling of each;
//! - `pattern`: names and addresses with a `*` in them.

mod ceilings;
mod file;
mod limit;
mod pattern;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use cofferdam_sandbox::IpRange;
use semver::Version;
use serde::{Serialize, Serializer};

use crate::name::{PluginName, ProjectName};
use crate::release::Retention;
use crate::signature::SignaturePolicy;

pub(crate) use ceilings::{Ceilings, MAX_ENV_BYTES};
pub(crate) use limit::{LIMITS, Limit};

/// The longest file that is read as a policy: past it, it is something else.
const LONGEST: u64 = 1 << 20;

/// The operator's ceilings, read and checked.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    defaults: Ceilings,
    plugins: BTreeMap<PluginKey, Ceilings>,
    projects: BTreeMap<ProjectName, Ceilings>,
    network: NetworkPolicy,
    signatures: SignaturePolicy,
    retention: Retention,
}

/// A plugin's table: for every version, or for one.
type PluginKey = (PluginName, Option<Version>);

/// What holds for everything that is granted network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Ranges of addresses that are not public and may be reached all the same, such as `10.0.0.0/8`.
    pub allow_ranges: Vec<IpRange>,
    /// Certificates in PEM that are trusted beside the system's.
    pub extra_roots: Vec<String>,
}

/// What decided a request: a line of the operator's file, or the program itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// No file says anything about it.
    BuiltIn,
    /// The line of a file that does.
    Line {
        /// The file's name, without its directory.
        file: String,
        /// Counted from 1.
        line: usize,
    },
}

/// Why a file is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the policy {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something that a policy cannot say.
    #[error("the policy {file} cannot be used: {message}")]
    Invalid {
        /// The file's name.
        file: String,
        /// The line, the key and what is wrong with it.
        message: String,
    },
}

impl Policy {
    /// What holds without a file: the most that this version grants anybody, no network, a project's own
    /// secrets, caches.
    #[must_use]
    pub fn built_in() -> Self {
        Self::default()
    }

    /// Which releases are kept.
    pub(crate) fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Reads a policy file. Paths in it are relative to its directory.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], naming the line and the key.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let unreadable = |source| PolicyError::Read {
            path: path.to_owned(),
            source,
        };
        let file = path.file_name().map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > LONGEST {
            let message = format!("it is {bytes} bytes long, and {LONGEST} are read");
            return Err(PolicyError::Invalid { file, message });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&file, &text, path.parent().unwrap_or(Path::new(".")))
    }

    /// Reads a policy's text. `file` is its name in messages; paths in it are relative to `beside`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Invalid`], naming the line and the key.
    pub fn parse(file: &str, text: &str, beside: &Path) -> Result<Self, PolicyError> {
        file::parse(file, text, beside).map_err(|message| PolicyError::Invalid {
            file: file.to_owned(),
            message,
        })
    }

    /// Whose signatures plugins need.
    #[must_use]
    pub fn signatures(&self) -> SignaturePolicy {
        self.signatures.clone()
    }

    /// The same policy with other signatures: for programs that embed a host and have no file.
    #[must_use]
    pub fn with_signatures(self, signatures: SignaturePolicy) -> Self {
        Self { signatures, ..self }
    }

    /// What holds for everything that is granted network.
    #[must_use]
    pub fn network(&self) -> &NetworkPolicy {
        &self.network
    }

    /// How many bytes of packages a project may hold, and those that have a number of their own.
    pub(crate) fn storage(&self) -> (Option<u64>, BTreeMap<String, u64>) {
        let bytes = |table: &Ceilings| table.storage_bytes.as_ref().map(|ruled| ruled.value);
        let own = self.projects.iter();
        let own = own.filter_map(|(name, table)| Some((name.to_string(), bytes(table)?)));
        (bytes(&self.defaults), own.collect())
    }

    /// The ceilings of one step: for every key, the most specific table that names it.
    pub(crate) fn ceilings(
        &self,
        project: &ProjectName,
        plugin: Option<(&PluginName, Option<&Version>)>,
    ) -> Ceilings {
        let mut ceilings = Ceilings::built_in();
        ceilings.overlay(&self.defaults);
        if let Some((name, version)) = plugin {
            let named = self.plugins.get(&(name.clone(), None));
            let exact = version
                .and_then(|version| self.plugins.get(&(name.clone(), Some(version.clone()))));
            for table in [named, exact].into_iter().flatten() {
                ceilings.overlay(table);
            }
        }
        if let Some(table) = self.projects.get(project) {
            ceilings.overlay(table);
        }
        ceilings
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in default"),
            Self::Line { file, line } => write!(f, "{file}:{line}"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
