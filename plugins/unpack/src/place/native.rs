//! Files by path, for tests that run natively.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// A directory.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

pub(crate) type File = fs::File;
pub(crate) type Reading = fs::File;

impl Directory {
    pub(crate) fn root(path: &Path) -> Result<Directory, Error> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Directory(path.to_owned())),
            Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
            Err(error) => Err(error),
        }
        .map_err(Error::disk(path.display().to_string()))
    }

    pub(crate) fn open_directory(&self, name: &str) -> io::Result<Directory> {
        let path = self.0.join(name);
        if !fs::symlink_metadata(&path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Directory(path))
    }

    pub(crate) fn create_directory(&self, name: &str) -> io::Result<()> {
        fs::create_dir(self.0.join(name))
    }

    pub(crate) fn create_file(&self, name: &str) -> io::Result<File> {
        File::create_new(self.0.join(name))
    }

    pub(crate) fn create_symlink(&self, target: &str, name: &str) -> io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::symlink(target, self.0.join(name));
        #[cfg(not(unix))]
        Err(io::Error::other(format!(
            "{name} -> {target}: symbolic links need a Unix file system"
        )))
    }

    pub(crate) fn open_file(&self, name: &str) -> io::Result<Reading> {
        File::open(self.0.join(name))
    }
}
