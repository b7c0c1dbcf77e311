//! Removing trees that a guest made, whatever their shape.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, chmodat, open, openat, renameat, statat, unlinkat},
    io::Errno,
};
use uuid::Uuid;

use super::FreezeError;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Puts a tree out of sight at once: it is renamed into the trash, which is created if it is missing and
/// must be on the same file system. What does not exist is discarded already.
///
/// # Errors
///
/// When it cannot be renamed.
pub fn discard(path: &Path, trash: &Path) -> Result<(), FreezeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(trash);
    made.map_err(FreezeError::outside("create", trash))?;
    match fs::rename(path, trash.join(Uuid::now_v7().to_string())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FreezeError::outside("discard", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes everything in the trash. Blocks; several may do it at once.
///
/// A tree of any depth is removed with two descriptors and no recursion: directories inside a directory
/// are first moved up into the trash itself.
///
/// # Errors
///
/// The first thing that cannot be removed, after everything else was.
pub fn empty_trash(trash: &Path) -> Result<(), FreezeError> {
    let directory = match open(trash, DIRECTORY, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(FreezeError::outside("open", trash)(error)),
    };
    // What cannot be removed is left where it is and is not tried again.
    let mut stuck: Vec<Vec<u8>> = Vec::new();
    let mut first = None;
    loop {
        let entries = children(directory.as_fd()).map_err(FreezeError::outside("read", trash))?;
        let mut progress = false;
        for (name, kind) in entries {
            if stuck.contains(&name) {
                continue;
            }
            match remove(directory.as_fd(), directory.as_fd(), &name, kind) {
                Ok(()) => progress = true,
                Err(error) => {
                    first.get_or_insert(error);
                    stuck.push(name);
                }
            }
        }
        // A round moves up what lay deeper; the round that finds nothing is the last.
        if !progress {
            break;
        }
    }
    match first {
        None => Ok(()),
        Some(error) => Err(FreezeError::outside("empty", trash)(error)),
    }
}

/// Removes a name from a directory; directories in it are moved to the trash if they are not empty.
fn remove(
    trash: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
    kind: FileType,
) -> rustix::io::Result<()> {
    if kind != FileType::Directory {
        return gone(unlinkat(directory, name, AtFlags::empty()));
    }
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        other => return gone(other),
    }
    let Some(opened) = enter(directory, name)? else {
        return Ok(());
    };
    for (child, kind) in children(opened.as_fd())? {
        if kind != FileType::Directory {
            gone(unlinkat(&opened, &*child, AtFlags::empty()))?;
            continue;
        }
        match unlinkat(&opened, &*child, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let aside = Uuid::now_v7().to_string();
                gone(renameat(&opened, &*child, trash, aside))?;
            }
            other => gone(other)?,
        }
    }
    gone(unlinkat(directory, name, AtFlags::REMOVEDIR))
}

/// Opens a directory, though its mode forbids it; nothing, if it is gone.
fn enter(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    let opened = match openat(directory, name, DIRECTORY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
            openat(directory, name, DIRECTORY, Mode::empty())
        }
        opened => opened,
    };
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is in a directory, in any order, with what the directory says it is.
pub(crate) fn children(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut children = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            },
            known => known,
        };
        children.push((name.to_vec(), kind));
    }
    Ok(children)
}

/// What somebody else removed meanwhile is removed.
fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
