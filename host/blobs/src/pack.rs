//! Packs: the files that hold the bytes. A pack can be read, moved and indexed again with nothing but itself.
//!
//! # Format, version 1
//!
//! All integers are little-endian. A pack is, from its first byte to its last:
//!
//! | part | bytes | what |
//! |---|---|---|
//! | header | 32 | magic `CFDMPACK`, `u32` version (1), `u32` flags (0), the pack's 16-byte UUID |
//! | records | any | the stored bytes of the entries, one after the other, nothing between them |
//! | table | 52 x n | one entry for each record, in the order of their offsets |
//! | trailer | 64 | magic `CFDMPEND`, `u32` version (1), `u32` n, `u64` offset of the table, `u64` bytes of the table, then the 32-byte BLAKE3 of header, table and these 32 bytes |
//!
//! One entry of the table:
//!
//! | field | bytes | what |
//! |---|---|---|
//! | kind | 1 | 1 chunk, 2 part of a manifest, 3 blob; a reader passes over kinds it does not know |
//! | encoding | 1 | 0 as it is, 1 one zstd frame |
//! | reserved | 2 | 0 |
//! | stored bytes | 4 | how many bytes the record takes |
//! | bytes | 4 | how many it has when decoded |
//! | offset | 8 | where the record begins, from the start of the file |
//! | id | 32 | BLAKE3 of the decoded bytes |
//!
//! A chunk's record is the chunk. A part of a manifest is a run of a blob's chunk list, as `manifest`
//! describes. A blob's record is a JSON object: its id, namespace, sizes, digests and
//! chunker; it lies in the last pack of its upload, so whoever finds it may take the blob for complete as
//! soon as every part of its manifest and every chunk these name is found in some pack. What a blob
//! deduplicated lies in packs of earlier uploads.
//!
//! A pack is written under a temporary name (`{uuid}.tmp`), its length is checked, it is synced, renamed to
//! `{uuid}.pack`, and the directory is synced. So a file named `.pack` is whole or damaged, never torn;
//! a file named `.tmp` belongs to a running upload or to nobody. One named `.damaged` was set aside by a repair; one named
//! `.lost` is a note about such a pack, of which something is lost that no index accounts for.
//!
//! Whoever copies records into another pack and removes this one must copy those of manifests and blobs as well, as
//! long as the blob is there: without them the index could not be made anew.

mod encoder;
mod salvage;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;
use zstd::bulk::Decompressor;

use crate::disk::{Disk, RealDisk};
use crate::{Digest, Error};

pub(crate) use encoder::Encoder;
pub(crate) use salvage::{Salvage, Survey};
pub(crate) use writer::{ClosedPack, PackWriter};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// The end of a pack's file name.
pub(crate) const EXTENSION: &str = "pack";
/// The end of the name of a pack that is still being written.
pub(crate) const TEMPORARY: &str = "tmp";
/// The end of the name of a damaged pack from which a repair has saved what could be saved. Nothing refers to it.
pub(crate) const DAMAGED: &str = "damaged";
/// The end of the name of a note that says what nobody can have of a damaged pack, although blobs may have needed it.
pub(crate) const LOST: &str = "lost";

const HEADER_MAGIC: [u8; 8] = *b"CFDMPACK";
const TRAILER_MAGIC: [u8; 8] = *b"CFDMPEND";
pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const ENTRY_BYTES: usize = 52;
const TRAILER_BYTES: usize = 64;

/// No record that was ever written is longer, so none is read: a damaged length must not take the memory.
/// Chunks have at most 256 KiB, parts of manifests 147 kB.
pub(crate) const MAX_RECORD_BYTES: u32 = 4 * 1024 * 1024;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A chunk of some blob.
    Chunk,
    /// A run of a blob's chunk list.
    Manifest,
    /// That a blob is complete, and what it is.
    Blob,
    /// Something a later version wrote.
    Other(u8),
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Kind::Chunk => 1,
            Kind::Manifest => 2,
            Kind::Blob => 3,
            Kind::Other(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> Kind {
        match byte {
            1 => Kind::Chunk,
            2 => Kind::Manifest,
            3 => Kind::Blob,
            other => Kind::Other(other),
        }
    }
}

/// How a record's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// As one zstd frame.
    Zstd,
}

impl Encoding {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Encoding::Raw => 0,
            Encoding::Zstd => 1,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Encoding> {
        match byte {
            0 => Some(Encoding::Raw),
            1 => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// One line of a pack's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the record is.
    pub kind: Kind,
    /// Where, and how, it is stored.
    pub extent: Extent,
    /// BLAKE3 of its decoded bytes.
    pub id: Digest,
}

/// Where a record lies in its pack, and how to decode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// From the start of the file.
    pub offset: u64,
    /// How many bytes it takes.
    pub stored: u32,
    /// How many bytes it has when decoded.
    pub bytes: u32,
    /// How it is stored.
    pub encoding: Encoding,
}

/// An open pack whose header, table and trailer were checked.
#[derive(Debug)]
pub struct Pack {
    /// The UUID in its header.
    pub name: Uuid,
    /// Its table, in the order of the records.
    pub entries: Vec<Entry>,
    /// How long the file is.
    pub length: u64,
    path: PathBuf,
    file: File,
    disk: Arc<dyn Disk>,
}

impl Pack {
    /// Opens a pack and checks everything but the records. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if it is not a whole pack of this version, [`Error::Io`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Pack, Error> {
        Pack::open_on(Arc::new(RealDisk), path)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Pack, Error> {
        let failed = |source| Error::io("reading the pack", path, source);
        let file = disk.open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let table = read_table(disk.as_ref(), &file, length);
        let (name, entries) = table.map_err(|reason| match reason {
            TableError::Io(source) => failed(source),
            TableError::Malformed(detail) => Error::Corrupt {
                what: "the table".to_owned(),
                place: file_name(path),
                detail: detail.to_owned(),
            },
        })?;
        Ok(Pack {
            name,
            entries,
            length,
            path: path.to_path_buf(),
            file,
            disk,
        })
    }

    /// The decoded bytes of a record, checked against its id. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if they are not what was written, [`Error::Io`] if they cannot be read.
    pub fn read(&self, entry: &Entry) -> Result<Vec<u8>, Error> {
        self.read_with(entry, &mut Decoder::default())
            .map_err(|reason| self.failed(entry, reason))
    }

    /// Why a record of this pack cannot be had.
    pub(crate) fn failed(&self, entry: &Entry, reason: RecordError) -> Error {
        match reason {
            RecordError::Io(source) => Error::io("reading the pack", &self.path, source),
            RecordError::Wrong(detail) => Error::Corrupt {
                what: format!("record {}", entry.id),
                place: file_name(&self.path),
                detail: detail.to_owned(),
            },
        }
    }

    /// As [`Pack::read`], with a context that lives longer.
    pub(crate) fn read_with(
        &self,
        entry: &Entry,
        decoder: &mut Decoder,
    ) -> Result<Vec<u8>, RecordError> {
        let disk = self.disk.as_ref();
        read_record(disk, &self.file, entry.extent, entry.id, decoder)
    }

    /// The bytes of a record as they are stored, and decoded. Blocks.
    pub(crate) fn read_stored(
        &self,
        entry: &Entry,
        decoder: &mut Decoder,
    ) -> Result<(Vec<u8>, Vec<u8>), RecordError> {
        read_both(self.disk.as_ref(), &self.file, entry, decoder)
    }
}

/// Reads and verifies one record: as it is stored, and its decoded bytes. Blocks.
fn read_both(
    disk: &dyn Disk,
    file: &File,
    entry: &Entry,
    decoder: &mut Decoder,
) -> Result<(Vec<u8>, Vec<u8>), RecordError> {
    let stored = read_stored(disk, file, entry.extent)?;
    let bytes = decoder.decode(stored.clone(), entry.extent)?;
    verify(&bytes, entry.extent, entry.id)?;
    Ok((stored, bytes))
}

/// The file name of the pack of this name.
pub(crate) fn pack_file_name(name: Uuid) -> String {
    format!("{name}.{EXTENSION}")
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Why a record cannot be had.
#[derive(Debug)]
pub(crate) enum RecordError {
    /// The file system refused.
    Io(io::Error),
    /// The bytes are not the ones that were written.
    Wrong(&'static str),
}

/// Decodes records, one after the other, with one context.
#[derive(Default)]
pub(crate) struct Decoder(Option<Decompressor<'static>>);

impl Decoder {
    fn decode(&mut self, stored: Vec<u8>, extent: Extent) -> Result<Vec<u8>, RecordError> {
        if extent.encoding == Encoding::Raw {
            return Ok(stored);
        }
        let decompressor = match &mut self.0 {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(RecordError::Io)?),
        };
        decompressor
            .decompress(&stored, extent.bytes as usize)
            .map_err(|_| RecordError::Wrong("it does not decompress"))
    }
}

/// Reads, decodes and verifies one record. Blocks.
pub(crate) fn read_record(
    disk: &dyn Disk,
    file: &File,
    extent: Extent,
    id: Digest,
    decoder: &mut Decoder,
) -> Result<Vec<u8>, RecordError> {
    let stored = read_stored(disk, file, extent)?;
    let bytes = decoder.decode(stored, extent)?;
    verify(&bytes, extent, id)?;
    Ok(bytes)
}

fn read_stored(disk: &dyn Disk, file: &File, extent: Extent) -> Result<Vec<u8>, RecordError> {
    if extent.stored.max(extent.bytes) > MAX_RECORD_BYTES {
        return Err(RecordError::Wrong("it is longer than any record"));
    }
    let mut stored = vec![0; extent.stored as usize];
    match disk.read_at(file, &mut stored, extent.offset) {
        Ok(()) => Ok(stored),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(RecordError::Wrong("the pack ends inside it"))
        }
        Err(error) => Err(RecordError::Io(error)),
    }
}

fn verify(bytes: &[u8], extent: Extent, id: Digest) -> Result<(), RecordError> {
    if bytes.len() != extent.bytes as usize {
        return Err(RecordError::Wrong(
            "it has another length than the index says",
        ));
    }
    if Digest::blake3(bytes) != id {
        return Err(RecordError::Wrong("its BLAKE3 is not its name"));
    }
    Ok(())
}

fn header(name: Uuid) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&HEADER_MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(name.as_bytes());
    header
}

/// Table and trailer of a pack whose records end at `table_offset`.
fn table_and_trailer(name: Uuid, entries: &[Entry], table_offset: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES + TRAILER_BYTES);
    for entry in entries {
        bytes.push(entry.kind.to_byte());
        bytes.push(entry.extent.encoding.to_byte());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&entry.extent.stored.to_le_bytes());
        bytes.extend_from_slice(&entry.extent.bytes.to_le_bytes());
        bytes.extend_from_slice(&entry.extent.offset.to_le_bytes());
        bytes.extend_from_slice(entry.id.as_bytes());
    }
    let table_bytes = bytes.len() as u64;
    let count =
        u32::try_from(entries.len()).expect("a pack is closed long before 4 billion entries");
    bytes.extend_from_slice(&TRAILER_MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&table_offset.to_le_bytes());
    bytes.extend_from_slice(&table_bytes.to_le_bytes());
    let checksum = blake3::Hasher::new()
        .update(&header(name))
        .update(&bytes)
        .finalize();
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

enum TableError {
    Io(io::Error),
    Malformed(&'static str),
}

impl From<io::Error> for TableError {
    fn from(error: io::Error) -> TableError {
        TableError::Io(error)
    }
}

fn read_table(disk: &dyn Disk, file: &File, length: u64) -> Result<(Uuid, Vec<Entry>), TableError> {
    use TableError::Malformed;

    if length < (HEADER_BYTES + TRAILER_BYTES) as u64 {
        return Err(Malformed("the file is too short for a pack"));
    }
    let mut header = [0; HEADER_BYTES];
    disk.read_at(file, &mut header, 0)?;
    if header[..8] != HEADER_MAGIC {
        return Err(Malformed("the file does not begin like a pack"));
    }
    if u32_at(&header, 8) != VERSION {
        return Err(Malformed("the pack has a version that is not known here"));
    }
    let mut trailer = [0; TRAILER_BYTES];
    let trailer_offset = length - TRAILER_BYTES as u64;
    disk.read_at(file, &mut trailer, trailer_offset)?;
    if trailer[..8] != TRAILER_MAGIC || u32_at(&trailer, 8) != VERSION {
        return Err(Malformed("the file does not end like a pack"));
    }
    let count = u64::from(u32_at(&trailer, 12));
    let table_offset = u64_at(&trailer, 16);
    let table_bytes = u64_at(&trailer, 24);
    if table_bytes != count * ENTRY_BYTES as u64
        || table_offset < HEADER_BYTES as u64
        || table_offset.checked_add(table_bytes) != Some(trailer_offset)
    {
        return Err(Malformed("the trailer does not fit the file"));
    }
    let mut table = vec![
        0;
        usize::try_from(table_bytes)
            .map_err(|_| Malformed("the table does not fit in memory"))?
    ];
    disk.read_at(file, &mut table, table_offset)?;
    let checksum = blake3::Hasher::new()
        .update(&header)
        .update(&table)
        .update(&trailer[..32])
        .finalize();
    if checksum.as_bytes()[..] != trailer[32..] {
        return Err(Malformed("the checksum of the table is wrong"));
    }
    let mut entries = Vec::with_capacity(table.len() / ENTRY_BYTES);
    for line in table.chunks_exact(ENTRY_BYTES) {
        let entry =
            read_entry(line).ok_or(Malformed("a record has an encoding that is not known here"))?;
        if !entry.extent.lies_before(table_offset) {
            return Err(Malformed("a record lies outside of the records"));
        }
        entries.push(entry);
    }
    Ok((Uuid::from_bytes(bytes_at(&header, 16)), entries))
}

/// One line of a table; `None` if its encoding is not known here.
fn read_entry(line: &[u8]) -> Option<Entry> {
    Some(Entry {
        kind: Kind::from_byte(line[0]),
        extent: Extent {
            stored: u32_at(line, 4),
            bytes: u32_at(line, 8),
            offset: u64_at(line, 12),
            encoding: Encoding::from_byte(line[1])?,
        },
        id: Digest::from(bytes_at(line, 20)),
    })
}

impl Extent {
    /// Whether it lies between the header and this end.
    fn lies_before(&self, end: u64) -> bool {
        self.offset >= HEADER_BYTES as u64
            && self.offset.saturating_add(u64::from(self.stored)) <= end
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests;
