//! Who this run is for, and what it was configured to do.

use serde::de::DeserializeOwned;

use crate::{Error, host};

/// The place of a step in its pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The package's bytes become a directory.
    Extract,
    /// Something happens to that directory.
    Install,
    /// The directory, now read-only, is described as services.
    Load,
}

impl Phase {
    /// The phase in the words of the pipeline: `extract`, `install` or `load`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Extract => "extract",
            Phase::Install => "install",
            Phase::Load => "load",
        }
    }

    /// The phase of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Phase> {
        [Phase::Extract, Phase::Install, Phase::Load]
            .into_iter()
            .find(|phase| phase.as_str() == name)
    }
}

/// The identity of this run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The deployment, a `UUIDv7` in its usual text form.
    pub deployment: String,
    /// The project being deployed.
    pub project: String,
    /// The step's name, unique within the deployment: `extract`, `install-1`, `load`.
    pub step: String,
    /// The step's place in the pipeline.
    pub phase: Phase,
}

impl Context {
    pub(crate) fn new(deployment: String, project: String, step: String, phase: Phase) -> Context {
        Context {
            deployment,
            project,
            step,
            phase,
        }
    }
}

/// Who this run is for.
#[must_use]
pub fn context() -> Context {
    host::context()
}

/// The step's own configuration, as the type that the plugin wants.
///
/// A step without configuration gets what an empty object gives, so a type whose fields all have defaults
/// (`#[serde(default)]`) needs no configuration at all. A type like `Option<T>` sees the absence itself.
///
/// # Errors
///
/// [`Error::Config`] when the configuration does not fit, naming the place and what is wrong there.
pub fn config<T: DeserializeOwned>() -> Result<T, Error> {
    parse(&host::config())
}

/// Reads the JSON text of a configuration. An absent one is tried as `null` and then as `{}`; what the
/// second attempt says is what a person can act on.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    if matches!(text.trim(), "" | "null") {
        return typed("null").or_else(|_| typed("{}"));
    }
    typed(text)
}

fn typed<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let at = match error.path().to_string().as_str() {
            "." => String::new(),
            path if path.starts_with('[') => path.to_owned(),
            path => format!(".{path}"),
        };
        Error::Config {
            at,
            message: without_position(&error.into_inner().to_string()).to_owned(),
        }
    })
}

/// Cuts serde's `at line 1 column 9` off: the text that it counts in is not one that the user wrote.
fn without_position(message: &str) -> &str {
    match message.rfind(" at line ") {
        Some(at) => &message[..at],
        None => message,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde::Deserialize;

    use super::parse;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        strip: u8,
        names: Vec<String>,
    }

    #[test]
    fn no_configuration_is_the_type_with_its_defaults() {
        assert_eq!(parse::<Config>("null").unwrap(), Config::default());
        assert_eq!(parse::<Option<Config>>("null").unwrap(), None);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place_and_without_a_column() {
        let error = parse::<Config>(r#"{"names": ["a", 7]}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "config.names[1]: invalid type: integer `7`, expected a string"
        );
        let error = parse::<Config>(r#"{"stripe": 1}"#).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("config.stripe: unknown field `stripe`, expected"),
            "{error}"
        );
        let error = parse::<Vec<u8>>("[7, true]").unwrap_err();
        assert!(error.to_string().starts_with("config[1]: "), "{error}");
        let error = parse::<Config>("7").unwrap_err();
        assert!(
            error.to_string().starts_with("config: invalid type"),
            "{error}"
        );
    }
}
