//! Running a step's function in a native test, and the plugin in the real sandbox.
//!
//! [`Run`] plays the host's part for a function: quick, and fit for a debugger.
//!
//! ```
//! use cofferdam_sdk as sdk;
//!
//! fn step() -> Result<(), sdk::Error> {
//!     let limit: Option<u64> = sdk::config()?;
//!     sdk::output("limit", &limit.unwrap_or(7))
//! }
//!
//! let report = sdk::testing::Run::new(".").config(12).enter(step);
//! assert!(report.result.is_ok());
//! assert_eq!(report.output("limit"), Some(&12.into()));
//! ```
//!
//! A run belongs to the thread that entered it, so tests run in parallel; a step that starts threads of its
//! own reports from the first one. It is not a sandbox: paths are the machine's own.
//!
//! [`check_fixtures`] compiles the plugin and runs it as a server does, over directories with recorded results.

mod fixtures;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Context, Phase, host};

pub use self::fixtures::check_fixtures;

/// What the stand-in host answers.
#[derive(Debug, Clone)]
pub struct Run {
    pub(crate) context: Context,
    pub(crate) config: Value,
    pub(crate) release: PathBuf,
    pub(crate) scratch: Option<PathBuf>,
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
}

impl Run {
    /// A run over the release in `release`: an install step of the project `test`, with no configuration
    /// and no secrets, whose scratch directory is the system's temporary one.
    #[must_use]
    pub fn new(release: impl AsRef<Path>) -> Run {
        Run {
            context: Context::new(
                "00000000-0000-7000-8000-000000000000".to_owned(),
                "test".to_owned(),
                "install-1".to_owned(),
                Phase::Install,
            ),
            config: Value::Null,
            release: release.as_ref().to_owned(),
            scratch: None,
            secrets: BTreeMap::new(),
        }
    }

    /// The step's configuration. Default: none, which a step sees as `null`.
    #[must_use]
    pub fn config(mut self, config: impl Into<Value>) -> Run {
        self.config = config.into();
        self
    }

    /// The project's name. Default: `test`.
    #[must_use]
    pub fn project(mut self, project: &str) -> Run {
        self.context.project = project.to_owned();
        self
    }

    /// The step's place in the pipeline, and with it its name. Default: the first install step.
    #[must_use]
    pub fn phase(mut self, phase: Phase) -> Run {
        self.context.phase = phase;
        self.context.step = match phase {
            Phase::Install => "install-1".to_owned(),
            Phase::Extract | Phase::Load => phase.as_str().to_owned(),
        };
        self
    }

    /// The step's private directory. Default: the system's temporary one.
    #[must_use]
    pub fn scratch(mut self, scratch: impl AsRef<Path>) -> Run {
        self.scratch = Some(scratch.as_ref().to_owned());
        self
    }

    /// Grants a secret. Default: none.
    #[must_use]
    pub fn secret(mut self, name: &str, value: impl Into<Vec<u8>>) -> Run {
        self.secrets.insert(name.to_owned(), value.into());
        self
    }

    /// Runs `step` with this crate's calls answered from here, and returns what it reported.
    pub fn enter<T>(&self, step: impl FnOnce() -> T) -> Report<T> {
        host::within(self, step)
    }
}

/// One report of progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// How much is done.
    pub done: u64,
    /// Of how much, when that is known.
    pub total: Option<u64>,
    /// Of what.
    pub label: String,
}

/// What a step reported, and what it returned.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report<T> {
    /// What the step's function returned.
    pub result: T,
    /// Its progress, oldest first.
    pub progress: Vec<Progress>,
    /// Its warnings, oldest first.
    pub warnings: Vec<String>,
    /// Its typed outputs, oldest first.
    pub outputs: Vec<(String, Value)>,
    /// The files that it marked as executable.
    pub executables: Vec<PathBuf>,
}

impl<T> Report<T> {
    pub(crate) fn of(result: T) -> Report<T> {
        Report {
            result,
            progress: Vec::new(),
            warnings: Vec::new(),
            outputs: Vec::new(),
            executables: Vec::new(),
        }
    }

    /// The same report of another result: `report.map(Result::unwrap)`.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Report<U> {
        Report {
            result: change(self.result),
            progress: self.progress,
            warnings: self.warnings,
            outputs: self.outputs,
            executables: self.executables,
        }
    }

    /// The first output of that name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&Value> {
        self.outputs
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }
}
