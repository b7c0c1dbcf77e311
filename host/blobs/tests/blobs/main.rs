//! The store from outside: real directories, real packs, real processes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod check;
mod crash;
mod damage;
mod follow;
mod held;
mod older;
mod pieces;
mod reindex;
mod round_trip;
mod salvage;
mod stress;
#[path = "../../src/testing.rs"]
mod testing;
mod unfinished;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cofferdam_blobs::{BlobInfo, Error, Reader, Store, StoreOptions};

async fn open(directory: &Path) -> Store {
    Store::open(directory, StoreOptions::default())
        .await
        .unwrap()
}

/// A store whose packs are full after 256 KiB, so that a small blob has many.
async fn open_with_small_packs(directory: &Path) -> Store {
    let options = StoreOptions {
        pack_bytes: 256 * 1024,
        ..StoreOptions::default()
    };
    Store::open(directory, options).await.unwrap()
}

async fn store(store: &Store, namespace: &str, data: &[u8]) -> BlobInfo {
    let mut ingest = store.ingest(namespace).await.unwrap();
    for block in data.chunks(100_000) {
        ingest.write(Bytes::copy_from_slice(block)).await.unwrap();
    }
    ingest.finish().await.unwrap()
}

async fn read(mut reader: Reader) -> Result<Vec<u8>, Error> {
    let mut data = Vec::new();
    while let Some(bytes) = reader.next().await? {
        assert!(!bytes.is_empty());
        data.extend_from_slice(&bytes);
    }
    Ok(data)
}

/// Waits until nobody has a dropped store's index open, and writes its log back into it. (Connections that are closed
/// at the same time may each leave that to the other.)
async fn closed(directory: &Path) {
    use sqlx::Connection as _;

    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.join("index.db"));
    while directory.join("index.db-wal").exists() {
        let index = sqlx::SqliteConnection::connect_with(&options).await;
        let mut index = index.unwrap();
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut index)
            .await
            .unwrap();
        index.close().await.unwrap();
    }
}

/// The files in the store's directory of packs, with this end of their names.
fn packs(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory.join("packs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == end))
        .collect();
    paths.sort();
    paths
}
