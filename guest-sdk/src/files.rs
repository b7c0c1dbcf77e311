//! The directories of a step, and what WASI cannot say about files.

use std::path::{Path, PathBuf};

use crate::{Error, host};

/// The release's directory: `/release` in a step (where it is the current directory too), the harness's
/// directory in a native test.
#[must_use]
pub fn release() -> PathBuf {
    host::release()
}

/// The step's private, empty directory, which is gone when the step ends: `/tmp` in a step.
#[must_use]
pub fn scratch() -> PathBuf {
    host::scratch()
}

/// Marks a regular file of the release as executable or not. `path` is absolute or relative to the
/// release; links are not followed.
///
/// # Errors
///
/// [`Error::Executable`] with the host's reason: no such file, not a regular file, outside the release.
pub fn set_executable(path: impl AsRef<Path>, executable: bool) -> Result<(), Error> {
    let path = path.as_ref();
    text(path)
        .and_then(|text| host::set_executable(text, executable))
        .map_err(|message| refused(path, message))
}

/// Whether a regular file of the release is executable.
///
/// # Errors
///
/// As for [`set_executable`].
pub fn is_executable(path: impl AsRef<Path>) -> Result<bool, Error> {
    let path = path.as_ref();
    text(path)
        .and_then(host::is_executable)
        .map_err(|message| refused(path, message))
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str()
        .ok_or_else(|| "the name is not valid UTF-8".to_owned())
}

fn refused(path: &Path, message: String) -> Error {
    Error::Executable {
        path: path.to_owned(),
        message,
    }
}
