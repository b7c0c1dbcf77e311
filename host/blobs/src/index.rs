//! The chunk index: an `SQLite` file beside the packs. One connection writes; a few read.
//!
//! Opening it takes as long for ten million chunks as for one: nothing reads all of a large table.
//!
//! Every commit is synced before it returns (`synchronous=FULL`): a commit that names a pack or a blob has to
//! be durable, and the others (a lease for the first chunk that is found in a pack) are rare.

mod change;
mod collection;
mod held;
mod mark;
mod mend;
mod probe;
mod rows;
mod survey;
mod uploads;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{Connection, Row, Sqlite};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::disk::Disk;
use crate::manifest::{BlobRecord, EncodedPart, Part};
use crate::pack::{Entry, Extent, Kind};
use crate::reader::Suspect;
use crate::upload::UploadProgress;
use crate::{BlobId, BlobInfo, ChunkId, ChunkerParams, Digest, Error};

use change::Writer;

pub(crate) use collection::{MoveCommit, Moved, PackRow, PackState};
pub(crate) use mark::{make_mark, mark};
pub(crate) use mend::Adoption;
pub use probe::IndexProbe;
pub(crate) use survey::KnownPack;

/// `SQLite` before this can corrupt a write-ahead log when two connections write and checkpoint at once.
const MINIMUM_SQLITE: (u32, u32, u32) = (3, 51, 3);
const MINIMUM_SQLITE_TEXT: &str = "3.51.3";

/// How many connections read. Readers of blobs share them; each query takes well under a millisecond.
const READERS: usize = 2;

/// How long a statement waits for another connection's lock; only a checkpoint ever makes it wait.
pub(crate) const BUSY: Duration = Duration::from_secs(10);

/// How many chunks one query looks up. The statement has a fixed shape, so it is prepared once.
const LOOKUP: usize = 32;

/// How many chunks one statement inserts.
const INSERT: usize = 64;

/// `pack.state` of a pack whose file is gone.
const PACK_LOST: i64 = 2;

/// How much of an index that is being built stays in memory: its chunks come in the order of their digests, which is
/// none, so every page is touched again and again. (Negative: in KiB.)
const BUILD_CACHE: &str = "-65536";

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

static LOOKUP_SQL: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT c.id, c.pack, p.name, c.offset, c.stored_bytes, c.bytes, c.encoding, \
                c.quarantined = 0 AND p.state = 0 \
         FROM chunk c JOIN pack p ON p.id = c.pack WHERE c.id IN ({})",
        vec!["?"; LOOKUP].join(", ")
    )
});

/// Whoever died holds the packs that it has written, since the commits that made them known: so its leases lead to the
/// parts of its manifest, and nothing is read but what the dead have left. The lease of an upload that comes in pieces
/// ends with the upload, whatever the clock says meanwhile.
const FORGET_THE_DEAD: [&str; 2] = [
    "DELETE FROM manifest WHERE blob IN (SELECT DISTINCT holder FROM lease \
         WHERE holder NOT IN (SELECT id FROM upload) AND holder NOT IN (SELECT id FROM blob))",
    "DELETE FROM lease WHERE holder NOT IN (SELECT id FROM upload)",
];

static INSERT_SQL: LazyLock<String> = LazyLock::new(|| insert_sql(INSERT));
static INSERT_ONE_SQL: LazyLock<String> = LazyLock::new(|| insert_sql(1));

/// An index whose every commit is durable.
fn durable(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
}

/// A chunk that is indexed already stays where it is, unless it was found to be wrong or its pack is being
/// taken away: then the copy that was just written takes its place. A row with another length is wrong, for the
/// name says what the bytes are.
fn insert_sql(rows: usize) -> String {
    format!(
        "INSERT INTO chunk (id, pack, offset, stored_bytes, bytes, encoding) VALUES {} \
         ON CONFLICT (id) DO UPDATE SET pack = excluded.pack, offset = excluded.offset, \
             stored_bytes = excluded.stored_bytes, bytes = excluded.bytes, \
             encoding = excluded.encoding, quarantined = 0 \
         WHERE chunk.quarantined <> 0 OR chunk.bytes <> excluded.bytes \
             OR COALESCE((SELECT state FROM pack WHERE pack.id = chunk.pack), 1) <> 0",
        vec!["(?, ?, ?, ?, ?, ?)"; rows].join(", ")
    )
}

/// Where a chunk is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    /// The pack's row.
    pub(crate) pack: i64,
    /// The pack's name.
    pub(crate) name: Uuid,
    /// Where in the pack.
    pub(crate) extent: Extent,
    /// Whether a new blob may lean on it: neither quarantined nor in a pack that is being taken away.
    pub(crate) usable: bool,
}

/// Chunks that were found.
pub(crate) type Found = HashMap<ChunkId, Stored>;

/// What one commit makes known: a sealed pack, and with an upload's last one, the blob.
#[derive(Debug)]
pub(crate) struct PackCommit {
    pub(crate) holder: BlobId,
    pub(crate) name: Uuid,
    pub(crate) length: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) parts: Vec<EncodedPart>,
    /// How far the upload is with this pack, if it is one that comes in pieces.
    pub(crate) upload: Option<UploadProgress>,
    pub(crate) blob: Option<BlobRecord>,
}

/// The open index.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    writer: Mutex<Writer>,
    readers: Box<[Mutex<SqliteConnection>]>,
    turn: AtomicUsize,
    /// Whether the store is known to be marked: see [`mark`](mod@mark).
    marked: AtomicBool,
}

impl Index {
    /// Opens the index, or makes it; forgets uploads that did not survive.
    pub(crate) async fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Index, Error> {
        let index = Index::connect(disk, path, durable(path).create_if_missing(true)).await?;
        index.migrate().await?;
        index.forget_the_dead().await?;
        index.derive_held_once().await?;
        Ok(index)
    }

    /// Opens an index that is there, as it is.
    pub(crate) async fn inspect(disk: Arc<dyn Disk>, path: &Path) -> Result<Index, Error> {
        Index::connect(disk, path, durable(path)).await
    }

    /// Makes an index that nobody leans on yet: nothing of it is durable until its file is synced.
    pub(crate) async fn create_beside(disk: Arc<dyn Disk>, path: &Path) -> Result<Index, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Memory)
            .synchronous(SqliteSynchronous::Off)
            .pragma("cache_size", BUILD_CACHE)
            .busy_timeout(BUSY);
        let index = Index::connect(disk, path, options).await?;
        index.migrate().await?;
        Ok(index)
    }

    async fn connect(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: SqliteConnectOptions,
    ) -> Result<Index, Error> {
        let failed = |source| Error::index("opening it", path, source);
        let mut writer = SqliteConnection::connect_with(&options)
            .await
            .map_err(failed)?;
        let found: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&mut writer)
            .await
            .map_err(failed)?;
        if rows::version(&found).is_none_or(|version| version < MINIMUM_SQLITE) {
            return Err(Error::SqliteTooOld {
                found,
                minimum: MINIMUM_SQLITE_TEXT,
            });
        }
        // From here on: what is renewed after a failure is the index that was opened, or none.
        let options = options.create_if_missing(false);
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let options = options.clone().pragma("query_only", "ON");
            let reader = SqliteConnection::connect_with(&options)
                .await
                .map_err(failed)?;
            readers.push(Mutex::new(reader));
        }
        Ok(Index {
            path: path.to_path_buf(),
            disk,
            writer: Mutex::new(Writer::new(options, writer)),
            readers: readers.into_boxed_slice(),
            turn: AtomicUsize::new(0),
            marked: AtomicBool::new(false),
        })
    }

    /// Brings the tables to the form that this version knows.
    async fn migrate(&self) -> Result<(), Error> {
        let action = "preparing it";
        self.disk
            .before_commit(&self.path)
            .map_err(|source| Error::io(action, &self.path, source))?;
        let mut writer = self.writer.lock().await;
        let connection = writer.sound().await.map_err(self.failed(action))?;
        MIGRATIONS
            .run(connection)
            .await
            .map_err(|error| match error {
                MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
                    Error::index(action, &self.path, source)
                }
                other => Error::Format {
                    path: self.path.clone(),
                    detail: other.to_string(),
                },
            })
    }

    /// Closes every connection; the last one writes the log back into the file.
    pub(crate) async fn close(self) {
        for reader in self.readers {
            // A connection that cannot be closed well is closed all the same.
            let _ = reader.into_inner().close().await;
        }
        self.writer.into_inner().close().await;
    }

    /// The index's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> Error + '_ {
        move |source| Error::index(action, &self.path, source)
    }

    pub(crate) async fn reader(&self) -> MutexGuard<'_, SqliteConnection> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.readers.len();
        self.readers[turn].lock().await
    }

    /// The connection that writes, for the change that `action` names.
    async fn writer(&self, action: &'static str) -> MutexGuard<'_, Writer> {
        self.disk.before_turn(action);
        self.writer.lock().await
    }

    async fn forget_the_dead(&self) -> Result<(), Error> {
        let action = "forgetting uploads that died";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        for sql in FORGET_THE_DEAD {
            sqlx::query(sql)
                .execute(&mut *change)
                .await
                .map_err(&failed)?;
        }
        change.commit().await
    }

    /// Where these chunks are stored, of those that are.
    pub(crate) async fn lookup(&self, ids: &[ChunkId]) -> Result<Found, Error> {
        let action = "looking up chunks";
        self.disk.before_turn(action);
        let mut found = Found::new();
        for ids in ids.chunks(LOOKUP) {
            lookup(&mut *self.reader().await, ids, &mut found)
                .await
                .map_err(self.failed(action))?;
        }
        Ok(found)
    }

    /// Where these chunks are stored, of those that a new blob may lean on; their packs are leased to
    /// `holder` in the same transaction, so no collector that sees the chunks can miss the lease.
    pub(crate) async fn lease(&self, holder: BlobId, ids: &[ChunkId]) -> Result<Found, Error> {
        let action = "leasing packs";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let mut found = Found::new();
        for ids in ids.chunks(LOOKUP) {
            lookup(&mut change, ids, &mut found)
                .await
                .map_err(&failed)?;
        }
        found.retain(|_, stored| stored.usable);
        let mut packs: Vec<i64> = found.values().map(|stored| stored.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        for pack in packs {
            lease_pack(&mut change, holder, pack)
                .await
                .map_err(&failed)?;
        }
        change.commit().await?;
        Ok(found)
    }

    /// Makes a sealed pack known, and with the last one its blob; durable when this returns.
    pub(crate) async fn commit_pack(&self, commit: &PackCommit) -> Result<(), Error> {
        let action = "recording a pack";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        commit_pack(&mut change, commit)
            .await
            .map_err(|error| uploads::gone_or(error, self.failed(action)))?;
        change.commit().await?;
        self.mark();
        Ok(())
    }

    /// Forgets an upload that will not be completed.
    pub(crate) async fn forget_upload(&self, holder: BlobId) -> Result<(), Error> {
        let action = "forgetting an upload";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        sqlx::query("DELETE FROM manifest WHERE blob = ?1 AND ?1 NOT IN (SELECT id FROM blob)")
            .bind(&holder.as_bytes()[..])
            .execute(&mut *change)
            .await
            .map_err(&failed)?;
        release(&mut change, holder).await.map_err(&failed)?;
        change.commit().await
    }

    /// Marks a chunk, or all of a pack, as wrong: no new blob leans on it, and the next upload of it
    /// replaces it.
    pub(crate) async fn quarantine(&self, suspect: Suspect) -> Result<(), Error> {
        let query = match &suspect {
            Suspect::Unnamed => return Ok(()),
            Suspect::Chunk { id, pack } => {
                sqlx::query("UPDATE chunk SET quarantined = 1 WHERE id = ? AND pack = ?")
                    .bind(&id.as_bytes()[..])
                    .bind(pack)
            }
            // One that is being taken away is none that was lost.
            Suspect::Pack { pack } => {
                sqlx::query("UPDATE pack SET state = ? WHERE id = ? AND state = 0")
                    .bind(PACK_LOST)
                    .bind(pack)
            }
        };
        let action = "quarantining what is corrupt";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        query
            .execute(&mut *change)
            .await
            .map_err(self.failed(action))?;
        change.commit().await
    }

    /// How many chunks are quarantined, and how many packs are known to be gone.
    pub(crate) async fn quarantined(&self) -> Result<(u64, u64), Error> {
        let failed = self.failed("counting what is quarantined");
        let mut reader = self.reader().await;
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM chunk WHERE quarantined <> 0), \
                    (SELECT COUNT(*) FROM pack WHERE state = ?)",
        )
        .bind(PACK_LOST)
        .fetch_one(&mut *reader)
        .await
        .map_err(&failed)?;
        Ok((
            rows::unsigned(&row, 0).map_err(&failed)?,
            rows::unsigned(&row, 1).map_err(&failed)?,
        ))
    }

    /// A complete blob, and what cut it.
    pub(crate) async fn blob(
        &self,
        id: BlobId,
    ) -> Result<Option<(BlobInfo, ChunkerParams)>, Error> {
        let query = sqlx::query(
            "SELECT id, namespace, bytes, stored_bytes, chunks, blake3, sha256, created_at, chunker \
             FROM blob WHERE id = ?",
        );
        self.one_blob(query.bind(&id.as_bytes()[..])).await
    }

    /// The namespace's newest complete blob with this BLAKE3, and what cut it.
    pub(crate) async fn blob_of(
        &self,
        namespace: &str,
        blake3: &Digest,
    ) -> Result<Option<(BlobInfo, ChunkerParams)>, Error> {
        let query = sqlx::query(
            "SELECT id, namespace, bytes, stored_bytes, chunks, blake3, sha256, created_at, chunker \
             FROM blob WHERE namespace = ? AND blake3 = ? ORDER BY id DESC LIMIT 1",
        );
        let query = query.bind(namespace).bind(&blake3.as_bytes()[..]);
        self.one_blob(query).await
    }

    async fn one_blob(
        &self,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<Option<(BlobInfo, ChunkerParams)>, Error> {
        let failed = self.failed("reading a blob");
        let row = query
            .fetch_optional(&mut *self.reader().await)
            .await
            .map_err(&failed)?;
        row.map(|row| Ok((rows::blob(&row)?, rows::chunker(&row, 8)?)))
            .transpose()
            .map_err(&failed)
    }

    /// Complete blobs in the order of their ids, from the one after `after`.
    pub(crate) async fn blobs(
        &self,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Vec<BlobInfo>, Error> {
        let action = "listing blobs";
        self.disk.before_turn(action);
        let failed = self.failed(action);
        let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        let mut reader = self.reader().await;
        let rows = sqlx::query(
            "SELECT id, namespace, bytes, stored_bytes, chunks, blake3, sha256, created_at \
             FROM blob WHERE id > ? ORDER BY id LIMIT ?",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(&mut *reader)
        .await
        .map_err(&failed)?;
        rows.iter()
            .map(rows::blob)
            .collect::<Result<_, _>>()
            .map_err(&failed)
    }

    /// Forgets a complete blob. Its chunks stay for the collector.
    pub(crate) async fn remove(&self, id: BlobId) -> Result<bool, Error> {
        let action = "removing a blob";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let removed =
            sqlx::query("DELETE FROM blob WHERE id = ? RETURNING namespace, bytes, chunks")
                .bind(&id.as_bytes()[..])
                .fetch_optional(&mut *change)
                .await
                .map_err(&failed)?;
        if let Some(row) = &removed {
            let namespace: &str = row.try_get(0).map_err(&failed)?;
            let end = rows::end(row, 1).map_err(&failed)?;
            held::remove(&mut change, id, namespace, end)
                .await
                .map_err(&failed)?;
            sqlx::query("DELETE FROM manifest WHERE blob = ?")
                .bind(&id.as_bytes()[..])
                .execute(&mut *change)
                .await
                .map_err(&failed)?;
        }
        change.commit().await?;
        Ok(removed.is_some())
    }

    /// The part of a blob's manifest that covers the byte at `position`, if the index has it.
    pub(crate) async fn part(&self, blob: BlobId, position: u64) -> Result<Option<Part>, Error> {
        let failed = self.failed("reading a manifest");
        let mut reader = self.reader().await;
        let row = sqlx::query(
            "SELECT data, checksum FROM manifest \
             WHERE blob = ? AND first_byte <= ? ORDER BY first_byte DESC LIMIT 1",
        )
        .bind(&blob.as_bytes()[..])
        .bind(rows::signed(position))
        .fetch_optional(&mut *reader)
        .await
        .map_err(&failed)?;
        drop(reader);
        let Some(row) = row else { return Ok(None) };
        let data: &[u8] = row.try_get(0).map_err(&failed)?;
        let checksum: &[u8] = row.try_get(1).map_err(&failed)?;
        let corrupt = |detail: &str| Error::Corrupt {
            what: format!("the manifest of blob {blob} around byte {position}"),
            place: "the index".to_owned(),
            detail: detail.to_owned(),
        };
        let part = Part::decode(data, checksum).map_err(corrupt)?;
        if part.blob != blob {
            return Err(corrupt("it belongs to another blob"));
        }
        Ok((position < part.first_byte + part.bytes()).then_some(part))
    }
}

/// The time, in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

async fn lookup(
    connection: &mut SqliteConnection,
    ids: &[ChunkId],
    found: &mut Found,
) -> Result<(), sqlx::Error> {
    let Some(last) = ids.last() else {
        return Ok(());
    };
    let mut query = sqlx::query(LOOKUP_SQL.as_str());
    for n in 0..LOOKUP {
        query = query.bind(&ids.get(n).unwrap_or(last).as_bytes()[..]);
    }
    for row in query.fetch_all(connection).await? {
        found.insert(rows::digest(&row, 0)?, rows::stored(&row)?);
    }
    Ok(())
}

async fn lease_pack(
    connection: &mut SqliteConnection,
    holder: BlobId,
    pack: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT OR IGNORE INTO lease (pack, holder) VALUES (?, ?)")
        .bind(pack)
        .bind(&holder.as_bytes()[..])
        .execute(&mut *connection)
        .await?;
    // A collection that runs has not marked what is leaned on from now on.
    sqlx::query("UPDATE pack SET round = (SELECT round FROM collection) WHERE id = ?")
        .bind(pack)
        .execute(connection)
        .await?;
    Ok(())
}

async fn release(connection: &mut SqliteConnection, holder: BlobId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM lease WHERE holder = ?")
        .bind(&holder.as_bytes()[..])
        .execute(connection)
        .await?;
    Ok(())
}

async fn commit_pack(
    change: &mut SqliteConnection,
    commit: &PackCommit,
) -> Result<(), sqlx::Error> {
    let pack =
        sqlx::query("INSERT INTO pack (name, bytes, entries, created_at) VALUES (?, ?, ?, ?)")
            .bind(&commit.name.as_bytes()[..])
            .bind(rows::signed(commit.length))
            .bind(rows::signed(commit.entries.len() as u64))
            .bind(now())
            .execute(&mut *change)
            .await?
            .last_insert_rowid();
    collection::no_orphan(change, commit.name).await?;
    lease_pack(change, commit.holder, pack).await?;
    collection::inherit_replaced(change, pack).await?;
    insert_chunks(change, commit, pack).await?;
    for part in &commit.parts {
        sqlx::query("INSERT INTO manifest (blob, first_byte, data, checksum) VALUES (?, ?, ?, ?)")
            .bind(&commit.holder.as_bytes()[..])
            .bind(rows::signed(part.first_byte))
            .bind(&part.data[..])
            .bind(&part.checksum.as_bytes()[..])
            .execute(&mut *change)
            .await?;
    }
    if let Some(upload) = &commit.upload {
        let complete = commit.blob.is_some();
        uploads::progress(change, commit.holder, upload, complete).await?;
    }
    if let Some(record) = &commit.blob {
        insert_blob(change, record).await?;
        held::add(change, commit.holder, &record.info.namespace).await?;
        release(change, commit.holder).await?;
    }
    Ok(())
}

async fn insert_chunks(
    connection: &mut SqliteConnection,
    commit: &PackCommit,
    pack: i64,
) -> Result<(), sqlx::Error> {
    let mut chunks: Vec<&Entry> = commit
        .entries
        .iter()
        .filter(|entry| entry.kind == Kind::Chunk)
        .collect();
    // In the order of the key, so that neighbours meet in the same page.
    chunks.sort_unstable_by_key(|entry| entry.id);
    let inserted = insert_rows(connection, &chunks, pack).await?;
    if inserted < chunks.len() as u64 {
        // Another upload was first with some of them. This one leans on that copy from now on, so it must
        // hold the pack that has it.
        let ids: Vec<ChunkId> = chunks.iter().map(|entry| entry.id).collect();
        let mut found = Found::new();
        for ids in ids.chunks(LOOKUP) {
            lookup(connection, ids, &mut found).await?;
        }
        let mut packs: Vec<i64> = found.values().map(|stored| stored.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        for other in packs {
            lease_pack(connection, commit.holder, other).await?;
        }
    }
    Ok(())
}

/// Places chunks in a pack, unless they are in a sound one; says how many were placed.
async fn insert_rows(
    connection: &mut SqliteConnection,
    chunks: &[&Entry],
    pack: i64,
) -> Result<u64, sqlx::Error> {
    let mut inserted = 0;
    let (batches, rest) = chunks.as_chunks::<INSERT>();
    let batches = batches
        .iter()
        .map(|batch| (INSERT_SQL.as_str(), &batch[..]));
    let rest = rest.chunks(1).map(|one| (INSERT_ONE_SQL.as_str(), one));
    for (sql, batch) in batches.chain(rest) {
        let mut query = sqlx::query(sql);
        for entry in batch {
            query = query
                .bind(&entry.id.as_bytes()[..])
                .bind(pack)
                .bind(rows::signed(entry.extent.offset))
                .bind(entry.extent.stored)
                .bind(entry.extent.bytes)
                .bind(entry.extent.encoding.to_byte());
        }
        inserted += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(inserted)
}

async fn insert_blob(
    connection: &mut SqliteConnection,
    record: &BlobRecord,
) -> Result<(), sqlx::Error> {
    let info = &record.info;
    let chunker = serde_json::to_string(&record.chunker)
        .map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query(
        "INSERT INTO blob (id, namespace, bytes, stored_bytes, chunks, blake3, sha256, chunker, created_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&info.id.as_bytes()[..])
    .bind(&info.namespace)
    .bind(rows::signed(info.bytes))
    .bind(rows::signed(info.stored_bytes))
    .bind(rows::signed(info.chunks))
    .bind(&info.blake3.as_bytes()[..])
    // The column takes no NULL: no digest is no bytes.
    .bind(info.sha256.map_or(Vec::new(), |sha256| sha256.as_bytes().to_vec()))
    .bind(chunker)
    .bind(info.created_at)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
