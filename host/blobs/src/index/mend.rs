//! What a repair changes in the index, and how an index is made from packs.

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::collection::{inherit_replaced, no_orphan};
use super::{
    Found, Index, LOOKUP, PACK_LOST, Stored, held, insert_blob, insert_rows, lookup, now, rows,
};
use crate::manifest::{BlobRecord, EncodedPart};
use crate::pack::{Entry, Kind};
use crate::{BlobId, ChunkId, Digest, Error};

/// A pack that is to be known, as it says of itself.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) name: Uuid,
    pub(crate) length: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) parts: Vec<(BlobId, EncodedPart)>,
    pub(crate) blobs: Vec<BlobRecord>,
    /// What described blobs and cannot be read. It is not among the entries.
    pub(crate) unread: Vec<Digest>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    /// The pack's row.
    pub(crate) pack: i64,
    /// Chunks of it that the index places in other packs.
    pub(crate) elsewhere: Vec<(Entry, Stored)>,
}

impl Index {
    /// Makes a pack known, or known again, with all that is in it. A chunk that the index places in another sound
    /// pack stays there.
    pub(crate) async fn adopt(&self, adoption: &Adoption) -> Result<Adopted, Error> {
        let action = "recording a pack that was found";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let adopted = adopt(&mut change, adoption)
            .await
            .map_err(self.failed(action))?;
        change.commit().await?;
        Ok(adopted)
    }

    /// Makes known what packs say, or a damaged one seems to say, of blobs that may not be whole: where nothing else is
    /// known of them.
    pub(crate) async fn adopt_guesses(
        &self,
        parts: &[(BlobId, EncodedPart)],
        blobs: &[BlobRecord],
    ) -> Result<(), Error> {
        let action = "recording what was found";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        for (blob, part) in parts {
            sqlx::query(
                "INSERT OR IGNORE INTO manifest (blob, first_byte, data, checksum) \
                 VALUES (?, ?, ?, ?)",
            )
            .bind(&blob.as_bytes()[..])
            .bind(rows::signed(part.first_byte))
            .bind(&part.data[..])
            .bind(&part.checksum.as_bytes()[..])
            .execute(&mut *change)
            .await
            .map_err(&failed)?;
        }
        for record in blobs {
            let is_known: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM blob WHERE id = ?)")
                    .bind(&record.info.id.as_bytes()[..])
                    .fetch_one(&mut *change)
                    .await
                    .map_err(&failed)?;
            if !is_known {
                insert_blob(&mut change, record).await.map_err(&failed)?;
            }
        }
        change.commit().await
    }

    /// Makes a complete blob known, with its manifest.
    pub(crate) async fn restore_blob(
        &self,
        record: &BlobRecord,
        parts: &[EncodedPart],
    ) -> Result<(), Error> {
        let action = "restoring a blob";
        let failed = self.failed(action);
        let id = record.info.id;
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        replace_parts(&mut change, id, parts)
            .await
            .map_err(&failed)?;
        insert_blob(&mut change, record).await.map_err(&failed)?;
        held::add(&mut change, id, &record.info.namespace)
            .await
            .map_err(&failed)?;
        change.commit().await
    }

    /// Places chunks where they were found, whatever the index said of them.
    pub(crate) async fn relocate(&self, pack: i64, entries: &[Entry]) -> Result<(), Error> {
        let action = "placing chunks that were found again";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        for entry in entries {
            sqlx::query(
                "INSERT INTO chunk (id, pack, offset, stored_bytes, bytes, encoding) \
                 VALUES (?, ?, ?, ?, ?, ?) \
                 ON CONFLICT (id) DO UPDATE SET pack = excluded.pack, offset = excluded.offset, \
                     stored_bytes = excluded.stored_bytes, bytes = excluded.bytes, \
                     encoding = excluded.encoding, quarantined = 0",
            )
            .bind(&entry.id.as_bytes()[..])
            .bind(pack)
            .bind(rows::signed(entry.extent.offset))
            .bind(entry.extent.stored)
            .bind(entry.extent.bytes)
            .bind(entry.extent.encoding.to_byte())
            .execute(&mut *change)
            .await
            .map_err(&failed)?;
        }
        change.commit().await
    }

    /// Marks chunks as wrong, so that no new blob leans on them and the next upload replaces them.
    pub(crate) async fn quarantine_chunks(&self, ids: &[ChunkId]) -> Result<(), Error> {
        self.each(
            "quarantining what is corrupt",
            "UPDATE chunk SET quarantined = 1 WHERE id = ?",
            ids,
        )
        .await
    }

    /// Marks chunks as wrong that are in this pack.
    pub(crate) async fn quarantine_chunks_in(
        &self,
        pack: Uuid,
        ids: &[ChunkId],
    ) -> Result<(), Error> {
        let action = "quarantining what is corrupt";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        for id in ids {
            sqlx::query(
                "UPDATE chunk SET quarantined = 1 \
                 WHERE id = ? AND pack = (SELECT id FROM pack WHERE name = ?)",
            )
            .bind(&id.as_bytes()[..])
            .bind(&pack.as_bytes()[..])
            .execute(&mut *change)
            .await
            .map_err(&failed)?;
        }
        change.commit().await
    }

    /// Forgets chunks that no blob has and that are nowhere.
    pub(crate) async fn drop_chunks(&self, ids: &[ChunkId]) -> Result<(), Error> {
        self.each(
            "forgetting chunks that are nowhere",
            "DELETE FROM chunk WHERE id = ?",
            ids,
        )
        .await
    }

    async fn each(
        &self,
        action: &'static str,
        sql: &'static str,
        ids: &[ChunkId],
    ) -> Result<(), Error> {
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        for id in ids {
            sqlx::query(sql)
                .bind(&id.as_bytes()[..])
                .execute(&mut *change)
                .await
                .map_err(&failed)?;
        }
        change.commit().await
    }

    /// Says that a pack is gone, or there again.
    pub(crate) async fn mark_lost(&self, pack: i64, lost: bool) -> Result<(), Error> {
        let action = "marking a pack";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        sqlx::query("UPDATE pack SET state = ? WHERE id = ?")
            .bind(if lost { PACK_LOST } else { 0 })
            .bind(pack)
            .execute(&mut *change)
            .await
            .map_err(self.failed(action))?;
        change.commit().await
    }

    /// Corrects what is said of a pack.
    pub(crate) async fn correct_pack(
        &self,
        pack: i64,
        bytes: u64,
        entries: u64,
    ) -> Result<(), Error> {
        let action = "correcting a pack's row";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        sqlx::query("UPDATE pack SET bytes = ?, entries = ? WHERE id = ?")
            .bind(rows::signed(bytes))
            .bind(rows::signed(entries))
            .bind(pack)
            .execute(&mut *change)
            .await
            .map_err(self.failed(action))?;
        change.commit().await
    }

    /// Forgets a pack that is gone and in which no chunk is any more.
    pub(crate) async fn drop_pack(&self, pack: i64) -> Result<(), Error> {
        let action = "forgetting a pack that is gone";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        for sql in [
            "DELETE FROM lease WHERE pack = ?",
            "DELETE FROM pack WHERE id = ?",
        ] {
            sqlx::query(sql)
                .bind(pack)
                .execute(&mut *change)
                .await
                .map_err(&failed)?;
        }
        change.commit().await
    }

    /// Replaces a blob's manifest.
    pub(crate) async fn restore_manifest(
        &self,
        blob: BlobId,
        parts: &[EncodedPart],
    ) -> Result<(), Error> {
        let action = "restoring a manifest";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let known = sqlx::query("SELECT namespace, bytes, chunks FROM blob WHERE id = ?")
            .bind(&blob.as_bytes()[..])
            .fetch_optional(&mut *change)
            .await
            .map_err(&failed)?;
        let namespace: Option<&str> = match &known {
            Some(row) => Some(row.try_get(0).map_err(&failed)?),
            None => None,
        };
        if let (Some(namespace), Some(row)) = (namespace, &known) {
            let end = rows::end(row, 1).map_err(&failed)?;
            held::remove(&mut change, blob, namespace, end)
                .await
                .map_err(&failed)?;
        }
        replace_parts(&mut change, blob, parts)
            .await
            .map_err(&failed)?;
        if let Some(namespace) = namespace {
            held::add(&mut change, blob, namespace)
                .await
                .map_err(&failed)?;
        }
        change.commit().await
    }

    /// Forgets the parts of manifests that are neither a blob's nor an upload's.
    pub(crate) async fn forget_unowned(&self) -> Result<(), Error> {
        let action = "forgetting what is nobody's";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        sqlx::query(
            "DELETE FROM manifest WHERE blob NOT IN (SELECT id FROM blob) \
             AND blob NOT IN (SELECT id FROM upload)",
        )
        .execute(&mut *change)
        .await
        .map_err(self.failed(action))?;
        change.commit().await
    }

    /// Forgets the part of a manifest that begins at this byte.
    pub(crate) async fn drop_part(&self, blob: BlobId, first_byte: u64) -> Result<(), Error> {
        let action = "forgetting a part of a manifest";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        sqlx::query("DELETE FROM manifest WHERE blob = ? AND first_byte = ?")
            .bind(&blob.as_bytes()[..])
            .bind(rows::signed(first_byte))
            .execute(&mut *change)
            .await
            .map_err(self.failed(action))?;
        change.commit().await
    }

    /// How many chunks and blobs it names.
    pub(crate) async fn counts(&self) -> Result<(u64, u64), Error> {
        let failed = self.failed("counting what it names");
        let mut reader = self.reader().await;
        let row = sqlx::query("SELECT (SELECT COUNT(*) FROM chunk), (SELECT COUNT(*) FROM blob)")
            .fetch_one(&mut *reader)
            .await
            .map_err(&failed)?;
        Ok((
            rows::unsigned(&row, 0).map_err(&failed)?,
            rows::unsigned(&row, 1).map_err(&failed)?,
        ))
    }

    /// Writes the log back into the file, so that it is whole by itself.
    pub(crate) async fn write_back(&self) -> Result<(), Error> {
        let action = "writing its log back";
        let failed = self.failed(action);
        let mut writer = self.writer.lock().await;
        let connection = writer.sound().await.map_err(&failed)?;
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(connection)
            .await
            .map_err(&failed)?;
        match row.try_get::<i64, _>(0).map_err(&failed)? {
            0 => Ok(()),
            _ => Err(Error::Locked {
                path: self.path.clone(),
            }),
        }
    }
}

async fn adopt(change: &mut SqliteConnection, adoption: &Adoption) -> Result<Adopted, sqlx::Error> {
    let created_at = adoption
        .name
        .get_timestamp()
        .and_then(|time| {
            let (seconds, nanos) = time.to_unix();
            i64::try_from(seconds * 1000 + u64::from(nanos / 1_000_000)).ok()
        })
        .unwrap_or_else(now);
    let pack: i64 = sqlx::query(
        "INSERT INTO pack (name, bytes, entries, created_at) VALUES (?, ?, ?, ?) \
         ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes, entries = excluded.entries, \
             state = 0 \
         RETURNING id",
    )
    .bind(&adoption.name.as_bytes()[..])
    .bind(rows::signed(adoption.length))
    .bind(rows::signed(adoption.entries.len() as u64))
    .bind(created_at)
    .fetch_one(&mut *change)
    .await?
    .try_get(0)?;
    no_orphan(change, adoption.name).await?;
    inherit_replaced(change, pack).await?;
    let mut chunks: Vec<&Entry> = adoption
        .entries
        .iter()
        .filter(|entry| entry.kind == Kind::Chunk)
        .collect();
    chunks.sort_unstable_by_key(|entry| entry.id);
    // A table may name a chunk twice; one place is enough.
    chunks.dedup_by_key(|entry| entry.id);
    let inserted = insert_rows(change, &chunks, pack).await?;
    let mut adopted = Adopted {
        pack,
        elsewhere: Vec::new(),
    };
    if inserted < chunks.len() as u64 {
        let ids: Vec<ChunkId> = chunks.iter().map(|entry| entry.id).collect();
        let mut found = Found::new();
        for ids in ids.chunks(LOOKUP) {
            lookup(change, ids, &mut found).await?;
        }
        for entry in chunks {
            if let Some(stored) = found.get(&entry.id)
                && stored.pack != pack
            {
                adopted.elsewhere.push((*entry, *stored));
            }
        }
    }
    for (blob, part) in &adoption.parts {
        insert_part(change, *blob, part).await?;
    }
    for record in &adoption.blobs {
        // An upload that died in its last moment, and was gone on with, was told complete twice.
        sqlx::query("DELETE FROM blob WHERE id = ?")
            .bind(&record.info.id.as_bytes()[..])
            .execute(&mut *change)
            .await?;
        insert_blob(change, record).await?;
    }
    Ok(adopted)
}

async fn replace_parts(
    connection: &mut SqliteConnection,
    blob: BlobId,
    parts: &[EncodedPart],
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM manifest WHERE blob = ?")
        .bind(&blob.as_bytes()[..])
        .execute(&mut *connection)
        .await?;
    for part in parts {
        insert_part(connection, blob, part).await?;
    }
    Ok(())
}

/// Of two parts that begin at the same byte the later one stays: see [`chain`](crate::manifest::chain).
pub(super) async fn insert_part(
    connection: &mut SqliteConnection,
    blob: BlobId,
    part: &EncodedPart,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT OR REPLACE INTO manifest (blob, first_byte, data, checksum) VALUES (?, ?, ?, ?)",
    )
    .bind(&blob.as_bytes()[..])
    .bind(rows::signed(part.first_byte))
    .bind(&part.data[..])
    .bind(&part.checksum.as_bytes()[..])
    .execute(connection)
    .await?;
    Ok(())
}
