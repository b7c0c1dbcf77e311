//! A fixture's directory, and how its step is run.
//!
//! ```text
//! tests/fixtures/NAME/
//!   release/                the tree that the step finds; without it, an empty one
//!   step.toml               how the step is run; every key is optional
//!   config.json             the step's config, when step.toml has none
//!   stdin                   what an extract step reads
//!   expected/               the tree that the step leaves when it succeeds
//!   expected.events.jsonl   what it says, and how it ends
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_sandbox::{Limits, Phase, StepContext, StepSpec};
use serde::Deserialize;
use serde_json::Value;

use crate::exit::{Failure, plain};
use crate::manifest::request;

/// The deployment that every fixture belongs to.
const DEPLOYMENT: &str = "00000000-0000-7000-8000-000000000000";

/// The project, unless the fixture says another.
const PROJECT: &str = "test";

/// One fixture.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) name: String,
    directory: PathBuf,
    step: StepFile,
    config: Value,
}

/// `step.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepFile {
    phase: Option<Phase>,
    project: Option<String>,
    config: Option<Value>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    limits: Option<request::Limits>,
    reproducible: Option<bool>,
}

impl Fixture {
    /// The fixtures in a directory, all of them or the `chosen` ones, in the order of their names.
    pub(super) fn all(directory: &Path, chosen: &[String]) -> Result<Vec<Fixture>, Failure> {
        let mut names = names(directory)?;
        for wanted in chosen {
            if !names.contains(wanted) {
                return Err(Failure::Usage(format!(
                    "there is no fixture {wanted:?} in {}; there are: {}",
                    directory.display(),
                    names.join(", ")
                )));
            }
        }
        names.retain(|name| chosen.is_empty() || chosen.contains(name));
        if names.is_empty() {
            return Err(Failure::Usage(format!(
                "there is no fixture in {}: make a directory there for each case, with the tree that the step finds \
                 in release/",
                directory.display()
            )));
        }
        names
            .into_iter()
            .map(|name| Fixture::read(directory.join(&name), name))
            .collect()
    }

    fn read(directory: PathBuf, name: String) -> Result<Fixture, Failure> {
        let step = directory.join("step.toml");
        let mut file: StepFile = match text(&step)? {
            Some(text) => toml::from_str(&text).map_err(|error| invalid(&step, &error))?,
            None => StepFile::default(),
        };
        let path = directory.join("config.json");
        let config = match (file.config.take(), text(&path)?) {
            (Some(_), Some(_)) => {
                return Err(Failure::refused(format!(
                    "the fixture {name} has a config in step.toml and a config.json: keep one of the two"
                )));
            }
            (Some(config), None) => config,
            (None, Some(text)) => {
                serde_json::from_str(&text).map_err(|error| invalid(&path, &error))?
            }
            (None, None) => Value::Null,
        };
        Ok(Fixture {
            name,
            directory,
            step: file,
            config,
        })
    }

    pub(super) fn phase(&self) -> Phase {
        self.step.phase.unwrap_or(Phase::Install)
    }

    pub(super) fn config(&self) -> &Value {
        &self.config
    }

    /// Everything about the run that is plain data.
    pub(super) fn spec(&self) -> Result<StepSpec, Failure> {
        let phase = self.phase();
        let step = match phase {
            Phase::Install => "install-1".to_owned(),
            Phase::Extract | Phase::Load => phase.as_str().to_owned(),
        };
        let mut spec = StepSpec::new(StepContext {
            deployment: DEPLOYMENT.to_owned(),
            project: self
                .step
                .project
                .clone()
                .unwrap_or_else(|| PROJECT.to_owned()),
            step,
            phase,
            config: self.config.clone(),
        });
        // What is recorded on one machine has to come out on another.
        spec.reproducible = self.step.reproducible.unwrap_or(true);
        spec.env.clone_from(&self.step.env);
        for (name, value) in &self.step.secrets {
            spec.secrets.insert(name, value.as_bytes());
        }
        if let Some(limits) = &self.step.limits {
            spec.limits = limits
                .to_json()
                .and_then(|limits| {
                    serde_json::from_value::<Limits>(limits).map_err(|error| error.to_string())
                })
                .map_err(|message| invalid(&self.directory.join("step.toml"), &message))?;
        }
        Ok(spec)
    }

    /// The tree that the step finds.
    pub(super) fn release(&self) -> PathBuf {
        self.directory.join("release")
    }

    /// What an extract step reads.
    pub(super) fn stdin(&self) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.directory.join("stdin");
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    /// The tree that the step leaves.
    pub(super) fn expected(&self) -> PathBuf {
        self.directory.join("expected")
    }

    /// What the step says.
    pub(super) fn expected_events(&self) -> PathBuf {
        self.directory.join("expected.events.jsonl")
    }
}

/// The names of a directory's directories, sorted.
fn names(directory: &Path) -> Result<Vec<String>, Failure> {
    let entries = fs::read_dir(directory).map_err(|error| {
        Failure::Usage(format!(
            "cannot read the fixtures in {}: {}; --fixtures DIR names another place",
            directory.display(),
            plain(&error)
        ))
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(directory, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A file's text; `None` when there is none.
pub(super) fn text(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot read {}: {}", path.display(), plain(error));
    Failure::Machine(anyhow::Error::msg(message))
}

pub(super) fn invalid(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::refused(format!("{} cannot be used: {error}", path.display()))
}
