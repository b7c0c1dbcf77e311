//! What can be had of a pack whose header, table or trailer is damaged.
//!
//! Every record is named by its own BLAKE3: a line of the table that is found by guessing is good if the bytes it points
//! at have the digest it names. What a line does not prove is the kind of its record, so that is told by the bytes as well.
//!
//! What is stored may look like anything: a table, a part of a manifest, the record of a blob. So only a table at the very
//! end of the file, where nobody's content is, may say that something describes blobs. Where it is gone, chunks are found
//! by their digests, and nothing else. (Content comes to be at the end of a file that was cut off at the very byte at
//! which it has a table of its own, with lines for all that is before it.)
//!
//! What no good line leads to is looked for between the records to which one does: see [`Survey`].

mod survey;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::{
    Decoder, ENTRY_BYTES, Encoding, Entry, Extent, HEADER_BYTES, Kind, RecordError, TRAILER_BYTES,
    TRAILER_MAGIC, TableError, bytes_at, read_both, read_record, read_table, u32_at, u64_at,
};
use crate::disk::Disk;
use crate::{Digest, Error};

pub(crate) use survey::Survey;

/// How far from its end a pack is searched for its table: more than the largest table that is ever written (16,384
/// chunks and 1 MiB of manifest close a pack, and a batch may come on top).
const SEARCHED_BYTES: u64 = 2 * 1024 * 1024;

/// A damaged pack, open.
#[derive(Debug)]
pub(crate) struct Salvage {
    file: File,
    disk: Arc<dyn Disk>,
    length: u64,
    /// Lines that look like ones of its table, each to be verified before it is believed.
    pub(crate) candidates: Vec<Entry>,
    /// Where the first of them is: there the records end.
    table_at: Option<u64>,
    /// Whether it is the pack's own, be it damaged, and not something that was stored.
    own: bool,
    /// Whether the table is what was written: then it is some record that is damaged.
    sound: bool,
}

impl Salvage {
    /// Opens a damaged pack and looks for its table. Blocks.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Salvage, Error> {
        let failed = |source| Error::io("reading the damaged pack", path, source);
        let file = disk.open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut salvage = Salvage {
            file,
            disk,
            length,
            candidates: Vec::new(),
            table_at: None,
            own: false,
            sound: false,
        };
        match read_table(salvage.disk.as_ref(), &salvage.file, length) {
            Ok((_, entries)) => {
                let table = (entries.len() * ENTRY_BYTES + TRAILER_BYTES) as u64;
                salvage.candidates = entries;
                salvage.table_at = Some(length - table);
                (salvage.own, salvage.sound) = (true, true);
            }
            Err(TableError::Malformed(_)) => salvage.look_for_table(path),
            // A disk that cannot give the table may still give the records that the index knows.
            Err(TableError::Io(error)) => {
                tracing::warn!(path = %path.display(), %error, "a damaged pack's table cannot be read");
                salvage.look_for_table(path);
            }
        }
        Ok(salvage)
    }

    fn look_for_table(&mut self, path: &Path) {
        let searched = self.length.min(SEARCHED_BYTES);
        let start = self.length - searched;
        let mut tail = vec![0; usize::try_from(searched).unwrap_or(usize::MAX)];
        if let Err(error) = self.disk.read_at(&self.file, &mut tail, start) {
            tracing::warn!(path = %path.display(), %error, "a damaged pack's end cannot be read");
            return;
        }
        let told = by_the_trailer(&tail, start, self.length);
        if let Some((from, table)) = told.or_else(|| by_the_first_record(&tail)) {
            let at = start + from as u64;
            self.table_at = Some(at);
            self.own = told.is_some() || ends_the_file(table, at);
            self.candidates = table
                .chunks_exact(ENTRY_BYTES)
                .map(line)
                .filter(|entry| entry.extent.lies_before(self.length))
                .collect();
        }
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

/// What a line of a table says, be it damaged. An encoding that is not known is taken for none.
fn line(line: &[u8]) -> Entry {
    Entry {
        kind: Kind::from_byte(line[0]),
        extent: Extent {
            stored: u32_at(line, 4),
            bytes: u32_at(line, 8),
            offset: u64_at(line, 12),
            encoding: Encoding::from_byte(line[1]).unwrap_or(Encoding::Raw),
        },
        id: Digest::from(bytes_at(line, 20)),
    }
}

/// The table where the trailer says that it is, if that makes sense, and where in the last bytes that is.
fn by_the_trailer(tail: &[u8], start: u64, length: u64) -> Option<(usize, &[u8])> {
    let (_, trailer) = tail.split_at_checked(tail.len().checked_sub(TRAILER_BYTES)?)?;
    let count = u64::from(u32_at(trailer, 12));
    let offset = u64_at(trailer, 16);
    let bytes = u64_at(trailer, 24);
    let fits = trailer[..8] == TRAILER_MAGIC
        && bytes == count.checked_mul(ENTRY_BYTES as u64)?
        && offset >= HEADER_BYTES as u64
        && offset.checked_add(bytes)? == length.checked_sub(TRAILER_BYTES as u64)?;
    if !fits {
        return None;
    }
    let from = usize::try_from(offset.checked_sub(start)?).ok()?;
    let to = from.checked_add(usize::try_from(bytes).ok()?)?;
    Some((from, tail.get(from..to)?))
}

/// Whether these are the lines of all records before this place, one after the other, and at most the trailer, which may
/// be damaged.
fn ends_the_file(table: &[u8], at: u64) -> bool {
    let mut end = HEADER_BYTES as u64;
    let mut rest = table;
    while let Some((first, more)) = rest.split_at_checked(ENTRY_BYTES)
        && line(first).extent.offset == end
        && end < at
    {
        end = end.saturating_add(u64::from(line(first).extent.stored));
        rest = more;
    }
    let magic = rest.len().min(TRAILER_MAGIC.len());
    end == at && rest.len() <= TRAILER_BYTES && rest[..magic] == TRAILER_MAGIC[..magic]
}

/// The table found by its first line: the record that begins right after the header. What follows it, to the end of
/// the file, is cut into lines too; those that are not ones will not verify. The last such line is meant: what was
/// stored may be a pack itself, and that comes before the table.
fn by_the_first_record(tail: &[u8]) -> Option<(usize, &[u8])> {
    let begins_a_table = |line: &[u8]| {
        (1..=3).contains(&line[0])
            && line[1] <= 1
            && line[2..4] == [0, 0]
            && u64_at(line, 12) == HEADER_BYTES as u64
    };
    (0..=tail.len().checked_sub(ENTRY_BYTES)?)
        .rev()
        .find(|from| begins_a_table(&tail[*from..]))
        .map(|from| (from, &tail[from..]))
}
