//! How a command ends: the failure a person reads, and the code a script reads.

use std::io;
use std::time::Duration;

use cofferdam_deploy::policy::PolicyError;
use serde_json::{Value, json};

use crate::{manifest, package};

/// The deployment failed, or something on this machine did.
const FAILED: u8 = 1;
/// The command line made no sense.
const USAGE: u8 = 2;
/// Refused: by authorisation, by policy, or because what was sent is not valid.
const REFUSED: u8 = 3;
/// The server could not be reached, or went away.
const UNREACHABLE: u8 = 4;
/// Interrupted from the keyboard or by a signal: 128 and SIGINT's number.
const INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The deployment ended, and not in success. The person has been shown why.
    #[error("deployment {id} {status}")]
    Deployment { id: String, status: String },
    /// A plugin's fixtures came out differently than recorded. The person has been shown how.
    #[error("{0}")]
    Fixtures(String),
    /// A store is not as it should be. The person has been shown how.
    #[error("{0}")]
    Faults(String),
    /// An argument that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The server, or this program on its behalf, says no.
    #[error("{message}")]
    Refused {
        /// The stable code, when there is one.
        code: Option<String>,
        message: String,
    },
    /// The server has enough to do for this client, and takes it later.
    #[error("{message}")]
    Busy {
        message: String,
        /// How long it asks to be left alone.
        after: Duration,
    },
    /// No answer, or none that makes sense.
    #[error("{0}")]
    Unreachable(String),
    /// Ctrl-c or SIGTERM. The message says what goes on without us.
    #[error("{0}")]
    Interrupted(String),
    /// Something on this machine went wrong.
    #[error("{0:#}")]
    Machine(#[from] anyhow::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Deployment { .. }
            | Failure::Fixtures(_)
            | Failure::Faults(_)
            | Failure::Machine(_) => FAILED,
            Failure::Usage(_) => USAGE,
            Failure::Refused { .. } | Failure::Busy { .. } => REFUSED,
            Failure::Unreachable(_) => UNREACHABLE,
            Failure::Interrupted(_) => INTERRUPTED,
        }
    }

    /// A refusal that this program makes itself.
    pub(crate) fn refused(message: impl Into<String>) -> Failure {
        Failure::Refused {
            code: None,
            message: message.into(),
        }
    }

    /// What to do about it, when something is known.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        cofferdam_deploy::hint::of(self.code()?)
    }

    /// The stable code of a refusal, when it has one.
    fn code(&self) -> Option<&str> {
        match self {
            Failure::Refused { code, .. } => code.as_deref(),
            Failure::Busy { .. } => Some("too_many_requests"),
            _ => None,
        }
    }

    /// The last line of `--json` output.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "kind": "failure",
            "exit": self.exit_code(),
            "code": self.code(),
            "message": self.to_string(),
        })
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Failure {
        match error {
            PolicyError::Read { .. } => Failure::Usage(error.to_string()),
            PolicyError::Invalid { .. } => Failure::refused(error.to_string()),
        }
    }
}

impl From<package::Error> for Failure {
    fn from(error: package::Error) -> Failure {
        match error {
            package::Error::Argument(message) => Failure::Usage(message),
            package::Error::Read { .. } => Failure::Machine(error.into()),
            package::Error::Pack(_) | package::Error::Empty(_) => {
                Failure::refused(error.to_string())
            }
        }
    }
}

impl From<manifest::Error> for Failure {
    fn from(error: manifest::Error) -> Failure {
        match error {
            manifest::Error::Read { .. } => Failure::Usage(error.to_string()),
            manifest::Error::Invalid { .. } => Failure::refused(error.to_string()),
        }
    }
}

/// An I/O error in words, without the number that the standard library adds.
pub(crate) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_the_exit_code_that_the_design_names() {
        let deployment = Failure::Deployment {
            id: String::new(),
            status: String::new(),
        };
        assert_eq!(deployment.exit_code(), 1);
        assert_eq!(Failure::Machine(anyhow::anyhow!("disk")).exit_code(), 1);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::refused("no").exit_code(), 3);
        assert_eq!(Failure::Unreachable(String::new()).exit_code(), 4);
        assert_eq!(Failure::Interrupted(String::new()).exit_code(), 130);
    }

    #[test]
    fn a_package_that_cannot_be_packed_is_refused_and_a_missing_one_is_usage() {
        let missing = package::Source::parse("/nowhere/at/all").map_err(Failure::from);
        assert_eq!(missing.map_err(|failure| failure.exit_code()), Err(2));
        let changed = package::Error::Pack(crate::pack::Error::Changed {
            path: "a".to_owned(),
            what: "grew",
        });
        assert_eq!(Failure::from(changed).exit_code(), 3);
    }
}
