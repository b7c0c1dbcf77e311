//! A directory that outlives those who write to it: what all of them may write together.
//!
//! What a run writes is charged and never given back, which is right for a directory that is gone after it. One that
//! stays would be full one day, whatever is removed from it. So it is measured again when it seems nearly full, at most
//! every few seconds; what others write meanwhile counts twice until the next time, and never not at all.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::quota::{Allowance, Quota};

/// Files and directories that it may hold: enough for a small application's own, and measured within a second.
const MAX_FILES: u64 = 100_000;

/// How deep its directories may lie: each is a descriptor while it is measured.
const MAX_DEPTH: usize = 64;

/// The shortest time between two measurements: each reads every directory.
const PAUSE: Duration = Duration::from_secs(5);

/// A directory, and how full it is.
#[derive(Debug)]
pub(crate) struct Shelf {
    directory: File,
    allowance: Arc<Allowance>,
    /// Those who write to it now.
    writers: Mutex<VecDeque<Weak<Quota>>>,
    measured: Mutex<Option<Instant>>,
}

/// What a directory holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Holding {
    bytes: u64,
    files: u64,
}

impl Shelf {
    /// A directory that may hold so many bytes. Nothing is known of it before it is measured.
    pub(crate) fn new(directory: File, bytes: u64) -> Self {
        Self {
            directory,
            allowance: Arc::new(Allowance::spent(bytes, MAX_FILES)),
            writers: Mutex::default(),
            measured: Mutex::default(),
        }
    }

    /// The directory, for one who writes to it.
    pub(crate) fn directory(&self) -> io::Result<File> {
        self.directory.try_clone()
    }

    /// The quota of one who writes to it: its own, within what is left of the directory's.
    pub(crate) fn quota(&self, bytes: u64, files: u64) -> Arc<Quota> {
        let quota = Arc::new(Quota::within(bytes, files, Arc::clone(&self.allowance)));
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers.retain(|writer| writer.strong_count() > 0);
        writers.push_back(Arc::downgrade(&quota));
        quota
    }

    /// Whether it is to be measured before the next one writes to it.
    pub(crate) fn is_due(&self) -> bool {
        self.allowance.is_nearly_spent()
            && self
                .measured
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_none_or(|at| at.elapsed() >= PAUSE)
    }

    /// Measures it. Blocks the thread.
    pub(crate) fn measure(&self) {
        {
            // Those who come meanwhile do not measure too.
            let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
            if measured.is_some_and(|at| at.elapsed() < PAUSE) {
                return;
            }
            *measured = Some(Instant::now());
        }
        let before = self.allowance.holding();
        let held = match measure(&self.directory) {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(%error, "a service's directory cannot be measured and takes nothing more");
                return;
            }
        };
        // What is being written may have been charged before, and done after it was looked at.
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, files) = writers.iter().filter_map(Weak::upgrade).fold(
            (held.bytes, held.files),
            |(bytes, files), writer| {
                (
                    bytes.saturating_add(writer.bytes()),
                    files.saturating_add(writer.files()),
                )
            },
        );
        drop(writers);
        self.allowance.replace(before, (bytes, files));
    }
}

/// Counts what is in a directory, following no link, whatever is done to it meanwhile.
fn measure(directory: &File) -> io::Result<Holding> {
    let mut holding = Holding::default();
    let open = |at: &OwnedFd, name: &std::ffi::CStr| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(at, name, flags, Mode::empty())
    };
    let root = open(&directory.try_clone()?.into(), c".")?;
    let mut levels = vec![(Dir::read_from(&root)?, root)];
    while let Some((entries, at)) = levels.last_mut() {
        let Some(entry) = entries.next() else {
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = match rustix::fs::statat(&*at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It was removed since it was listed.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        holding.files += 1;
        if holding.files > MAX_FILES {
            return Ok(holding);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            // A sparse file counts as what it may become.
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            holding.bytes = holding.bytes.saturating_add(bytes);
            continue;
        }
        if levels.len() >= MAX_DEPTH {
            return Err(io::Error::other(format!(
                "its directories lie deeper than {MAX_DEPTH}"
            )));
        }
        match open(&levels[levels.len() - 1].1, name) {
            Ok(inner) => levels.push((Dir::read_from(&inner)?, inner)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(holding)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs;

    use super::*;

    fn shelf(directory: &std::path::Path, bytes: u64) -> Shelf {
        Shelf::new(File::open(directory).unwrap(), bytes)
    }

    #[test]
    fn everything_in_it_counts_and_nothing_that_a_link_leads_to() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("a/b")).unwrap();
        fs::write(place.path().join("a/b/file"), [0; 100]).unwrap();
        fs::write(place.path().join("file"), [0; 20]).unwrap();
        std::os::unix::fs::symlink("/", place.path().join("a/root")).unwrap();
        let held = measure(&File::open(place.path()).unwrap()).unwrap();
        assert_eq!(held.files, 5);
        // A link is as long as its target.
        assert_eq!(held.bytes, 121);
    }

    #[test]
    fn nothing_is_written_before_it_was_measured_and_then_what_is_left() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), [0; 60]).unwrap();
        let shelf = shelf(place.path(), 100);
        assert!(shelf.is_due());
        assert!(shelf.quota(1000, 10).take_bytes(1).is_err());
        shelf.measure();
        assert!(!shelf.is_due());
        let (first, second) = (shelf.quota(1000, 10), shelf.quota(1000, 10));
        assert!(first.take_bytes(30).is_ok());
        assert!(second.take_bytes(11).is_err());
        assert!(second.take_bytes(10).is_ok());
        second.return_bytes(10);
        assert!(first.take_bytes(10).is_ok());
        // One's own quota holds too.
        assert!(shelf.quota(1000, 0).take_file().is_err());
    }

    #[test]
    fn room_that_was_made_is_found_and_what_is_being_written_is_not_forgotten() {
        let place = tempfile::tempdir().unwrap();
        let shelf = shelf(place.path(), 100);
        shelf.measure();
        let done = shelf.quota(1000, 10);
        assert!(done.take_bytes(60).is_ok());
        drop(done);
        let writer = shelf.quota(1000, 10);
        assert!(writer.take_bytes(35).is_ok());
        assert!(writer.take_bytes(10).is_err());
        // Not yet: it was measured just now.
        assert!(!shelf.is_due());
        *shelf.measured.lock().unwrap() = None;
        assert!(shelf.is_due());
        shelf.measure();
        // The 60 bytes were never written, or are gone; the 35 may still come.
        assert!(writer.take_bytes(65).is_ok());
        assert!(writer.take_bytes(1).is_err());
    }

    #[test]
    fn a_directory_that_is_too_deep_takes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let deep: std::path::PathBuf = (0..MAX_DEPTH + 1).map(|_| "d").collect();
        fs::create_dir_all(place.path().join(deep)).unwrap();
        let shelf = shelf(place.path(), 100);
        shelf.measure();
        assert!(shelf.quota(10, 10).take_bytes(1).is_err());
    }
}
