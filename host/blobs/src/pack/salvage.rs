//! What can be had of a pack whose header, table or trailer is damaged.
//!
//! Every record is named by its own BLAKE3, so nothing here has to be trusted: a line of the table that is found
//! by guessing is good if the bytes it points at have the digest it names.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::{
    Decoder, ENTRY_BYTES, Entry, HEADER_BYTES, Kind, RecordError, TRAILER_BYTES, read_both,
    read_entry, read_record, u32_at, u64_at,
};
use crate::Error;
use crate::disk::Disk;

/// How far from its end a pack is searched for its table: more than the largest table that is ever written (16,384
/// chunks and 1 MiB of manifest close a pack, and a batch may come on top).
const SEARCHED_BYTES: u64 = 2 * 1024 * 1024;

/// A damaged pack, open.
#[derive(Debug)]
pub(crate) struct Salvage {
    file: File,
    disk: Arc<dyn Disk>,
    /// Lines that look like ones of its table, each to be verified before it is believed.
    pub(crate) candidates: Vec<Entry>,
}

impl Salvage {
    /// Opens a damaged pack and looks for its table. Blocks.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Salvage, Error> {
        let failed = |source| Error::io("reading the damaged pack", path, source);
        let file = disk.open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let searched = length.min(SEARCHED_BYTES);
        let start = length - searched;
        let mut tail = vec![0; usize::try_from(searched).unwrap_or(usize::MAX)];
        // A disk that cannot give the table may still give the records that the index knows.
        let candidates = match disk.read_at(&file, &mut tail, start) {
            Ok(()) => candidates(&tail, start, length),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a damaged pack's table cannot be read");
                Vec::new()
            }
        };
        Ok(Salvage {
            file,
            disk,
            candidates,
        })
    }

    /// Whether a record is what its entry says. Blocks.
    pub(crate) fn is_good(&self, entry: &Entry, decoder: &mut Decoder) -> bool {
        self.read(entry, decoder).is_ok()
    }

    /// The decoded bytes of a record. Blocks.
    pub(crate) fn read(
        &self,
        entry: &Entry,
        decoder: &mut Decoder,
    ) -> Result<Vec<u8>, RecordError> {
        let disk = self.disk.as_ref();
        read_record(disk, &self.file, entry.extent, entry.id, decoder)
    }

    /// A record as it is stored, verified. Blocks.
    pub(crate) fn read_as_stored(
        &self,
        entry: &Entry,
        decoder: &mut Decoder,
    ) -> Result<Vec<u8>, RecordError> {
        let disk = self.disk.as_ref();
        read_both(disk, &self.file, entry, decoder).map(|(stored, _)| stored)
    }
}

/// What may be lines of the table in the last bytes of a pack of this length.
fn candidates(tail: &[u8], start: u64, length: u64) -> Vec<Entry> {
    let table = by_the_trailer(tail, start, length).or_else(|| by_the_first_record(tail));
    table.map_or(Vec::new(), |table| {
        table
            .chunks_exact(ENTRY_BYTES)
            .filter_map(read_entry)
            .filter(|entry| entry.extent.lies_before(length))
            .filter(|entry| !matches!(entry.kind, Kind::Other(_)))
            .collect()
    })
}

/// The table where the trailer says that it is, if that makes sense.
fn by_the_trailer(tail: &[u8], start: u64, length: u64) -> Option<&[u8]> {
    let (_, trailer) = tail.split_at_checked(tail.len().checked_sub(TRAILER_BYTES)?)?;
    let count = u64::from(u32_at(trailer, 12));
    let offset = u64_at(trailer, 16);
    let bytes = u64_at(trailer, 24);
    let fits = bytes == count.checked_mul(ENTRY_BYTES as u64)?
        && offset.checked_add(bytes)? == length.checked_sub(TRAILER_BYTES as u64)?;
    if !fits {
        return None;
    }
    let from = usize::try_from(offset.checked_sub(start)?).ok()?;
    let to = from.checked_add(usize::try_from(bytes).ok()?)?;
    tail.get(from..to)
}

/// The table found by its first line: the record that begins right after the header. What follows it, to the end of
/// the file, is cut into lines too; those that are not ones will not verify. The last such line is meant: what was
/// stored may be a pack itself, and that comes before the table.
fn by_the_first_record(tail: &[u8]) -> Option<&[u8]> {
    let begins_a_table = |line: &[u8]| {
        (1..=3).contains(&line[0])
            && line[1] <= 1
            && line[2..4] == [0, 0]
            && u64_at(line, 12) == HEADER_BYTES as u64
    };
    (0..=tail.len().checked_sub(ENTRY_BYTES)?)
        .rev()
        .find(|from| begins_a_table(&tail[*from..]))
        .map(|from| &tail[from..])
}
