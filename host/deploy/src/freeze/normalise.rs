//! Making a tree's files uniform, through their descriptors.

use std::{
    fs::File,
    io::{self, Seek},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, RawMode, Stat, fchmod, flistxattr, flistxattr_query, fremovexattr,
        fstat, openat, renameat, unlinkat,
    },
    io::Errno,
};

use super::{FreezeError, shown};

/// Bytes that giving every name a file of its own may take. A link costs a guest nothing, so without a
/// bound a few names of one large file would fill the disk.
const COPIED_BYTES: u64 = 1 << 30;

const DIRECTORY_MODE: RawMode = 0o755;
const FILE_MODE: RawMode = 0o644;
const EXECUTABLE_MODE: RawMode = 0o755;

/// Whether a file's owner may execute it.
pub(super) fn is_executable(stat: &Stat) -> bool {
    stat.st_mode & 0o100 != 0
}

#[derive(Debug, Default)]
pub(super) struct Normaliser {
    copied: u64,
}

impl Normaliser {
    pub(super) fn directory(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &str,
    ) -> Result<(), FreezeError> {
        let stat = fstat(directory).map_err(FreezeError::inside("look at", path))?;
        uniform(directory, path, &stat, DIRECTORY_MODE)
    }

    /// Answers the file to read: another one, if this had several names.
    pub(super) fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &str,
        path: &str,
        mut file: File,
        stat: &Stat,
    ) -> Result<File, FreezeError> {
        let mode = if is_executable(stat) {
            EXECUTABLE_MODE
        } else {
            FILE_MODE
        };
        if stat.st_nlink > 1 {
            self.copied += u64::try_from(stat.st_size).unwrap_or(u64::MAX);
            if self.copied > COPIED_BYTES {
                return Err(FreezeError::TooMuchShared {
                    path: shown(path),
                    limit: COPIED_BYTES,
                });
            }
            file = fresh_inode(directory, name, &mut file)
                .map_err(FreezeError::inside("copy", path))?;
            let stat = fstat(&file).map_err(FreezeError::inside("look at", path))?;
            uniform(file.as_fd(), path, &stat, mode)?;
        } else {
            uniform(file.as_fd(), path, stat, mode)?;
        }
        Ok(file)
    }
}

/// Puts a copy of the file in its name's place, so that whoever holds another name of it, or a
/// descriptor, changes something else. Answers the copy, at its beginning.
fn fresh_inode(directory: BorrowedFd<'_>, name: &str, file: &mut File) -> io::Result<File> {
    let (temporary, copy) = temporary(directory)?;
    let mut copy = File::from(copy);
    let copied = io::copy(file, &mut copy)
        .and_then(|_| copy.rewind())
        .and_then(|()| Ok(renameat(directory, &temporary, directory, name)?));
    if let Err(error) = copied {
        // The tree is discarded anyway; this only gives the room back sooner.
        let _ = unlinkat(directory, &temporary, AtFlags::empty());
        return Err(error);
    }
    Ok(copy)
}

/// A new file under a name that nobody has.
fn temporary(directory: BorrowedFd<'_>) -> io::Result<(String, rustix::fd::OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for attempt in 0_u64.. {
        let name = format!(".cofferdam-copy-{attempt}");
        match openat(directory, &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => return Ok((name, file)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EXIST.into())
}

/// Gives a file or directory its mode and takes its extended attributes away.
fn uniform(
    node: BorrowedFd<'_>,
    path: &str,
    stat: &Stat,
    mode: RawMode,
) -> Result<(), FreezeError> {
    let set_mode = || {
        fchmod(node, Mode::from_raw_mode(mode))
            .map_err(FreezeError::inside("set the mode of", path))
    };
    if stat.st_mode & 0o7777 != mode {
        set_mode()?;
    }
    let removed = remove_attributes(node).map_err(FreezeError::inside(
        "remove the extended attributes of",
        path,
    ))?;
    if removed {
        // An access list that goes leaves its mask in the mode.
        set_mode()?;
    }
    Ok(())
}

/// Removes extended attributes, but for the labels that the system itself gives every file; answers
/// whether there were any.
fn remove_attributes(node: BorrowedFd<'_>) -> io::Result<bool> {
    let length = match flistxattr_query(node) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(false),
        Ok(length) => length,
        Err(error) => return Err(error.into()),
    };
    let mut names = vec![0; length];
    let length = flistxattr(node, &mut names[..])?;
    let mut removed = false;
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() || is_systems_own(name) {
            continue;
        }
        match fremovexattr(node, name) {
            Ok(()) => removed = true,
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

/// Labels of security modules: every file has one, and nobody may remove it. A capability is no label.
fn is_systems_own(name: &[u8]) -> bool {
    name.starts_with(b"security.") && name != b"security.capability"
}
