//! What a run is told and given: plain data, its directories and its input.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::limits::{Limits, ServiceLimits};
use crate::net::NetGrant;

/// The place of a step in its pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Turns the package's bytes into files.
    Extract,
    /// Works on the files.
    Install,
    /// Describes what is to be served.
    Load,
}

impl Phase {
    /// The phase's name in lower case, as in the pipeline's JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::Install => "install",
            Self::Load => "load",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a step is, and its own configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepContext {
    /// The deployment, a `UUIDv7` as text.
    pub deployment: String,
    /// The project's name.
    pub project: String,
    /// The step's name within the deployment.
    pub step: String,
    /// The step's place in the pipeline.
    pub phase: Phase,
    /// The step's configuration; `null` when there is none.
    #[serde(default)]
    pub config: serde_json::Value,
}

/// One run of a component: everything about it that is plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Who the step is.
    pub context: StepContext,
    /// The environment it sees, beside the four `COFFERDAM_` variables. Nothing is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// Whether the step sees no time, chance or machine of its own, so that the same component, config and files
    /// give the same result everywhere. Its deployment has a fixed id then.
    #[serde(default)]
    pub reproducible: bool,
    /// The network it may reach.
    #[serde(default)]
    pub net: NetGrant,
    /// The secrets it may ask for, by name. They are never printed and never serialised.
    #[serde(skip)]
    pub secrets: Secrets,
}

impl StepSpec {
    /// A run with the default limits, no environment and no secrets.
    #[must_use]
    pub fn new(context: StepContext) -> Self {
        Self {
            context,
            env: BTreeMap::new(),
            limits: Limits::default(),
            reproducible: false,
            net: NetGrant::default(),
            secrets: Secrets::default(),
        }
    }
}

/// Secrets by name. Their values appear in no debug output and in no serialised form, and are wiped from memory when
/// they are dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl Secrets {
    /// Grants `value` under `name`.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.insert(name.into(), Zeroizing::new(value.into()));
    }

    /// Adds those of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The bytes of all values together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.values().map(|value| value.len()).sum()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|value| value.as_slice())
    }

    /// Every secret: its name and its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Secrets with their values, for the one place that needs them so: a job on its way to its worker.
pub(crate) mod exposed {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Secrets;

    pub(crate) fn serialize<S: Serializer>(
        secrets: &Secrets,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(secrets.iter())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Secrets, D::Error> {
        let values = Vec::<(String, Vec<u8>)>::deserialize(deserializer)?;
        let mut secrets = Secrets::default();
        for (name, value) in values {
            secrets.insert(name, value);
        }
        Ok(secrets)
    }
}

/// What a guest may do with a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Look at everything, change nothing.
    ReadOnly,
    /// Create, change and remove.
    ReadWrite,
}

/// A directory that a guest gets.
///
/// The directory that the guest sees as `/release` is also its `.`, so that relative paths work. Two preopens
/// are two worlds to the guest, even when they are the same directory: nothing is linked or renamed from one
/// into the other.
#[derive(Debug)]
pub struct Preopen {
    /// The absolute path under which the guest finds it.
    pub guest_path: String,
    /// What the guest may do there.
    pub access: Access,
    /// The open directory.
    pub directory: File,
}

impl Preopen {
    /// Opens a directory of the host for a guest.
    ///
    /// # Errors
    ///
    /// When `path` cannot be opened.
    pub fn open(
        guest_path: impl Into<String>,
        access: Access,
        path: impl AsRef<std::path::Path>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            guest_path: guest_path.into(),
            access,
            directory: File::open(path)?,
        })
    }
}

/// Where a step's standard input comes from.
#[derive(Debug)]
pub enum Stdin {
    /// It is at its end from the start.
    Closed,
    /// The bytes that are sent here. Dropping the sender is the end of the input; an error in the channel is an
    /// error to the guest and appears in the [`Outcome`](crate::Outcome).
    Channel(mpsc::Receiver<Result<Bytes, InputError>>),
}

/// Why no more input comes, although it is not at its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct InputError {
    /// A sentence for a person.
    pub message: String,
}

/// A service: what every request's instance of it is told and given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// The service's name, for the log.
    pub name: String,
    /// The environment it sees. Nothing is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What each request may use.
    #[serde(default)]
    pub limits: ServiceLimits,
    /// The network it may reach.
    #[serde(default)]
    pub net: NetGrant,
    /// The secrets it may ask for by name. They are in no serialised form.
    #[serde(skip)]
    pub secrets: Secrets,
}

/// A directory that a service keeps from one request to the next: its `/state`.
#[derive(Debug)]
pub struct ServiceState {
    /// The open directory. Nobody but the service writes to it.
    pub directory: File,
    /// Bytes that it may hold, whoever wrote them and when.
    pub bytes: u64,
}

impl ServiceSpec {
    /// A service of this name with the default limits and nothing granted.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            env: BTreeMap::new(),
            limits: ServiceLimits::default(),
            net: NetGrant::default(),
            secrets: Secrets::default(),
        }
    }
}

/// The names of the environment that the sandbox itself sets.
const CONTEXT_PREFIX: &str = "COFFERDAM_";

/// The environment of a step: what was granted, and its context over it.
pub(crate) fn environment(spec: &StepSpec) -> BTreeMap<String, String> {
    let mut env = spec.env.clone();
    let mut set = |name: &str, value: String| {
        env.insert(format!("{CONTEXT_PREFIX}{name}"), value);
    };
    set("PROJECT", spec.context.project.clone());
    set("DEPLOYMENT", spec.context.deployment.clone());
    set("STEP", spec.context.step.clone());
    set("CONFIG", spec.context.config.to_string());
    env
}

/// Bytes of an environment, names and values and the config among them: what Linux lets a program have.
const MAX_ENVIRONMENT_BYTES: usize = 1 << 20;

/// Refuses names and values that no environment can hold, and more of them than any does.
pub(crate) fn check_environment(env: &BTreeMap<String, String>) -> Result<(), Error> {
    // Each with a `=` and a NUL.
    let bytes: usize = env
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    if bytes > MAX_ENVIRONMENT_BYTES {
        return Err(Error::specification(format!(
            "its environment and its config have {bytes} bytes and at most {MAX_ENVIRONMENT_BYTES} are passed on; \
             put what is large into a file"
        )));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::specification(format!(
                "{name:?} is not a name of an environment variable; leave out `=` and NUL"
            )));
        }
        if value.contains('\0') {
            return Err(Error::specification(format!(
                "the value of {name} contains a NUL"
            )));
        }
    }
    Ok(())
}

/// Refuses preopens that a guest could not tell apart or find.
pub(crate) fn check_preopens(preopens: &[Preopen]) -> Result<(), Error> {
    for (index, preopen) in preopens.iter().enumerate() {
        let path = &preopen.guest_path;
        if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..")
        {
            return Err(Error::specification(format!(
                "a directory's guest path is absolute and plain, and {path:?} is not"
            )));
        }
        if preopens[..index]
            .iter()
            .any(|other| other.guest_path == *path)
        {
            return Err(Error::specification(format!(
                "two directories have the guest path {path}"
            )));
        }
        let is_directory = preopen
            .directory
            .metadata()
            .is_ok_and(|metadata| metadata.is_dir());
        if !is_directory {
            return Err(Error::specification(format!(
                "what was given for {path} is not an open directory"
            )));
        }
    }
    Ok(())
}
