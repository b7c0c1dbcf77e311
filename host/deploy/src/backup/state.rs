//! What services keep, copied while they may be writing it.
//!
//! A guest can put a link in the place of any name below its own directory between two looks, so nothing is opened by
//! a path there: from directory to directory by descriptor, and never through a link.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::archive::{Archive, entries};
use crate::error::Error;
use crate::freeze::{DEPTH, READ, children};

/// How often a file is copied again that was written meanwhile. A file that is never left alone is taken as the last
/// copy found it.
const COPIES: usize = 5;

/// Adds the directories of all services. What goes away meanwhile is left out, as it would be a moment later; what
/// cannot be in an archive is skipped and counted, so that no guest decides whether there is a backup. Files are
/// copied to `copy` first, so that one that shrinks meanwhile is still one file. Blocks.
pub(super) fn keep(archive: &mut Archive<'_>, state: &Path, copy: &Path) -> Result<(), Error> {
    for project in entries(state)? {
        let name = Path::new("state").join(project.file_name().unwrap_or_default());
        if name.to_str().is_none() {
            archive.skip();
            continue;
        }
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
        if depth > DEPTH {
            self.archive.skip();
            return Ok(());
        }
        let failed = |error: Errno| Error::io(format!("read {}", name.display()))(error.into());
        let stat = fstat(directory).map_err(failed)?;
        self.archive.directory(name, stat.st_mode)?;
        let mut children = children(directory.as_fd()).map_err(failed)?;
        children.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        for (child, kind) in children {
            let name = name.join(OsStr::from_bytes(&child));
            self.entry(directory.as_fd(), &child, kind, &name, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: BorrowedFd<'_>,
        child: &[u8],
        kind: FileType,
        name: &Path,
        depth: usize,
    ) -> Result<(), Error> {
        if name.to_str().is_none() {
            self.archive.skip();
            return Ok(());
        }
        match kind {
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
                    if is_plain {
                        self.archive.link(name, &target)?;
                    } else {
                        self.archive.skip();
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
        let mut before = file.metadata().map_err(failed())?;
        // Something else has the name now.
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
