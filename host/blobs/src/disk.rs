//! The file system's edge: everything the store does to its directory goes through here, and every commit of
//! the index passes by, so that a test can make the n-th of them fail, stop there as a kill would, or take away
//! what was not synced as a power cut would.
//!
//! The rules by which the store uses it, which the tests lean on:
//!
//! - a file is only ever appended to, and never again after it has its final name;
//! - a name is durable only after [`Disk::sync_directory`]: of a new file, of a renamed one, of a removed one;
//! - the index may name only what is durable, so every sync comes before the commit that leans on it.

#[cfg(test)]
pub(crate) mod faults;

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the store does to a disk. All of it blocks.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Makes a directory, and those above it, unless it is there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// The paths of what is in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes a new file for writing and reading; it must not exist.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Fills `bytes` from this offset on; `UnexpectedEof` if the file ends before.
    fn read_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at the file's end. When it fails, any part of them may have been written.
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's bytes and length durable. (Its name is not: see [`Disk::sync_directory`].)
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives a file another name, in the same directory; a file of that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Comes before what is asked of the index and what is changed in it, outside of any transaction; `action` says
    /// what. A test may hold the caller here, so that others go first.
    fn before_turn(&self, _action: &'static str) {}
    /// Comes before every commit of the index that is at `index`; when it fails, nothing is committed. (`SQLite`
    /// writes, and syncs, by itself.)
    fn before_commit(&self, index: &Path) -> io::Result<()>;
    /// Comes after every such commit; when it fails, the commit was made and its caller is told that it failed, as can
    /// happen to any commit.
    fn after_commit(&self) -> io::Result<()> {
        Ok(())
    }
    /// How many bytes the file system of this directory has for us.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let room = rustix::fs::statvfs(directory)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }
}

/// The disk itself.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn read_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        file.read_exact_at(bytes, offset)
    }

    fn append(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn before_commit(&self, _index: &Path) -> io::Result<()> {
        Ok(())
    }
}
