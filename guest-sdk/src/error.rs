//! What can go wrong in a call of this crate.

use std::path::PathBuf;

/// Why a call to the host failed. Each message stands on its own as a step's last line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The step's configuration does not have the shape that the plugin asked for.
    #[error("config{at}: {message}")]
    Config {
        /// Where in the configuration, as `.services[0].kind`; empty for the whole of it.
        at: String,
        /// What is wrong there.
        message: String,
    },
    /// A typed output could not be turned into JSON.
    #[error("output {name:?} cannot be written as JSON: {source}")]
    OutputNotJson {
        /// The output's name.
        name: String,
        /// What the serialiser said.
        source: serde_json::Error,
    },
    /// The host did not take a typed output.
    #[error("output {name:?} was not accepted: {message}")]
    OutputRefused {
        /// The output's name.
        name: String,
        /// The host's own words.
        message: String,
    },
    /// The executable bit could not be read or set.
    #[error("{}: {message}", path.display())]
    Executable {
        /// The file in question.
        path: PathBuf,
        /// The host's own words.
        message: String,
    },
    /// The step was not granted this secret.
    #[error("secret {name:?} was not granted to this step; name it in the step's request.secrets")]
    SecretNotGranted {
        /// The secret's name.
        name: String,
    },
    /// The secret was granted, and the host could not read it.
    #[error("secret {name:?} could not be read: {message}")]
    SecretUnavailable {
        /// The secret's name.
        name: String,
        /// The host's own words.
        message: String,
    },
}
