//! The executable bit, which WASI cannot say.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::filesystem::Files;
use crate::spec::Access;

/// Mode of a file that is not executable.
const PLAIN: u32 = 0o644;

/// Mode of an executable file.
const EXECUTABLE: u32 = 0o755;

/// Marks a regular file as executable or not.
pub(super) fn set(files: &Files, path: &str, executable: bool) -> Result<(), String> {
    let (file, access) = open(files, path)?;
    if access != Access::ReadWrite {
        return Err(format!(
            "{path} is in a directory that this step may only read"
        ));
    }
    let mode = Mode::from_raw_mode(if executable { EXECUTABLE } else { PLAIN });
    rustix::fs::fchmod(&file, mode)
        .map_err(|error| format!("cannot change the mode of {path}: {error}"))
}

/// Whether a regular file is executable by its owner.
pub(super) fn get(files: &Files, path: &str) -> Result<bool, String> {
    let (file, _) = open(files, path)?;
    let stat =
        rustix::fs::fstat(&file).map_err(|error| format!("cannot look at {path}: {error}"))?;
    Ok(Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR))
}

/// Opens a regular file below one of the guest's directories, one name at a time and through no link, so that
/// nothing the guest put there leads elsewhere.
fn open(files: &Files, path: &str) -> Result<(OwnedFd, Access), String> {
    let (preopen, rest) = files
        .resolve(path)
        .ok_or_else(|| format!("{path} is in none of this step's directories"))?;
    let access = preopen.access;
    let mut names = Vec::new();
    for name in rest.split('/') {
        match name {
            "" | "." => {}
            ".." => return Err(format!("{path} contains `..`; name the file directly")),
            name => names.push(name),
        }
    }
    let Some((last, parents)) = names.split_last() else {
        return Err(format!(
            "{path} is a directory; only a regular file is executable or not"
        ));
    };
    let root: &File = &preopen.directory.dir;
    let mut directory: Option<OwnedFd> = None;
    for name in parents {
        let at = directory.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        directory =
            Some(open_at(at, name, OFlags::DIRECTORY).map_err(|error| refusal(path, error))?);
    }
    let at = directory.as_ref().map_or(root.as_fd(), AsFd::as_fd);
    let file = open_at(at, last, OFlags::NONBLOCK).map_err(|error| refusal(path, error))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| refusal(path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(format!("{path} is not a regular file"));
    }
    Ok((file, access))
}

fn open_at(at: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        at,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags,
        Mode::empty(),
    )
}

fn refusal(path: &str, error: Errno) -> String {
    match error {
        Errno::NOENT => format!("there is no file {path}"),
        Errno::LOOP | Errno::NOTDIR => {
            format!("{path} leads through a link or a file; name the file itself")
        }
        error => format!("cannot open {path}: {error}"),
    }
}
