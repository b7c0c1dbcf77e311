//! What can go wrong.

use std::io;

use crate::Refused;

/// Why a package was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The package is at fault.
    #[error("the package is refused: {0}")]
    Refused(Refused),
    /// The package's bytes stopped coming.
    #[error("cannot read the package: {0}")]
    Input(#[source] io::Error),
    /// Something could not be written.
    #[error("cannot write {what}: {source}")]
    Disk {
        /// What was being written, escaped for people.
        what: String,
        /// What the host said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn disk(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Disk { what, source }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        Error::Refused(refused)
    }
}

/// Errors of the readers in front of an archive: a refusal in io's clothes, or the input itself.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.downcast::<Refused>() {
            Ok(refused) => Error::Refused(refused),
            Err(error) => Error::Input(error),
        }
    }
}
