//! Directory listings.
//!
//! Read here rather than by the runtime, which asks the kernel for the type of every entry once more and bounds
//! nothing: a listing is held in memory until its stream is dropped.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, statat};
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode,
};
use wasmtime_wasi::p2::{FsError, FsResult};

use super::FilesystemView;
use crate::control::{Deadline, Stopped};

/// Directory listings held open at once: as deep as a program walks recursively.
const MAX_LISTINGS: usize = 128;

/// Entries of all listings held at once: twice as many files as a step creates by default, some 50 MiB.
const MAX_ENTRIES: usize = 500_000;

/// Entries between two looks at the clock: some 100 us.
const LOOK_EVERY: usize = 256;

/// How many listings are held, and how many entries they had.
#[derive(Debug, Default)]
pub(super) struct Listings {
    held: usize,
    entries: usize,
}

/// One listing. It lies in the store's table in the place of the runtime's own, under the same number.
struct Listing {
    entries: std::vec::IntoIter<DirectoryEntry>,
    count: usize,
}

impl FilesystemView<'_> {
    pub(super) fn list(
        &mut self,
        fd: &Resource<Descriptor>,
    ) -> FsResult<Resource<DirectoryEntryStream>> {
        let directory = match self.table.get(fd)? {
            Descriptor::Dir(directory) => directory.dir.clone(),
            Descriptor::File(_) => return Err(ErrorCode::NotDirectory.into()),
        };
        let listings = &self.files.listings;
        if listings.held >= MAX_LISTINGS {
            return Err(ErrorCode::InsufficientMemory.into());
        }
        let room = MAX_ENTRIES.saturating_sub(listings.entries);
        let deadline = self.files.deadline.as_ref();
        let is_over = || deadline.is_some_and(Deadline::is_over);
        let mut entries = read(&*directory, room, is_over)?;
        if self.files.reproducible.is_some() {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let count = entries.len();
        let listing = self.table.push(Listing {
            entries: entries.into_iter(),
            count,
        })?;
        let listings = &mut self.files.listings;
        listings.held += 1;
        listings.entries += count;
        Ok(Resource::new_own(listing.rep()))
    }

    pub(super) fn next_entry(
        &mut self,
        stream: &Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        let listing = Resource::<Listing>::new_borrow(stream.rep());
        Ok(self.table.get_mut(&listing)?.entries.next())
    }

    pub(super) fn forget_listing(
        &mut self,
        stream: &Resource<DirectoryEntryStream>,
    ) -> wasmtime::Result<()> {
        let listing = self
            .table
            .delete(Resource::<Listing>::new_own(stream.rep()))?;
        let listings = &mut self.files.listings;
        listings.held = listings.held.saturating_sub(1);
        listings.entries = listings.entries.saturating_sub(listing.count);
        Ok(())
    }
}

/// At most so many entries of a directory, as long as it is not all over meanwhile.
fn read(
    directory: impl AsFd,
    most: usize,
    is_over: impl Fn() -> bool,
) -> FsResult<Vec<DirectoryEntry>> {
    let directory = directory.as_fd();
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory).map_err(std::io::Error::from)? {
        let entry = entry.map_err(std::io::Error::from)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entries.len() >= most {
            return Err(ErrorCode::InsufficientMemory.into());
        }
        if entries.len().is_multiple_of(LOOK_EVERY) && is_over() {
            // Not an error of the listing, which the guest would take for one and speak of.
            return Err(FsError::trap(Stopped));
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // It went while it was listed.
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => return Err(std::io::Error::from(error).into()),
                }
            }
            kind => kind,
        };
        let Ok(name) = name.to_str() else {
            return Err(ErrorCode::IllegalByteSequence.into());
        };
        entries.push(DirectoryEntry {
            type_: descriptor_type(kind),
            name: name.to_owned(),
        });
    }
    Ok(entries)
}

fn descriptor_type(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::Unknown => DescriptorType::Unknown,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_directory_is_read_as_far_as_there_is_room_and_time() {
        let directory = tempfile::tempdir().unwrap();
        for name in 0..20 {
            fs::write(directory.path().join(name.to_string()), "").unwrap();
        }
        let open = File::open(directory.path()).unwrap();
        let refused = |result: FsResult<Vec<DirectoryEntry>>| {
            result.map(|entries| entries.len()).unwrap_err()
        };
        assert_eq!(read(&open, 20, || false).unwrap().len(), 20);
        let full = refused(read(&open, 19, || false));
        assert_eq!(full.downcast_ref(), Some(&ErrorCode::InsufficientMemory));
        let over = refused(read(&open, 20, || true)).downcast();
        assert!(over.unwrap_err().is::<Stopped>());
    }
}
