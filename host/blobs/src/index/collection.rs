//! What the collector asks of the index, and what it changes there (see `collect`).

use std::sync::LazyLock;

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use uuid::Uuid;

use super::{BUSY, Index, now, rows};
use crate::pack::Extent;
use crate::{ChunkId, Error};

/// How many chunks one statement moves or forgets. The statements have a fixed shape, so they are prepared once.
const CHANGE: usize = 64;

static MOVE_SQL: LazyLock<String> = LazyLock::new(|| move_sql(CHANGE));
static MOVE_ONE_SQL: LazyLock<String> = LazyLock::new(|| move_sql(1));
static FORGET_SQL: LazyLock<String> = LazyLock::new(|| forget_sql(CHANGE));
static FORGET_ONE_SQL: LazyLock<String> = LazyLock::new(|| forget_sql(1));

/// Only rows that still point to where the chunk was read move: one that another upload has replaced meanwhile
/// stays. The copy was verified when it was read, so a chunk that was quarantined is healed by it.
fn move_sql(rows: usize) -> String {
    format!(
        "WITH moved (id, source, offset, stored_bytes, encoding) AS (VALUES {}) \
         UPDATE chunk SET pack = ?, offset = moved.offset, stored_bytes = moved.stored_bytes, \
             encoding = moved.encoding, quarantined = 0 \
         FROM moved WHERE chunk.id = moved.id AND chunk.pack = moved.source",
        vec!["(?, ?, ?, ?, ?)"; rows].join(", ")
    )
}

fn forget_sql(rows: usize) -> String {
    format!(
        "DELETE FROM chunk WHERE pack = ? AND id IN ({})",
        vec!["?"; rows].join(", ")
    )
}

/// Whether new blobs may lean on a pack: the column `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PackState {
    /// They may.
    InUse,
    /// It is being taken away: nothing leans on it and nothing will.
    Condemned,
    /// Its file is gone.
    Lost,
}

impl PackState {
    pub(super) fn from_column(value: i64) -> Option<PackState> {
        match value {
            0 => Some(PackState::InUse),
            1 => Some(PackState::Condemned),
            2 => Some(PackState::Lost),
            _ => None,
        }
    }
}

/// What the index knows about a pack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackRow {
    pub(crate) id: i64,
    pub(crate) name: Uuid,
    pub(crate) bytes: u64,
    pub(crate) state: PackState,
    /// See the column.
    pub(crate) round: i64,
}

/// One chunk, as a scan of all of them finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkRow {
    pub(crate) id: ChunkId,
    pub(crate) pack: i64,
    pub(crate) stored: u32,
}

/// A chunk that was copied from one pack into another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) id: ChunkId,
    /// The pack it was read from.
    pub(crate) source: i64,
    /// Where it is in the new one.
    pub(crate) extent: Extent,
}

/// What one commit of the collector makes known: a sealed pack of copies.
#[derive(Debug)]
pub(crate) struct MoveCommit {
    pub(crate) round: i64,
    pub(crate) name: Uuid,
    pub(crate) length: u64,
    /// How many records the pack has.
    pub(crate) entries: u64,
    pub(crate) moved: Vec<Moved>,
    /// Packs of which everything that lives is in this new pack and in those before it.
    pub(crate) emptied: Vec<i64>,
}

/// A connection that only reads, for passes over all of the index that must not hold up anybody's look-ups.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    index: &'a Index,
    connection: SqliteConnection,
}

impl Index {
    /// Begins a collection, and says which number it has. From here on, every pack that is leased, or was when
    /// this committed, has that number.
    pub(crate) async fn begin_round(&self) -> Result<i64, Error> {
        let action = "beginning a collection";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let round: i64 =
            sqlx::query_scalar("UPDATE collection SET round = round + 1 RETURNING round")
                .fetch_one(&mut *change)
                .await
                .map_err(&failed)?;
        sqlx::query("UPDATE pack SET round = ? WHERE id IN (SELECT pack FROM lease)")
            .bind(round)
            .execute(&mut *change)
            .await
            .map_err(&failed)?;
        change.commit().await?;
        Ok(round)
    }

    /// Takes these packs out of use, and says which: not one that somebody leases, or has leased since the
    /// collection of this number began.
    pub(crate) async fn condemn(&self, round: i64, packs: &[i64]) -> Result<Vec<i64>, Error> {
        let action = "taking packs out of use";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let condemned = condemn(&mut change, round, packs).await.map_err(&failed)?;
        change.commit().await?;
        Ok(condemned)
    }

    /// Which of these packs nobody leases now.
    pub(crate) async fn unleased(&self, packs: &[i64]) -> Result<Vec<i64>, Error> {
        let failed = self.failed("looking for leases");
        let mut reader = self.reader().await;
        let mut unleased = Vec::new();
        for pack in packs {
            let lease = sqlx::query("SELECT 1 FROM lease WHERE pack = ? LIMIT 1").bind(pack);
            if lease
                .fetch_optional(&mut *reader)
                .await
                .map_err(&failed)?
                .is_none()
            {
                unleased.push(*pack);
            }
        }
        Ok(unleased)
    }

    /// Makes a sealed pack of copies known and its chunks found there; says which of the emptied packs are out
    /// of use by that. Who leases a pack of which something moved holds the new one as well.
    pub(crate) async fn move_chunks(&self, commit: &MoveCommit) -> Result<Vec<i64>, Error> {
        let action = "recording a rewritten pack";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let condemned = move_chunks(&mut change, commit).await.map_err(&failed)?;
        change.commit().await?;
        Ok(condemned)
    }

    /// Forgets these chunks, of those that are in this pack: which is out of use, or they are dead.
    pub(crate) async fn forget_chunks(&self, pack: i64, ids: &[ChunkId]) -> Result<(), Error> {
        let action = "forgetting dead chunks";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let (batches, rest) = ids.as_chunks::<CHANGE>();
        let batches = batches
            .iter()
            .map(|batch| (FORGET_SQL.as_str(), &batch[..]));
        let rest = rest.chunks(1).map(|one| (FORGET_ONE_SQL.as_str(), one));
        for (sql, batch) in batches.chain(rest) {
            let mut query = sqlx::query(sql).bind(pack);
            for id in batch {
                query = query.bind(&id.as_bytes()[..]);
            }
            query.execute(&mut *change).await.map_err(&failed)?;
        }
        change.commit().await
    }

    /// Forgets these packs, which are out of use and of which no chunk is known any more.
    pub(crate) async fn forget_packs(&self, packs: &[i64]) -> Result<(), Error> {
        let action = "forgetting packs";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        for pack in packs {
            for sql in [
                "DELETE FROM lease WHERE pack = ?",
                "DELETE FROM pack WHERE id = ? AND state <> 0",
            ] {
                sqlx::query(sql)
                    .bind(pack)
                    .execute(&mut *change)
                    .await
                    .map_err(&failed)?;
            }
        }
        change.commit().await
    }

    /// How many bytes the complete blobs of a namespace have, and its uploads that are not complete.
    pub(crate) async fn usage(&self, namespace: &str) -> Result<u64, Error> {
        let mut reader = self.reader().await;
        let bytes: Option<i64> = sqlx::query_scalar(
            "SELECT coalesce((SELECT SUM(bytes) FROM blob WHERE namespace = ?1), 0) \
                 + coalesce((SELECT SUM(MAX(bytes, tail_at + length(tail))) FROM upload \
                     WHERE namespace = ?1 AND complete = 0), 0)",
        )
        .bind(namespace)
        .fetch_one(&mut *reader)
        .await
        .map_err(self.failed("adding up what a namespace holds"))?;
        Ok(bytes
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or_default())
    }

    /// Whether the index knows a pack of this name.
    pub(crate) async fn knows_pack(&self, name: Uuid) -> Result<bool, Error> {
        let mut reader = self.reader().await;
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pack WHERE name = ?)")
            .bind(&name.as_bytes()[..])
            .fetch_one(&mut *reader)
            .await
            .map_err(self.failed("looking up a pack"))
    }

    /// Whether it is in use: it names a pack, or has been through a collection, which may have removed the last one.
    pub(crate) async fn is_in_use(&self) -> Result<bool, Error> {
        let mut reader = self.reader().await;
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pack) OR (SELECT round FROM collection) > 0",
        )
        .fetch_one(&mut *reader)
        .await
        .map_err(self.failed("looking for packs"))
    }

    /// When a collection first came upon this pack, which the index does not know; in milliseconds since 1970.
    pub(crate) async fn orphan_seen_at(&self, name: Uuid) -> Result<Option<i64>, Error> {
        let mut reader = self.reader().await;
        sqlx::query_scalar("SELECT seen_at FROM orphan WHERE name = ?")
            .bind(&name.as_bytes()[..])
            .fetch_optional(&mut *reader)
            .await
            .map_err(self.failed("looking up a pack that it does not know"))
    }

    /// Remembers that a collection has come upon this pack, which the index does not know. (Whoever makes it known
    /// forgets that.)
    pub(crate) async fn see_orphan(&self, name: Uuid, now: i64) -> Result<(), Error> {
        let action = "recording a pack that it does not know";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        sqlx::query("INSERT OR IGNORE INTO orphan (name, seen_at) VALUES (?, ?)")
            .bind(&name.as_bytes()[..])
            .bind(now)
            .execute(&mut *change)
            .await
            .map_err(self.failed(action))?;
        change.commit().await
    }

    /// Forgets of the packs that it does not know all but these: they are gone, or it knows them now.
    pub(crate) async fn forget_orphans(&self, but: &[Uuid]) -> Result<(), Error> {
        let action = "forgetting packs that it did not know";
        let failed = self.failed(action);
        let seen: Vec<Vec<u8>> = {
            let mut reader = self.reader().await;
            let seen = sqlx::query_scalar("SELECT name FROM orphan");
            seen.fetch_all(&mut *reader).await.map_err(&failed)?
        };
        let gone: Vec<Vec<u8>> = seen
            .into_iter()
            .filter(|name| !but.iter().any(|kept| kept.as_bytes()[..] == name[..]))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        for name in gone {
            sqlx::query("DELETE FROM orphan WHERE name = ?")
                .bind(name)
                .execute(&mut *change)
                .await
                .map_err(&failed)?;
        }
        change.commit().await
    }

    /// At most how many different chunks complete blobs name.
    pub(crate) async fn most_live_chunks(&self) -> Result<u64, Error> {
        let failed = self.failed("counting chunks");
        let mut reader = self.reader().await;
        let mut counts = [0_i64; 2];
        let sums = [
            "SELECT SUM(chunks) FROM blob",
            "SELECT SUM(entries) FROM pack",
        ];
        for (count, sql) in counts.iter_mut().zip(sums) {
            let sum: Option<i64> = sqlx::query_scalar(sql)
                .fetch_one(&mut *reader)
                .await
                .map_err(&failed)?;
            *count = sum.unwrap_or_default();
        }
        let [named, stored] = counts;
        Ok(u64::try_from(named.min(stored)).unwrap_or_default())
    }

    /// Opens a connection for passes over all of the index.
    pub(crate) async fn scan(&self) -> Result<Scan<'_>, Error> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(BUSY)
            .pragma("query_only", "ON");
        let connection = SqliteConnection::connect_with(&options)
            .await
            .map_err(self.failed("opening it once more"))?;
        Ok(Scan {
            index: self,
            connection,
        })
    }
}

impl Scan<'_> {
    /// Packs in the order of their rows, from the one after `after`.
    pub(crate) async fn packs(&mut self, after: i64, limit: u32) -> Result<Vec<PackRow>, Error> {
        let failed = self.index.failed("listing packs");
        sqlx::query(
            "SELECT id, name, bytes, state, round FROM pack WHERE id > ? ORDER BY id LIMIT ?",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(&mut self.connection)
        .await
        .map_err(&failed)?
        .iter()
        .map(rows::pack)
        .collect::<Result<_, _>>()
        .map_err(&failed)
    }

    /// Chunks in the order of their ids, from the one after `after`.
    pub(crate) async fn chunks(
        &mut self,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<Vec<ChunkRow>, Error> {
        let action = "listing chunks";
        self.index.disk.before_turn(action);
        let failed = self.index.failed(action);
        let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        sqlx::query("SELECT id, pack, stored_bytes FROM chunk WHERE id > ? ORDER BY id LIMIT ?")
            .bind(after)
            .bind(limit)
            .fetch_all(&mut self.connection)
            .await
            .map_err(&failed)?
            .iter()
            .map(rows::chunk)
            .collect::<Result<_, _>>()
            .map_err(&failed)
    }

    /// Closes the connection. (A scan that is dropped closes it too, a little later.)
    pub(crate) async fn close(self) -> Result<(), Error> {
        self.connection
            .close()
            .await
            .map_err(self.index.failed("closing it"))
    }
}

/// The one statement that decides: it reads the leases in the transaction that takes the packs out of use.
async fn condemn(
    connection: &mut SqliteConnection,
    round: i64,
    packs: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let mut condemned = Vec::new();
    for pack in packs {
        let changed = sqlx::query(
            "UPDATE pack SET state = 1 WHERE id = ?1 AND state = 0 AND round < ?2 \
                 AND NOT EXISTS (SELECT 1 FROM lease WHERE lease.pack = ?1)",
        )
        .bind(pack)
        .bind(round)
        .execute(&mut *connection)
        .await?
        .rows_affected();
        if changed > 0 {
            condemned.push(*pack);
        }
    }
    Ok(condemned)
}

async fn move_chunks(
    connection: &mut SqliteConnection,
    commit: &MoveCommit,
) -> Result<Vec<i64>, sqlx::Error> {
    let pack: i64 = sqlx::query_scalar(
        "INSERT INTO pack (name, bytes, entries, created_at, round) VALUES (?, ?, ?, ?, ?) \
         RETURNING id",
    )
    .bind(&commit.name.as_bytes()[..])
    .bind(rows::signed(commit.length))
    .bind(rows::signed(commit.entries))
    .bind(now())
    .bind(commit.round)
    .fetch_one(&mut *connection)
    .await?;
    no_orphan(connection, commit.name).await?;
    let mut sources: Vec<i64> = commit.moved.iter().map(|moved| moved.source).collect();
    sources.sort_unstable();
    sources.dedup();
    for source in &sources {
        inherit_leases(connection, *source, pack).await?;
    }
    let (batches, rest) = commit.moved.as_chunks::<CHANGE>();
    let batches = batches.iter().map(|batch| (MOVE_SQL.as_str(), &batch[..]));
    let rest = rest.chunks(1).map(|one| (MOVE_ONE_SQL.as_str(), one));
    for (sql, batch) in batches.chain(rest) {
        let mut query = sqlx::query(sql);
        for moved in batch {
            query = query
                .bind(&moved.id.as_bytes()[..])
                .bind(moved.source)
                .bind(rows::signed(moved.extent.offset))
                .bind(moved.extent.stored)
                .bind(moved.extent.encoding.to_byte());
        }
        query.bind(pack).execute(&mut *connection).await?;
    }
    condemn(connection, commit.round, &commit.emptied).await
}

/// A pack that is made known is none that the index does not know.
pub(super) async fn no_orphan(
    connection: &mut SqliteConnection,
    name: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM orphan WHERE name = ?")
        .bind(&name.as_bytes()[..])
        .execute(connection)
        .await?;
    Ok(())
}

/// Whoever holds `from` holds `to` as well.
async fn inherit_leases(
    connection: &mut SqliteConnection,
    from: i64,
    to: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT OR IGNORE INTO lease (pack, holder) SELECT ?2, holder FROM lease WHERE pack = ?1",
    )
    .bind(from)
    .bind(to)
    .execute(connection)
    .await?;
    Ok(())
}

/// Before the chunks of `pack` are named: whoever leans on a chunk that may be replaced by one of them holds
/// `pack` as well. Chunks are replaced only where they were found wrong, or where their pack is out of use.
pub(super) async fn inherit_replaced(
    connection: &mut SqliteConnection,
    pack: i64,
) -> Result<(), sqlx::Error> {
    let sources: Vec<i64> = sqlx::query_scalar(
        "SELECT DISTINCT lease.pack FROM lease JOIN pack ON pack.id = lease.pack \
         WHERE pack.state <> 0 OR lease.pack IN \
             (SELECT pack FROM chunk INDEXED BY chunk_quarantined WHERE quarantined <> 0)",
    )
    .fetch_all(&mut *connection)
    .await?;
    for source in sources {
        inherit_leases(connection, source, pack).await?;
    }
    Ok(())
}
