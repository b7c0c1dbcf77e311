//! `cofferdam.toml`: how a package describes its own deployment, and the head it becomes.
//!
//! ```toml
//! project = "hello"            # every key is optional
//! strategy = "blue-green"
//! message = "what changed"
//! auto_revert = true           # go back when a service fails soon after it was activated
//! reproducible = false
//!
//! [extract]                    # plugin (default unpack), config, request
//! config = { strip = 1 }
//!
//! [[install]]                  # in order, any number of them
//! plugin = "precompress"
//! config = { min_bytes = 512 }
//! request = { limits = { wall = "60s", memory = "256MiB" } }
//!
//! [load]                       # plugin (default serve), config, request
//! config = { root = "public" }
//!
//! [service]                    # short for [load] config = { root = "public" }
//! root = "public"
//!
//! [plugins]                    # local components that `cofferdam up` admits first
//! "fill@0.1.0" = "../target/wasm32-wasip2/release/fill.wasm"
//! ```
//!
//! A key that is not known is refused with its line: a typing error must not become a default.

pub(crate) mod request;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::plugin::PluginFile;
use crate::project::Project;
use request::Request;

/// Longest file that is read as a manifest: past it, it is something else.
const LONGEST: u64 = 1024 * 1024;

/// A manifest, read and checked.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    pub(crate) project: Option<Project>,
    pub(crate) plugins: Vec<PluginFile>,
    head: Map<String, Value>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} cannot be used:\n{message}", path = path.display())]
    Invalid { path: PathBuf, message: String },
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    project: Option<toml::Spanned<String>>,
    strategy: Option<Strategy>,
    message: Option<String>,
    auto_revert: Option<bool>,
    reproducible: Option<bool>,
    extract: Option<Step>,
    #[serde(default)]
    install: Vec<Install>,
    load: Option<Step>,
    service: Option<Service>,
    #[serde(default)]
    plugins: BTreeMap<toml::Spanned<String>, PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Strategy {
    BlueGreen,
    Recreate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    plugin: Option<String>,
    config: Option<toml::Value>,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Install {
    plugin: String,
    config: Option<toml::Value>,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    root: String,
}

impl Manifest {
    /// Reads the manifest at the top of the package directory `root`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] shows the line and what is wrong with it.
    pub(crate) fn of(root: &Path) -> Result<Manifest, Error> {
        let path = root.join(crate::pack::MANIFEST);
        match Manifest::read(&path) {
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Manifest::default())
            }
            other => other,
        }
    }

    /// Reads the manifest at `path`.
    ///
    /// # Errors
    ///
    /// As for [`Manifest::of`]; a missing file is [`Error::Read`].
    pub(crate) fn read(path: &Path) -> Result<Manifest, Error> {
        let unreadable = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let bytes = fs::metadata(path).map_err(unreadable)?.len();
        let invalid = |message| Error::Invalid {
            path: path.to_owned(),
            message,
        };
        if bytes > LONGEST {
            return Err(invalid(format!(
                "it is {bytes} bytes long, and {LONGEST} are read"
            )));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let beside = path.parent().unwrap_or(Path::new("."));
        Manifest::parse(&text, beside).map_err(invalid)
    }

    /// Reads a manifest's text; paths in it are relative to `beside`.
    fn parse(text: &str, beside: &Path) -> Result<Manifest, String> {
        let file: File =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let at = |span: std::ops::Range<usize>, what: &dyn std::fmt::Display| {
            let line = 1 + text[..span.start].matches('\n').count();
            format!("line {line}: {what}")
        };

        let mut head = Map::new();
        if let Some(strategy) = file.strategy {
            let name = match strategy {
                Strategy::BlueGreen => "blue-green",
                Strategy::Recreate => "recreate",
            };
            head.insert("strategy".to_owned(), json!(name));
        }
        if let Some(message) = file.message {
            head.insert("message".to_owned(), json!(message));
        }
        if let Some(auto_revert) = file.auto_revert {
            head.insert("auto_revert".to_owned(), json!(auto_revert));
        }
        if let Some(reproducible) = file.reproducible {
            head.insert("reproducible".to_owned(), json!(reproducible));
        }

        let mut pipeline = Map::new();
        if let Some(step) = file.extract {
            let step = step_json(
                "extract",
                step.plugin.as_deref().unwrap_or("unpack"),
                step.config,
                step.request,
            )?;
            pipeline.insert("extract".to_owned(), step);
        }
        if !file.install.is_empty() {
            let steps: Result<Vec<Value>, String> = file
                .install
                .into_iter()
                .map(|step| step_json("install", &step.plugin, step.config, step.request))
                .collect();
            pipeline.insert("install".to_owned(), Value::Array(steps?));
        }
        if let Some(step) = load(file.load, file.service)? {
            pipeline.insert("load".to_owned(), step);
        }
        if !pipeline.is_empty() {
            head.insert("pipeline".to_owned(), Value::Object(pipeline));
        }

        let project = file
            .project
            .map(|name| {
                name.get_ref()
                    .parse()
                    .map_err(|why: String| at(name.span(), &why))
            })
            .transpose()?;
        let plugins = file
            .plugins
            .into_iter()
            .map(|(key, path)| {
                let plugin = PluginFile::new(key.get_ref(), beside.join(path));
                plugin.map_err(|why| at(key.span(), &why))
            })
            .collect::<Result<_, String>>()?;
        Ok(Manifest {
            project,
            plugins,
            head,
        })
    }

    /// The head that goes with the package. A message given on the command line wins.
    pub(crate) fn head(&self, message: Option<&str>) -> Value {
        let mut head = self.head.clone();
        if let Some(message) = message {
            head.insert("message".to_owned(), json!(message));
        }
        Value::Object(head)
    }
}

fn load(load: Option<Step>, service: Option<Service>) -> Result<Option<Value>, String> {
    let Some(service) = service else {
        return load
            .map(|step| {
                let plugin = step.plugin.as_deref().unwrap_or("serve");
                step_json("load", plugin, step.config, step.request)
            })
            .transpose();
    };
    let mut step = load.unwrap_or(Step {
        plugin: None,
        config: None,
        request: None,
    });
    if step.config.is_some() {
        return Err(
            "[service] is short for the config of [load], which has one already: keep one of the two"
                .to_owned(),
        );
    }
    let root = toml::Table::from_iter([("root".to_owned(), toml::Value::String(service.root))]);
    step.config = Some(toml::Value::Table(root));
    let plugin = step.plugin.as_deref().unwrap_or("serve");
    step_json("load", plugin, step.config, step.request).map(Some)
}

fn step_json(
    name: &str,
    plugin: &str,
    config: Option<toml::Value>,
    request: Option<Request>,
) -> Result<Value, String> {
    let mut step = Map::new();
    step.insert("plugin".to_owned(), json!(plugin));
    if let Some(config) = config {
        let config = to_json(config).map_err(|why| format!("the config of [{name}]: {why}"))?;
        step.insert("config".to_owned(), config);
    }
    if let Some(request) = request {
        let request = request
            .into_json()
            .map_err(|why| format!("the request of [{name}]: {why}"))?;
        step.insert("request".to_owned(), request);
    }
    Ok(Value::Object(step))
}

/// TOML as JSON; a date becomes its text.
fn to_json(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => json!(number),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| format!("{number} is no number that JSON can hold"))?,
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(values) => {
            Value::Array(values.into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => Value::Object(
            table
                .into_iter()
                .map(|(key, value)| Ok((key, to_json(value)?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

#[cfg(test)]
mod tests;
