//! Between `SQLite`'s columns and our types.

use sqlx::sqlite::SqliteRow;
use sqlx::{Error, Row};
use uuid::Uuid;

use super::Stored;
use super::collection::{ChunkRow, PackRow, PackState};
use crate::pack::{Encoding, Extent};
use crate::{BlobId, BlobInfo, ChunkerParams, Digest};

/// `SQLite`'s integers are signed. No offset, length or count of ours comes near 2^63.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// `3.51.3` as numbers.
pub(super) fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

fn wrong(column: usize, what: &'static str) -> Error {
    Error::ColumnDecode {
        index: column.to_string(),
        source: what.into(),
    }
}

pub(super) fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| wrong(column, "it is negative"))
}

fn small(row: &SqliteRow, column: usize) -> Result<u32, Error> {
    u32::try_from(row.try_get::<i64, _>(column)?)
        .map_err(|_| wrong(column, "it does not fit in 32 bits"))
}

pub(super) fn array<const N: usize>(row: &SqliteRow, column: usize) -> Result<[u8; N], Error> {
    row.try_get::<&[u8], _>(column)?
        .try_into()
        .map_err(|_| wrong(column, "it has the wrong length"))
}

pub(super) fn digest(row: &SqliteRow, column: usize) -> Result<Digest, Error> {
    array(row, column).map(Digest::from)
}

pub(super) fn blob_id(row: &SqliteRow, column: usize) -> Result<BlobId, Error> {
    array(row, column).map(BlobId::from_bytes)
}

/// The four columns of a place in a pack, from this one on.
pub(super) fn extent(row: &SqliteRow, column: usize) -> Result<Extent, Error> {
    let encoding = u8::try_from(small(row, column + 3)?)
        .ok()
        .and_then(Encoding::from_byte)
        .ok_or_else(|| wrong(column + 3, "it is an encoding that is not known here"))?;
    Ok(Extent {
        offset: unsigned(row, column)?,
        stored: small(row, column + 1)?,
        bytes: small(row, column + 2)?,
        encoding,
    })
}

pub(super) fn pack_state(row: &SqliteRow, column: usize) -> Result<PackState, Error> {
    PackState::from_column(row.try_get(column)?)
        .ok_or_else(|| wrong(column, "it is a state that is not known here"))
}

/// The columns of a lookup, after the chunk's id.
pub(super) fn stored(row: &SqliteRow) -> Result<Stored, Error> {
    Ok(Stored {
        pack: row.try_get(1)?,
        name: Uuid::from_bytes(array(row, 2)?),
        extent: extent(row, 3)?,
        usable: row.try_get::<i64, _>(7)? != 0,
    })
}

/// The columns of a pack.
pub(super) fn pack(row: &SqliteRow) -> Result<PackRow, Error> {
    Ok(PackRow {
        id: row.try_get(0)?,
        name: Uuid::from_bytes(array(row, 1)?),
        bytes: unsigned(row, 2)?,
        state: pack_state(row, 3)?,
        round: row.try_get(4)?,
    })
}

/// The columns of a chunk in a scan.
pub(super) fn chunk(row: &SqliteRow) -> Result<ChunkRow, Error> {
    Ok(ChunkRow {
        id: digest(row, 0)?,
        pack: row.try_get(1)?,
        stored: small(row, 2)?,
    })
}

/// Where a manifest ends: the columns of its bytes and of its chunks.
pub(super) fn end(row: &SqliteRow, column: usize) -> Result<(u64, u64), Error> {
    Ok((unsigned(row, column)?, unsigned(row, column + 1)?))
}

/// The columns of a blob.
pub(super) fn blob(row: &SqliteRow) -> Result<BlobInfo, Error> {
    Ok(BlobInfo {
        id: blob_id(row, 0)?,
        namespace: row.try_get(1)?,
        bytes: unsigned(row, 2)?,
        stored_bytes: unsigned(row, 3)?,
        chunks: unsigned(row, 4)?,
        blake3: digest(row, 5)?,
        sha256: match row.try_get::<&[u8], _>(6)? {
            [] => None,
            _ => Some(digest(row, 6)?),
        },
        created_at: row.try_get(7)?,
    })
}

pub(super) fn chunker(row: &SqliteRow, column: usize) -> Result<ChunkerParams, Error> {
    serde_json::from_str(row.try_get(column)?).map_err(|error| Error::ColumnDecode {
        index: column.to_string(),
        source: Box::new(error),
    })
}
