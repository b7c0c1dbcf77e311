//! What a check asks the index. Nothing here changes it.

use std::collections::HashMap;

use sqlx::Row;
use uuid::Uuid;

use super::{Index, PackState, rows};
use crate::manifest::Part;
use crate::pack::Extent;
use crate::{BlobId, ChunkId, Digest, Error};

/// How many faults of the file itself are asked for: the first says enough.
const INTEGRITY: &str = "PRAGMA integrity_check(1)";

/// How many rows are taken at a time, so that no query holds more than a megabyte.
pub(crate) const PAGE: u32 = 4096;

/// A pack, as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownPack {
    pub(crate) id: i64,
    pub(crate) name: Uuid,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    pub(crate) state: PackState,
}

/// A part of a manifest, as the index has it.
#[derive(Debug)]
pub(crate) struct StoredPart {
    pub(crate) checksum: Digest,
    pub(crate) data: Vec<u8>,
    /// What it says, or what is wrong with it.
    pub(crate) part: Result<Part, String>,
}

impl Index {
    /// What `SQLite` finds wrong with the file itself; `None` if nothing is.
    pub(crate) async fn integrity(&self) -> Result<Option<String>, Error> {
        let failed = self.failed("checking it");
        let mut reader = self.reader().await;
        let found: String = sqlx::query_scalar(INTEGRITY)
            .fetch_one(&mut *reader)
            .await
            .map_err(&failed)?;
        Ok((found != "ok").then_some(found))
    }

    /// Every pack it names.
    pub(crate) async fn packs(&self) -> Result<Vec<KnownPack>, Error> {
        let failed = self.failed("listing packs");
        let mut reader = self.reader().await;
        sqlx::query("SELECT id, name, bytes, entries, state FROM pack ORDER BY id")
            .fetch_all(&mut *reader)
            .await
            .map_err(&failed)?
            .iter()
            .map(|row| {
                Ok(KnownPack {
                    id: row.try_get(0)?,
                    name: Uuid::from_bytes(rows::array(row, 1)?),
                    bytes: rows::unsigned(row, 2)?,
                    entries: rows::unsigned(row, 3)?,
                    state: rows::pack_state(row, 4)?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// How many chunks it says are in each pack; also in ones that it does not name.
    pub(crate) async fn chunks_in_packs(&self) -> Result<HashMap<i64, u64>, Error> {
        let failed = self.failed("counting chunks");
        let mut reader = self.reader().await;
        sqlx::query("SELECT pack, COUNT(*) FROM chunk GROUP BY pack")
            .fetch_all(&mut *reader)
            .await
            .map_err(&failed)?
            .iter()
            .map(|row| Ok((row.try_get(0)?, rows::unsigned(row, 1)?)))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// The chunks that it says are in this pack, in the order of their ids, from the one after `after`; at most
    /// [`PAGE`] of them.
    pub(crate) async fn chunks_of(
        &self,
        pack: i64,
        after: Option<ChunkId>,
    ) -> Result<Vec<(ChunkId, Extent)>, Error> {
        let failed = self.failed("listing chunks");
        let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        let mut reader = self.reader().await;
        sqlx::query(
            "SELECT id, offset, stored_bytes, bytes, encoding FROM chunk \
             WHERE pack = ? AND id > ? ORDER BY id LIMIT ?",
        )
        .bind(pack)
        .bind(after)
        .bind(PAGE)
        .fetch_all(&mut *reader)
        .await
        .map_err(&failed)?
        .iter()
        .map(|row| Ok((rows::digest(row, 0)?, rows::extent(row, 1)?)))
        .collect::<Result<_, sqlx::Error>>()
        .map_err(&failed)
    }

    /// The quarantined chunks and their packs, in the order of their ids, from the one after `after`.
    pub(crate) async fn quarantined_chunks(
        &self,
        after: Option<ChunkId>,
    ) -> Result<Vec<(ChunkId, i64)>, Error> {
        let failed = self.failed("listing what is quarantined");
        let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        let mut reader = self.reader().await;
        sqlx::query(
            "SELECT id, pack FROM chunk WHERE quarantined <> 0 AND id > ? ORDER BY id LIMIT ?",
        )
        .bind(after)
        .bind(PAGE)
        .fetch_all(&mut *reader)
        .await
        .map_err(&failed)?
        .iter()
        .map(|row| Ok((rows::digest(row, 0)?, row.try_get(1)?)))
        .collect::<Result<_, sqlx::Error>>()
        .map_err(&failed)
    }

    /// How many complete blobs there are.
    pub(crate) async fn blob_count(&self) -> Result<u64, Error> {
        let failed = self.failed("counting blobs");
        let mut reader = self.reader().await;
        let row = sqlx::query("SELECT COUNT(*) FROM blob")
            .fetch_one(&mut *reader)
            .await
            .map_err(&failed)?;
        rows::unsigned(&row, 0).map_err(&failed)
    }

    /// The blobs of which there is some manifest, complete or not, in the order of their ids.
    pub(crate) async fn manifest_owners(
        &self,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Vec<BlobId>, Error> {
        let failed = self.failed("listing manifests");
        let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        let mut reader = self.reader().await;
        sqlx::query("SELECT DISTINCT blob FROM manifest WHERE blob > ? ORDER BY blob LIMIT ?")
            .bind(after)
            .bind(limit)
            .fetch_all(&mut *reader)
            .await
            .map_err(&failed)?
            .iter()
            .map(|row| rows::array(row, 0).map(BlobId::from_bytes))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(&failed)
    }

    /// The part of a blob's manifest that the index keeps under the least first byte from `from` on, and that byte.
    pub(crate) async fn part_from(
        &self,
        blob: BlobId,
        from: u64,
    ) -> Result<Option<(u64, StoredPart)>, Error> {
        let failed = self.failed("reading a manifest");
        let mut reader = self.reader().await;
        let row = sqlx::query(
            "SELECT data, checksum, first_byte FROM manifest \
             WHERE blob = ? AND first_byte >= ? ORDER BY first_byte LIMIT 1",
        )
        .bind(&blob.as_bytes()[..])
        .bind(rows::signed(from))
        .fetch_optional(&mut *reader)
        .await
        .map_err(&failed)?;
        let Some(row) = row else { return Ok(None) };
        let data: Vec<u8> = row.try_get(0).map_err(&failed)?;
        let checksum: [u8; 32] = rows::array(&row, 1).map_err(&failed)?;
        let part = Part::decode(&data, &checksum).map_err(str::to_owned);
        let first_byte = rows::unsigned(&row, 2).map_err(&failed)?;
        let stored = StoredPart {
            checksum: Digest::from(checksum),
            data,
            part,
        };
        Ok(Some((first_byte, stored)))
    }
}
