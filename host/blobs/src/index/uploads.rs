//! Uploads that come in pieces, as the index has them.

use std::sync::LazyLock;

use bytes::Bytes;
use sqlx::Row;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::mend::insert_part;
use super::{Index, lease_pack, now, rows};
use crate::manifest::EncodedPart;
use crate::upload::{Upload, UploadProgress, UploadRow};
use crate::{BlobId, BlobInfo, ChunkId, Error};

/// How many expired uploads are looked up at once.
const PAGE: u32 = 1000;

const COLUMNS: &str = "id, namespace, label, length, created_at, expires_at, complete, \
                       bytes, stored_bytes, chunks, tail_at, tail";

static SELECT_SQL: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS} FROM upload WHERE id = ? AND expires_at > ?"));
static ANY_SQL: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS} FROM upload WHERE id = ?"));
static DELETE_SQL: LazyLock<String> =
    LazyLock::new(|| format!("DELETE FROM upload WHERE id = ? RETURNING {COLUMNS}"));
static TAKE_SQL: LazyLock<String> = LazyLock::new(|| {
    format!("DELETE FROM upload WHERE id = ? AND complete <> 0 RETURNING {COLUMNS}")
});

impl Index {
    pub(crate) async fn insert_upload(&self, upload: &Upload) -> Result<(), Error> {
        let action = "recording an upload";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        sqlx::query(
            "INSERT INTO upload (id, namespace, label, length, created_at, expires_at, complete, bytes) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&upload.id.as_bytes()[..])
        .bind(&upload.namespace)
        .bind(&upload.label)
        .bind(upload.length.map(rows::signed))
        .bind(upload.created_at)
        .bind(upload.expires_at)
        .bind(upload.complete)
        .bind(rows::signed(upload.offset))
        .execute(&mut *change)
        .await
        .map_err(self.failed(action))?;
        change.commit().await
    }

    pub(crate) async fn upload(&self, id: BlobId) -> Result<Option<UploadRow>, Error> {
        let failed = self.failed("reading an upload");
        let mut reader = self.reader().await;
        let row = sqlx::query(SELECT_SQL.as_str())
            .bind(&id.as_bytes()[..])
            .bind(now())
            .fetch_optional(&mut *reader)
            .await
            .map_err(&failed)?;
        row.as_ref().map(upload_row).transpose().map_err(&failed)
    }

    pub(crate) async fn uploads(&self, namespace: &str) -> Result<u64, Error> {
        let failed = self.failed("counting uploads");
        let mut reader = self.reader().await;
        let row = sqlx::query("SELECT count(*) FROM upload WHERE namespace = ? AND expires_at > ?")
            .bind(namespace)
            .bind(now())
            .fetch_one(&mut *reader)
            .await
            .map_err(&failed)?;
        rows::unsigned(&row, 0).map_err(&failed)
    }

    pub(crate) async fn set_upload_length(&self, id: BlobId, length: u64) -> Result<bool, Error> {
        let action = "recording an upload's length";
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let changed = sqlx::query("UPDATE upload SET length = coalesce(length, ?) WHERE id = ?")
            .bind(rows::signed(length))
            .bind(&id.as_bytes()[..])
            .execute(&mut *change)
            .await
            .map_err(self.failed(action))?;
        change.commit().await?;
        Ok(changed.rows_affected() > 0)
    }

    /// Complete blobs in the order of their ids that are no uploads any more. (The collector looks at all of them.)
    pub(crate) async fn blobs_without_uploads(
        &self,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Vec<BlobInfo>, Error> {
        let failed = self.failed("listing blobs");
        let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        let mut reader = self.reader().await;
        let rows = sqlx::query(
            "SELECT id, namespace, bytes, stored_bytes, chunks, blake3, sha256, created_at \
             FROM blob WHERE id > ? AND id NOT IN (SELECT id FROM upload) ORDER BY id LIMIT ?",
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

    /// Deletes the row of an upload whose blob is complete.
    pub(crate) async fn take_upload(&self, id: BlobId) -> Result<Option<Upload>, Error> {
        self.delete_upload(id, TAKE_SQL.as_str()).await
    }

    /// Deletes the row of an upload.
    pub(crate) async fn forget_upload_row(&self, id: BlobId) -> Result<Option<Upload>, Error> {
        self.delete_upload(id, DELETE_SQL.as_str()).await
    }

    async fn delete_upload(&self, id: BlobId, sql: &'static str) -> Result<Option<Upload>, Error> {
        let action = "forgetting an upload";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        let row = sqlx::query(sql)
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *change)
            .await
            .map_err(&failed)?;
        let row = row.as_ref().map(upload_row).transpose().map_err(&failed)?;
        change.commit().await?;
        Ok(row.map(|row| row.upload))
    }

    pub(crate) async fn expired_uploads(&self) -> Result<Vec<BlobId>, Error> {
        let query = sqlx::query("SELECT id FROM upload WHERE expires_at <= ? LIMIT ?");
        self.ids(query.bind(now()).bind(PAGE)).await
    }

    pub(crate) async fn complete_uploads(&self) -> Result<Vec<BlobId>, Error> {
        self.ids(sqlx::query("SELECT id FROM upload WHERE complete <> 0"))
            .await
    }

    async fn ids(&self, query: Query<'_, Sqlite, SqliteArguments>) -> Result<Vec<BlobId>, Error> {
        let failed = self.failed("looking for uploads");
        let mut reader = self.reader().await;
        let found = query.fetch_all(&mut *reader).await.map_err(&failed)?;
        found
            .iter()
            .map(|row| rows::blob_id(row, 0))
            .collect::<Result<_, _>>()
            .map_err(&failed)
    }

    /// Whether there is an upload of this name, whatever its time.
    pub(crate) async fn has_upload(&self, id: BlobId) -> Result<bool, Error> {
        let mut reader = self.reader().await;
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM upload WHERE id = ?)")
            .bind(&id.as_bytes()[..])
            .fetch_one(&mut *reader)
            .await
            .map_err(self.failed("looking up an upload"))
    }

    /// An upload, whatever its time.
    pub(crate) async fn upload_row(&self, id: BlobId) -> Result<Option<UploadRow>, Error> {
        let failed = self.failed("reading an upload");
        let mut reader = self.reader().await;
        let row = sqlx::query(ANY_SQL.as_str())
            .bind(&id.as_bytes()[..])
            .fetch_optional(&mut *reader)
            .await
            .map_err(&failed)?;
        row.as_ref().map(upload_row).transpose().map_err(&failed)
    }

    /// The names of all uploads, whatever their time.
    pub(crate) async fn upload_ids(&self) -> Result<Vec<BlobId>, Error> {
        self.ids(sqlx::query("SELECT id FROM upload ORDER BY id"))
            .await
    }

    /// Makes an upload known that another index had, as far as that said it was. The parts of its manifest follow,
    /// if it is not complete; whatever is known here of a blob of that name is not what was told of it.
    pub(crate) async fn carry_upload(&self, row: &UploadRow) -> Result<(), Error> {
        let action = "recording an upload";
        let failed = self.failed(action);
        let upload = &row.upload;
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        if !upload.complete {
            for sql in [
                "DELETE FROM blob WHERE id = ?",
                "DELETE FROM manifest WHERE blob = ?",
            ] {
                sqlx::query(sql)
                    .bind(&upload.id.as_bytes()[..])
                    .execute(&mut *change)
                    .await
                    .map_err(&failed)?;
            }
        }
        sqlx::query(
            "INSERT INTO upload (id, namespace, label, length, created_at, expires_at, complete, \
                 bytes, stored_bytes, chunks, tail_at, tail) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&upload.id.as_bytes()[..])
        .bind(&upload.namespace)
        .bind(&upload.label)
        .bind(upload.length.map(rows::signed))
        .bind(upload.created_at)
        .bind(upload.expires_at)
        .bind(upload.complete)
        .bind(rows::signed(row.bytes))
        .bind(rows::signed(row.stored_bytes))
        .bind(rows::signed(row.chunks))
        .bind(rows::signed(row.bytes))
        .bind(&row.tail[..])
        .execute(&mut *change)
        .await
        .map_err(&failed)?;
        change.commit().await
    }

    /// Makes a part of such an upload's manifest known, and leases the packs that have its chunks and the one that records
    /// it: once the blob is complete, nothing else does.
    pub(crate) async fn carry_part(
        &self,
        id: BlobId,
        part: &EncodedPart,
        chunks: &[ChunkId],
        recorder: Option<Uuid>,
    ) -> Result<(), Error> {
        let found = self.lookup(chunks).await?;
        let mut packs: Vec<i64> = found.values().map(|stored| stored.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        let action = "recording a part of an upload";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        insert_part(&mut change, id, part).await.map_err(&failed)?;
        if let Some(name) = recorder {
            let pack: Option<i64> = sqlx::query_scalar("SELECT id FROM pack WHERE name = ?")
                .bind(&name.as_bytes()[..])
                .fetch_optional(&mut *change)
                .await
                .map_err(&failed)?;
            packs.extend(pack);
        }
        for pack in packs {
            lease_pack(&mut change, id, pack).await.map_err(&failed)?;
        }
        change.commit().await
    }

    /// Records how far an upload is that no pack is sealed for.
    pub(crate) async fn suspend_upload(
        &self,
        id: BlobId,
        upload: &UploadProgress,
    ) -> Result<(), Error> {
        let action = "recording how far an upload is";
        let failed = self.failed(action);
        let mut writer = self.writer(action).await;
        let mut change = self.begin(&mut writer, action).await?;
        progress(&mut change, id, upload, false)
            .await
            .map_err(|error| gone_or(error, &failed))?;
        change.commit().await
    }
}

/// An upload that was cancelled or has expired is no fault of the index.
pub(super) fn gone_or(error: sqlx::Error, failed: impl Fn(sqlx::Error) -> Error) -> Error {
    match error {
        sqlx::Error::RowNotFound => Error::Interrupted {
            reason: "the upload was cancelled, or has expired".to_owned(),
        },
        other => failed(other),
    }
}

/// Records how far an upload is, and that it lives on until then.
///
/// # Errors
///
/// [`sqlx::Error::RowNotFound`] if there is no such upload.
pub(super) async fn progress(
    connection: &mut SqliteConnection,
    id: BlobId,
    upload: &UploadProgress,
    complete: bool,
) -> Result<(), sqlx::Error> {
    let changed = sqlx::query(
        "UPDATE upload SET bytes = ?, stored_bytes = ?, chunks = ?, expires_at = ?, complete = ? \
         WHERE id = ? AND complete = 0",
    )
    .bind(rows::signed(upload.bytes))
    .bind(rows::signed(upload.stored_bytes))
    .bind(rows::signed(upload.chunks))
    .bind(upload.expires_at)
    .bind(complete)
    .bind(&id.as_bytes()[..])
    .execute(&mut *connection)
    .await?;
    if changed.rows_affected() == 0 {
        return Err(sqlx::Error::RowNotFound);
    }
    if let Some(tail) = &upload.tail {
        // An offset that was told is never taken back: until these bytes are replaced by ones that reach further,
        // they stay.
        sqlx::query("UPDATE upload SET tail_at = ?, tail = ? WHERE id = ?")
            .bind(rows::signed(upload.bytes))
            .bind(&tail[..])
            .bind(&id.as_bytes()[..])
            .execute(connection)
            .await?;
    }
    Ok(())
}

fn upload_row(row: &SqliteRow) -> Result<UploadRow, sqlx::Error> {
    let bytes = rows::unsigned(row, 7)?;
    let tail_at = rows::unsigned(row, 10)?;
    let tail: &[u8] = row.try_get(11)?;
    // What was sealed since then covers a part of the tail, or all of it.
    let covered = usize::try_from(bytes.saturating_sub(tail_at)).unwrap_or(usize::MAX);
    let tail = Bytes::copy_from_slice(tail.get(covered..).unwrap_or_default());
    let length: Option<i64> = row.try_get(3)?;
    Ok(UploadRow {
        upload: Upload {
            id: rows::blob_id(row, 0)?,
            namespace: row.try_get(1)?,
            label: row.try_get(2)?,
            length: length.and_then(|length| u64::try_from(length).ok()),
            created_at: row.try_get(4)?,
            expires_at: row.try_get(5)?,
            complete: row.try_get(6)?,
            offset: bytes + tail.len() as u64,
        },
        bytes,
        stored_bytes: rows::unsigned(row, 8)?,
        chunks: rows::unsigned(row, 9)?,
        tail,
    })
}
