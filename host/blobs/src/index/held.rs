//! Which chunks a namespace holds: those of its complete blobs, and no others.
//!
//! There is one query, [`HELD_SQL`], for the question and for the claim. It walks the rows of one namespace and
//! joins a chunk only after it was found there, so it does the same work for a chunk that nobody has as for one
//! that others have.

use std::collections::HashMap;
use std::sync::LazyLock;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{Found, Index, LOOKUP, lease_pack, rows};
use crate::manifest::{ChunkRef, Part};
use crate::{BlobId, ChunkId, Error};

/// How many rows one statement changes.
const CHANGE: usize = 64;

/// How many blobs are read at once when all rows are derived anew.
const PAGE: u32 = 1000;

/// The columns are those of a look-up. `CROSS JOIN` fixes the order of the tables.
static HELD_SQL: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT h.chunk, c.pack, p.name, c.offset, c.stored_bytes, c.bytes, c.encoding, 1 \
         FROM held h CROSS JOIN chunk c ON c.id = h.chunk CROSS JOIN pack p ON p.id = c.pack \
         WHERE h.namespace = (SELECT id FROM namespace WHERE name = ?) AND h.chunk IN ({}) \
             AND c.quarantined = 0 AND p.state = 0",
        vec!["?"; LOOKUP].join(", ")
    )
});

static CHANGE_SQL: LazyLock<String> = LazyLock::new(|| change_sql(CHANGE));
static CHANGE_ONE_SQL: LazyLock<String> = LazyLock::new(|| change_sql(1));
static DROP_SQL: LazyLock<String> = LazyLock::new(|| drop_sql(CHANGE));
static DROP_ONE_SQL: LazyLock<String> = LazyLock::new(|| drop_sql(1));

fn change_sql(rows: usize) -> String {
    format!(
        "INSERT INTO held (namespace, chunk, uses) VALUES {} \
         ON CONFLICT (namespace, chunk) DO UPDATE SET uses = uses + excluded.uses",
        vec!["(?, ?, ?)"; rows].join(", ")
    )
}

fn drop_sql(rows: usize) -> String {
    format!(
        "DELETE FROM held WHERE namespace = ? AND uses <= 0 AND chunk IN ({})",
        vec!["?"; rows].join(", ")
    )
}

impl Index {
    /// Where these chunks are stored, of those that the namespace holds and that can be leaned on.
    pub(crate) async fn held(&self, namespace: &str, ids: &[ChunkId]) -> Result<Found, Error> {
        let mut found = Found::new();
        for ids in ids.chunks(LOOKUP) {
            held(&mut *self.reader().await, namespace, ids, &mut found)
                .await
                .map_err(self.failed("looking up what a project holds"))?;
        }
        Ok(found)
    }

    /// Leases the packs of these chunks to `holder`, if the namespace holds all of them in these lengths, and says
    /// whether it does. The look-up and the lease are one transaction.
    pub(crate) async fn claim(
        &self,
        namespace: &str,
        holder: BlobId,
        chunks: &[ChunkRef],
    ) -> Result<bool, Error> {
        let action = "leasing what a project holds";
        let failed = self.failed(action);
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let mut found = Found::new();
        for ids in ids.chunks(LOOKUP) {
            held(&mut change, namespace, ids, &mut found)
                .await
                .map_err(&failed)?;
        }
        let all = chunks.iter().all(|chunk| {
            let stored = found.get(&chunk.id);
            stored.is_some_and(|stored| stored.extent.bytes == chunk.bytes)
        });
        if all {
            let mut packs: Vec<i64> = found.values().map(|stored| stored.pack).collect();
            packs.sort_unstable();
            packs.dedup();
            for pack in packs {
                lease_pack(&mut change, holder, pack)
                    .await
                    .map_err(&failed)?;
            }
            change.commit().await?;
        }
        Ok(all)
    }

    /// Whether the namespace holds any chunk at all.
    pub(crate) async fn holds_any(&self, namespace: &str) -> Result<bool, Error> {
        let mut reader = self.reader().await;
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM held \
             WHERE namespace = (SELECT id FROM namespace WHERE name = ?))",
        )
        .bind(namespace)
        .fetch_one(&mut *reader)
        .await
        .map_err(self.failed("looking up what a project holds"))
    }

    /// How often the rows of each namespace say that its manifests name a chunk.
    pub(crate) async fn uses(&self) -> Result<HashMap<String, i64>, Error> {
        let failed = self.failed("adding up what projects hold");
        let mut reader = self.reader().await;
        sqlx::query(
            "SELECT coalesce(n.name, ''), SUM(h.uses) FROM held h \
             LEFT JOIN namespace n ON n.id = h.namespace GROUP BY h.namespace",
        )
        .fetch_all(&mut *reader)
        .await
        .map_err(&failed)?
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, sqlx::Error>>()
        .map_err(&failed)
    }

    /// Derives every row of `held` again from the blobs whose manifests are whole, in one transaction: for an index
    /// that was written before there were such rows, or that was itself made from packs.
    pub(crate) async fn derive_held(&self) -> Result<(), Error> {
        let action = "deriving what projects hold";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        derive(&mut change).await.map_err(self.failed(action))?;
        change.commit().await
    }

    /// The same, if there are blobs and not one row.
    pub(super) async fn derive_held_once(&self) -> Result<(), Error> {
        let due: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM blob) AND NOT EXISTS (SELECT 1 FROM held)",
        )
        .fetch_one(&mut *self.reader().await)
        .await
        .map_err(self.failed("looking for what projects hold"))?;
        if due {
            self.derive_held().await?;
        }
        Ok(())
    }
}

async fn held(
    connection: &mut SqliteConnection,
    namespace: &str,
    ids: &[ChunkId],
    found: &mut Found,
) -> Result<(), sqlx::Error> {
    let Some(last) = ids.last() else {
        return Ok(());
    };
    let mut query = sqlx::query(HELD_SQL.as_str()).bind(namespace);
    for n in 0..LOOKUP {
        query = query.bind(&ids.get(n).unwrap_or(last).as_bytes()[..]);
    }
    for row in query.fetch_all(connection).await? {
        found.insert(rows::digest(&row, 0)?, rows::stored(&row)?);
    }
    Ok(())
}

/// Adds what a blob that has just become complete makes its namespace hold. Its manifest is in the index.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    blob: BlobId,
    namespace: &str,
) -> Result<(), sqlx::Error> {
    change(connection, blob, namespace, 1).await
}

/// Takes away what only a blob that is being removed makes its namespace hold. Its manifest is still in the index. One
/// that is not whole never made it hold anything.
pub(super) async fn remove(
    connection: &mut SqliteConnection,
    blob: BlobId,
    namespace: &str,
    end: (u64, u64),
) -> Result<(), sqlx::Error> {
    if is_whole(connection, blob, end).await? {
        change(connection, blob, namespace, -1).await?;
    }
    Ok(())
}

async fn change(
    connection: &mut SqliteConnection,
    blob: BlobId,
    namespace: &str,
    by: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT OR IGNORE INTO namespace (name) VALUES (?)")
        .bind(namespace)
        .execute(&mut *connection)
        .await?;
    let id: i64 = sqlx::query_scalar("SELECT id FROM namespace WHERE name = ?")
        .bind(namespace)
        .fetch_one(&mut *connection)
        .await?;
    // A part at a time, so that the longest manifest costs no more memory than a short one.
    let mut position = -1_i64;
    while let Some(row) = next_part(connection, blob, position).await? {
        position = row.try_get(0)?;
        match Part::decode(row.try_get(1)?, row.try_get(2)?) {
            Ok(part) => change_part(connection, id, &part, by).await?,
            Err(detail) => {
                // Whoever reads the blob is told as well; a row too many or too few is only a chunk that is sent
                // again.
                tracing::error!(%blob, detail, "a part of a manifest is corrupt");
            }
        }
    }
    Ok(())
}

async fn change_part(
    connection: &mut SqliteConnection,
    namespace: i64,
    part: &Part,
    by: i64,
) -> Result<(), sqlx::Error> {
    let mut ids: Vec<ChunkId> = part.chunks.iter().map(|chunk| chunk.id).collect();
    // In the order of the key, so that neighbours meet in the same page.
    ids.sort_unstable();
    let (batches, rest) = ids.as_chunks::<CHANGE>();
    let batches = batches.iter().map(|batch| {
        let sql = (CHANGE_SQL.as_str(), DROP_SQL.as_str());
        (sql, &batch[..])
    });
    let rest = rest.chunks(1).map(|one| {
        let sql = (CHANGE_ONE_SQL.as_str(), DROP_ONE_SQL.as_str());
        (sql, one)
    });
    for ((change, drop), batch) in batches.chain(rest) {
        let mut query = sqlx::query(change);
        for id in batch {
            query = query.bind(namespace).bind(&id.as_bytes()[..]).bind(by);
        }
        query.execute(&mut *connection).await?;
        if by < 0 {
            let mut query = sqlx::query(drop).bind(namespace);
            for id in batch {
                query = query.bind(&id.as_bytes()[..]);
            }
            query.execute(&mut *connection).await?;
        }
    }
    Ok(())
}

async fn derive(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM held")
        .execute(&mut *connection)
        .await?;
    let mut after = Vec::new();
    loop {
        let page = sqlx::query(
            "SELECT id, namespace, bytes, chunks FROM blob WHERE id > ? ORDER BY id LIMIT ?",
        )
        .bind(after)
        .bind(PAGE)
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = page.last() else { break };
        after = last.try_get(0)?;
        for row in &page {
            let blob = rows::blob_id(row, 0)?;
            if is_whole(connection, blob, rows::end(row, 2)?).await? {
                add(connection, blob, row.try_get(1)?).await?;
            }
        }
    }
    Ok(())
}

/// Whether a blob's manifest leads from its first byte to its last. One that was made from packs may not: parts of a
/// blob that was removed may have been collected.
async fn is_whole(
    connection: &mut SqliteConnection,
    blob: BlobId,
    end: (u64, u64),
) -> Result<bool, sqlx::Error> {
    let mut at = (0, 0);
    let mut position = -1_i64;
    while let Some(row) = next_part(connection, blob, position).await? {
        position = row.try_get(0)?;
        let Ok(part) = Part::decode(row.try_get(1)?, row.try_get(2)?) else {
            return Ok(false);
        };
        if part.blob != blob || (part.first_byte, part.first_chunk) != at {
            return Ok(false);
        }
        let next = part.following();
        at = (next.first_byte, next.first_chunk);
    }
    Ok(at == end)
}

async fn next_part(
    connection: &mut SqliteConnection,
    blob: BlobId,
    position: i64,
) -> Result<Option<SqliteRow>, sqlx::Error> {
    sqlx::query(
        "SELECT first_byte, data, checksum FROM manifest \
         WHERE blob = ? AND first_byte > ? ORDER BY first_byte LIMIT 1",
    )
    .bind(&blob.as_bytes()[..])
    .bind(position)
    .fetch_optional(connection)
    .await
}
