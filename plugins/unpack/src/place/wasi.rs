//! Files by raw WASI descriptors. Names here are single parts of paths; links are never followed.

use std::io;
use std::path::Path;

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

use crate::Error;

/// The most bytes that go into one call: the host holds a copy of them for its duration.
const WRITE_SIZE: usize = 64 * 1024;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory(Descriptor);

impl Directory {
    /// The directory that is preopened under this path.
    pub(crate) fn root(path: &Path) -> Result<Directory, Error> {
        get_directories()
            .into_iter()
            .find(|(_, name)| Path::new(name) == path)
            .map(|(descriptor, _)| Directory(descriptor))
            .ok_or_else(|| {
                Error::disk(path.display().to_string())(io::Error::other(
                    "the step was not given this directory",
                ))
            })
    }

    pub(crate) fn open_directory(&self, name: &str) -> io::Result<Directory> {
        self.0
            .open_at(
                PathFlags::empty(),
                name,
                OpenFlags::DIRECTORY,
                DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY,
            )
            .map(Directory)
            .map_err(io_error)
    }

    pub(crate) fn create_directory(&self, name: &str) -> io::Result<()> {
        self.0.create_directory_at(name).map_err(io_error)
    }

    pub(crate) fn create_file(&self, name: &str) -> io::Result<File> {
        self.0
            .open_at(
                PathFlags::empty(),
                name,
                OpenFlags::CREATE | OpenFlags::EXCLUSIVE,
                DescriptorFlags::WRITE,
            )
            .map(|descriptor| File { descriptor, at: 0 })
            .map_err(io_error)
    }

    pub(crate) fn create_symlink(&self, target: &str, name: &str) -> io::Result<()> {
        self.0.symlink_at(target, name).map_err(io_error)
    }

    pub(crate) fn open_file(&self, name: &str) -> io::Result<Reading> {
        self.0
            .open_at(
                PathFlags::empty(),
                name,
                OpenFlags::empty(),
                DescriptorFlags::READ,
            )
            .map(|descriptor| Reading { descriptor, at: 0 })
            .map_err(io_error)
    }
}

/// A new file, being written from its start.
#[derive(Debug)]
pub(crate) struct File {
    descriptor: Descriptor,
    at: u64,
}

impl io::Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(WRITE_SIZE)];
        let written = self.descriptor.write(part, self.at).map_err(io_error)?;
        self.at += written;
        usize::try_from(written)
            .ok()
            .filter(|written| *written <= part.len())
            .ok_or_else(|| io::Error::other("the host claims to have written more than it got"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that this step wrote, being read from its start.
#[derive(Debug)]
pub(crate) struct Reading {
    descriptor: Descriptor,
    at: u64,
}

impl io::Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(WRITE_SIZE);
        let (bytes, _) = self
            .descriptor
            .read(wanted as u64, self.at)
            .map_err(io_error)?;
        let part = buffer
            .get_mut(..bytes.len())
            .ok_or_else(|| io::Error::other("the host gave more than was asked for"))?;
        part.copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// The host's code as the error that `std` would make of it, so that both kinds of place speak alike.
fn io_error(code: ErrorCode) -> io::Error {
    let kind = match code {
        ErrorCode::InsufficientSpace => io::ErrorKind::StorageFull,
        ErrorCode::Quota => io::ErrorKind::QuotaExceeded,
        ErrorCode::Exist => io::ErrorKind::AlreadyExists,
        ErrorCode::NoEntry => io::ErrorKind::NotFound,
        ErrorCode::Access | ErrorCode::NotPermitted => io::ErrorKind::PermissionDenied,
        ErrorCode::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
        ErrorCode::NotDirectory => io::ErrorKind::NotADirectory,
        ErrorCode::NameTooLong | ErrorCode::IllegalByteSequence => io::ErrorKind::InvalidFilename,
        _ => io::ErrorKind::Other,
    };
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            io::Error::new(kind, "the step's disk quota is spent")
        }
        io::ErrorKind::Other => io::Error::other(code.message()),
        kind => kind.into(),
    }
}
