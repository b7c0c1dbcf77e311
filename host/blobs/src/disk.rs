//! The file system's edge: every change the store makes to its directory goes through here, so that a test
//! can make the n-th of them fail.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What the store does to a disk. (Reads do not change it and go to the file itself.)
pub(crate) trait Disk: Debug + Send + Sync {
    /// Makes a new file for writing and reading; it must not exist.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Writes all of `bytes` at the file's end.
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's bytes and length durable.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives a file its final name, in the same directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The disk itself.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
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
}
