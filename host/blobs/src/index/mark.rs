//! The mark of a store whose index has named packs.
//!
//! An index that names no pack, over packs, is that of a store whose first upload died before it was recorded; or it is
//! not the index of this store, but an empty one, or a copy of it from before the first upload. Nothing in the index can
//! tell the one from the other, so a file beside it does: it is made when the first pack is recorded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::Index;
use crate::Error;
use crate::disk::Disk;

/// The mark's file name.
const MARK: &str = "packs.known";

/// For whoever wonders what it is.
const WORDS: &[u8] =
    b"The index beside this file names packs. One that names none is not opened over them.\n";

/// The mark of the store in this directory.
pub(crate) fn mark(directory: &Path) -> PathBuf {
    directory.join(MARK)
}

/// Marks the store in this directory, if it is not. Blocks.
pub(crate) fn make_mark(disk: &dyn Disk, directory: &Path) -> Result<(), Error> {
    let path = mark(directory);
    if path.exists() {
        return Ok(());
    }
    let failed = |source| Error::io("marking the store with", &path, source);
    match disk.create(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => {
            // That it is there says all.
            disk.append(&created.map_err(failed)?, WORDS)
                .map_err(failed)?;
        }
    }
    disk.sync_directory(directory).map_err(failed)
}

impl Index {
    /// Marks the store, because this index names a pack. What was recorded does not fail by it: the next pack, or the
    /// next opening, makes the mark.
    pub(super) fn mark(&self) {
        if self.marked.load(Ordering::Relaxed) {
            return;
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        match make_mark(self.disk.as_ref(), directory) {
            Ok(()) => self.marked.store(true, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "the store cannot be marked as one in use"),
        }
    }
}
