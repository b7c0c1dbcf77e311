//! What services keep, copied while they may be writing it.
//!
//! A guest can put a link in the place of any name below its own directory between two looks, so nothing is opened by
//! a path there: from directory to directory by descriptor, and never through a link.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

use super::archive::{Archive, entries};
use crate::error::Error;

/// Directories within each other, as in a release: each holds a descriptor and a stack frame.
const DEPTH: usize = 128;

/// How often a file is copied again that was written meanwhile. A file that is never left alone is taken as the last
/// copy found it.
const COPIES: usize = 5;

/// Never through a link, never waiting for the other end of a pipe.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Adds the directories of all services. What goes away meanwhile is left out, as it would be a moment later; what
/// cannot be in an archive is skipped and counted, so that no guest decides whether there is a backup. Files are
/// copied to `copy` first, so that one that shrinks meanwhile is still one file. Blocks.
pub(super) fn keep(archive: &mut Archive<'_>, state: &Path, copy: &Path) -> Result<(), Error> {
    for project in entries(state)? {
        let name = Path::new("state").join(project.file_name().unwrap_or_default());
        let Some(directory) = there(open(CWD, &project, OFlags::DIRECTORY), &project)? else {
            continue;
        };
        // The host makes these; what is below a service's directory is the guest's.
        Keeping { archive, copy }.directory(&directory, &name, 0)?;
    }
    Ok(())
}

/// Nothing where something went away, or something else has its name now.
fn there<T>(found: Result<T, Errno>, path: &Path) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()))(error.into())),
    }
}

fn open(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    more: OFlags,
) -> Result<OwnedFd, Errno> {
    openat(directory, name, READ | more, Mode::empty())
}

struct Keeping<'a, 'b> {
    archive: &'a mut Archive<'b>,
    copy: &'a Path,
}

impl Keeping<'_, '_> {
    fn directory(&mut self, directory: &OwnedFd, name: &Path, depth: usize) -> Result<(), Error> {
        if depth > DEPTH || name.to_str().is_none() {
            self.archive.skip();
            return Ok(());
        }
        let failed = |error: Errno| Error::io(format!("read {}", name.display()))(error.into());
        let stat = rustix::fs::fstat(directory).map_err(failed)?;
        self.archive.directory(name, stat.st_mode)?;
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        for child in names {
            let name = name.join(OsStr::from_bytes(child.to_bytes()));
            self.entry(directory, &child, &name, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: &OwnedFd,
        child: &CStr,
        name: &Path,
        depth: usize,
    ) -> Result<(), Error> {
        let at = directory.as_fd();
        let stat = statat(at, child, AtFlags::SYMLINK_NOFOLLOW);
        let Some(stat) = there(stat, name)? else {
            return Ok(());
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                if let Some(opened) = there(open(at, child, OFlags::DIRECTORY), name)? {
                    self.directory(&opened, name, depth + 1)?;
                }
            }
            FileType::Symlink => {
                if let Some(target) = there(readlinkat(at, child, Vec::new()), name)? {
                    let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
                    // No guest makes one that begins at the root, and no restoring follows suit.
                    let is_plain = target.is_relative() && target.to_str().is_some();
                    if name.to_str().is_none() || !is_plain {
                        self.archive.skip();
                    } else {
                        self.archive.link(name, &target)?;
                    }
                }
            }
            FileType::RegularFile => {
                if let Some(opened) = there(open(at, child, OFlags::empty()), name)? {
                    self.file(File::from(opened), name)?;
                }
            }
            // No guest can make one.
            _ => self.archive.skip(),
        }
        Ok(())
    }

    fn file(&mut self, mut file: File, name: &Path) -> Result<(), Error> {
        let failed = || Error::io(format!("copy {}", name.display()));
        if name.to_str().is_none() {
            self.archive.skip();
            return Ok(());
        }
        let mut before = file.metadata().map_err(failed())?;
        if !before.is_file() {
            return Ok(());
        }
        for _ in 0..COPIES {
            let mut copy = File::create(self.copy).map_err(failed())?;
            file.rewind().map_err(failed())?;
            io::copy(&mut file, &mut copy).map_err(failed())?;
            let after = file.metadata().map_err(failed())?;
            let looks = [&before, &after].map(|look| {
                let (written, changed) = (look.mtime_nsec(), look.ctime_nsec());
                (look.len(), look.mtime(), written, look.ctime(), changed)
            });
            if looks[0] == looks[1] {
                break;
            }
            before = after;
        }
        let copied = File::open(self.copy).map_err(failed())?;
        let bytes = copied.metadata().map_err(failed())?.len();
        self.archive
            .beginning(copied, bytes, before.mode(), name, failed())?;
        fs::remove_file(self.copy).map_err(failed())
    }
}
