//! Writing a pack: append, close, seal.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::{Encoding, Entry, Extent, HEADER_BYTES, Kind, TEMPORARY};
use crate::disk::Disk;
use crate::{Digest, Error};

/// A pack that is being written under its temporary name. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct PackWriter {
    open: OpenPack,
    entries: Vec<Entry>,
}

/// A pack whose table and trailer are written, but which is neither durable nor named yet.
#[derive(Debug)]
pub(crate) struct ClosedPack {
    open: OpenPack,
    /// Its table.
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
struct OpenPack {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    name: Uuid,
    temporary: PathBuf,
    file: Arc<File>,
    length: u64,
    sealed: bool,
}

impl PackWriter {
    /// Begins a pack in this directory.
    pub(crate) fn create(disk: Arc<dyn Disk>, directory: &Path) -> Result<PackWriter, Error> {
        let name = Uuid::now_v7();
        let temporary = directory.join(format!("{name}.{TEMPORARY}"));
        let file = disk
            .create(&temporary)
            .map_err(|source| Error::io("creating the pack", &temporary, source))?;
        let mut open = OpenPack {
            disk,
            directory: directory.to_path_buf(),
            name,
            temporary,
            file: Arc::new(file),
            length: 0,
            sealed: false,
        };
        open.append(&super::header(name))?;
        Ok(PackWriter {
            open,
            entries: Vec::new(),
        })
    }

    /// Writes one record: `stored` is `bytes` bytes in this encoding.
    pub(crate) fn append(
        &mut self,
        kind: Kind,
        id: Digest,
        bytes: u32,
        encoding: Encoding,
        stored: &[u8],
    ) -> Result<Extent, Error> {
        let extent = Extent {
            offset: self.open.length,
            stored: u32::try_from(stored.len()).expect("a record is at most a few MiB"),
            bytes,
            encoding,
        };
        self.open.append(stored)?;
        self.entries.push(Entry { kind, extent, id });
        Ok(extent)
    }

    /// The file, for those who read what was appended before the pack is sealed.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.open.file)
    }

    /// How many bytes the records take so far.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.open.length - HEADER_BYTES as u64
    }

    /// How many records there are so far.
    pub(crate) fn records(&self) -> usize {
        self.entries.len()
    }

    /// Writes table and trailer.
    pub(crate) fn close(mut self) -> Result<ClosedPack, Error> {
        let end = super::table_and_trailer(self.open.name, &self.entries, self.open.length);
        self.open.append(&end)?;
        Ok(ClosedPack {
            open: self.open,
            entries: self.entries,
        })
    }
}

impl ClosedPack {
    /// The pack's name.
    pub(crate) fn name(&self) -> Uuid {
        self.open.name
    }

    /// How many bytes the whole file has.
    pub(crate) fn length(&self) -> u64 {
        self.open.length
    }

    /// Makes the pack durable under its final name. When this returns, the index may name it.
    pub(crate) fn seal(&mut self) -> Result<(), Error> {
        let open = &mut self.open;
        let path = open.directory.join(super::pack_file_name(open.name));
        let length = open
            .file
            .metadata()
            .map_err(|source| Error::io("measuring the pack", &open.temporary, source))?
            .len();
        if length != open.length {
            return Err(Error::Corrupt {
                what: "the length".to_owned(),
                place: super::file_name(&open.temporary),
                detail: format!("{} bytes were written and it has {length}", open.length),
            });
        }
        open.disk
            .sync(&open.file)
            .map_err(|source| Error::io("syncing the pack", &open.temporary, source))?;
        open.disk
            .rename(&open.temporary, &path)
            .map_err(|source| Error::io("naming the pack", &path, source))?;
        // From here on the file is no longer ours to remove: a pack that is whole but not in the index is
        // harmless, and one that the index names must stay.
        open.sealed = true;
        open.disk
            .sync_directory(&open.directory)
            .map_err(|source| Error::io("syncing the directory", &open.directory, source))
    }
}

impl OpenPack {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.disk
            .append(&self.file, bytes)
            .map_err(|source| Error::io("writing the pack", &self.temporary, source))?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for OpenPack {
    fn drop(&mut self) {
        if !self.sealed
            && let Err(error) = self.disk.remove(&self.temporary)
        {
            // The next start removes it.
            tracing::warn!(path = %self.temporary.display(), %error, "a torn pack could not be removed");
        }
    }
}
