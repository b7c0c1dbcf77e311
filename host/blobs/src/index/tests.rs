#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod leases;

use super::*;
use crate::Digest;
use crate::disk::RealDisk;
use crate::manifest::ChunkRef;
use crate::pack::Encoding;
use crate::upload::{Upload, UploadRow};

async fn open(directory: &Path) -> Index {
    Index::open(Arc::new(RealDisk), &directory.join("index.db"))
        .await
        .unwrap()
}

fn commit(seed: u32) -> PackCommit {
    let entries = (0..2_000_u32)
        .map(|n| Entry {
            kind: Kind::Chunk,
            extent: Extent {
                offset: u64::from(n) * 100,
                stored: 100,
                bytes: 100,
                encoding: Encoding::Raw,
            },
            id: Digest::blake3(&[seed.to_le_bytes(), n.to_le_bytes()].concat()),
        })
        .collect();
    PackCommit {
        holder: BlobId::new(),
        name: Uuid::now_v7(),
        length: 200_000,
        entries,
        parts: Vec::new(),
        upload: None,
        blob: None,
    }
}

async fn pragma(index: &Index, sql: &'static str) -> String {
    let mut writer = index.writer.lock().await;
    let connection = writer.sound().await.unwrap();
    let row = sqlx::query(sql).fetch_one(connection).await.unwrap();
    row.try_get::<i64, _>(0)
        .map(|number| number.to_string())
        .or_else(|_| row.try_get(0))
        .unwrap()
}

#[tokio::test]
async fn every_commit_is_synced_before_it_returns_also_on_a_connection_that_was_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    for _ in 0..2 {
        assert_eq!(pragma(&index, "PRAGMA synchronous").await, "2");
        assert_eq!(pragma(&index, "PRAGMA journal_mode").await, "wal");
        // As a failure leaves it.
        index.writer.lock().await.connection = None;
    }
}

#[tokio::test]
async fn an_index_that_had_no_room_works_again_when_there_is_some() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    index.commit_pack(&commit(0)).await.unwrap();
    let pages: i64 = pragma(&index, "PRAGMA page_count").await.parse().unwrap();
    for seed in 1..4 {
        {
            let mut writer = index.writer.lock().await;
            let limit = format!("PRAGMA max_page_count = {}", pages + 3);
            let connection = writer.sound().await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(limit))
                .execute(connection)
                .await
                .unwrap();
        }
        let refused = index.commit_pack(&commit(100 + seed)).await;
        assert!(
            matches!(refused, Err(Error::StorageFull { .. })),
            "{refused:?}"
        );
        // What was refused left nothing behind, and the index takes the next change at once.
        let ids: Vec<ChunkId> = commit(100 + seed).entries.iter().map(|e| e.id).collect();
        assert!(index.lookup(&ids).await.unwrap().is_empty());
        index.forget_upload(BlobId::new()).await.unwrap();
        {
            let mut writer = index.writer.lock().await;
            let connection = writer.sound().await.unwrap();
            sqlx::query("PRAGMA max_page_count = 1000000")
                .execute(connection)
                .await
                .unwrap();
        }
    }
    index.commit_pack(&commit(9)).await.unwrap();
    let ids: Vec<ChunkId> = commit(9).entries.iter().map(|entry| entry.id).collect();
    assert_eq!(index.lookup(&ids).await.unwrap().len(), ids.len());
}

#[tokio::test]
async fn a_row_with_another_length_than_its_chunk_is_replaced_by_the_next_upload_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    index.commit_pack(&commit(0)).await.unwrap();
    let id = commit(0).entries[7].id;
    {
        let mut writer = index.writer.lock().await;
        sqlx::query("UPDATE chunk SET bytes = bytes + 1 WHERE id = ?")
            .bind(&id.as_bytes()[..])
            .execute(writer.sound().await.unwrap())
            .await
            .unwrap();
    }
    let before = index.lookup(&[id]).await.unwrap()[&id];
    index.commit_pack(&commit(0)).await.unwrap();
    let after = index.lookup(&[id]).await.unwrap()[&id];
    assert_eq!((before.extent.bytes, after.extent.bytes), (101, 100));
    assert_ne!(before.pack, after.pack);
}

#[tokio::test]
async fn counting_what_is_quarantined_does_not_read_every_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    let plan: Vec<_> =
        sqlx::query("EXPLAIN QUERY PLAN SELECT COUNT(*) FROM chunk WHERE quarantined <> 0")
            .fetch_all(&mut *index.reader().await)
            .await
            .unwrap();
    let plan: String = plan.iter().map(|row| row.get::<String, _>(3)).collect();
    assert!(plan.contains("chunk_quarantined"), "{plan}");
}

/// A part of a manifest that names the chunks of this commit.
fn part(commit: &PackCommit) -> EncodedPart {
    let mut part = Part::new(commit.holder);
    part.chunks = commit
        .entries
        .iter()
        .map(|entry| ChunkRef {
            id: entry.id,
            bytes: entry.extent.bytes,
        })
        .collect();
    part.encode()
}

async fn count(index: &Index, sql: &'static str) -> i64 {
    let mut reader = index.reader().await;
    sqlx::query_scalar(sql)
        .fetch_one(&mut *reader)
        .await
        .unwrap()
}

#[tokio::test]
async fn opening_forgets_what_the_dead_have_left_and_nothing_of_uploads_that_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    let mut dead = commit(1);
    dead.parts.push(part(&dead));
    index.commit_pack(&dead).await.unwrap();
    let mut living = commit(2);
    living.parts.push(part(&living));
    let row = UploadRow {
        upload: Upload {
            id: living.holder,
            namespace: "blog".to_owned(),
            label: String::new(),
            length: None,
            offset: 0,
            complete: false,
            created_at: 0,
            // Long ago: the clock has been set since.
            expires_at: 1,
        },
        bytes: 0,
        stored_bytes: 0,
        chunks: 0,
        tail: bytes::Bytes::new(),
    };
    index.carry_upload(&row).await.unwrap();
    index.commit_pack(&living).await.unwrap();
    assert_eq!(count(&index, "SELECT count(*) FROM manifest").await, 2);
    index.close().await;

    let index = open(directory.path()).await;
    assert_eq!(count(&index, "SELECT count(*) FROM manifest").await, 1);
    assert_eq!(count(&index, "SELECT count(*) FROM lease").await, 1);
    assert!(index.part(living.holder, 0).await.unwrap().is_some());
}

#[tokio::test]
async fn opening_reads_no_large_table_from_one_end_to_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).await;
    for sql in FORGET_THE_DEAD {
        let sql = format!("EXPLAIN QUERY PLAN {sql}");
        let plan: Vec<_> = sqlx::query(sqlx::AssertSqlSafe(sql))
            .fetch_all(&mut *index.writer.lock().await.sound().await.unwrap())
            .await
            .unwrap();
        for row in plan {
            let step: String = row.get(3);
            for table in ["manifest", "chunk", "held", "blob", "pack"] {
                assert!(!step.starts_with(&format!("SCAN {table}")), "{step}");
            }
        }
    }
}

#[tokio::test]
async fn what_the_index_file_is_refused_for_says_which_file_and_what_to_do() {
    use sqlx::{ConnectOptions as _, Connection as _};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.db");
    let options = SqliteConnectOptions::new().filename(&path);
    let mut connection = options
        .clone()
        .create_if_missing(true)
        .connect()
        .await
        .unwrap();
    sqlx::query("CREATE TABLE t (a)")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let mut connection = options.clone().read_only(true).connect().await.unwrap();
    let refused = sqlx::query("INSERT INTO t VALUES (1)")
        .execute(&mut connection)
        .await;
    let said = Error::index("trying", &path, refused.unwrap_err()).to_string();
    connection.close().await.unwrap();
    std::fs::write(&path, [7; 4096]).unwrap();
    let torn = async {
        let mut connection = options.connect().await?;
        sqlx::query("SELECT a FROM t")
            .execute(&mut connection)
            .await
    };
    let torn = Error::index("trying", &path, torn.await.unwrap_err()).to_string();
    for (said, what_to_do) in [(said, "became read-only"), (torn, "store reindex")] {
        assert!(said.contains(what_to_do), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
}
