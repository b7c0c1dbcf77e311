//! What the collector takes, what it leaves, and what a crash of it leaves.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod course;
mod interleaving;
mod killed;
mod leases;
mod room;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use sqlx::{Connection, SqliteConnection};

use super::{CollectOptions, CollectReport};
use crate::testing::noise;
use crate::{BlobId, BlobInfo, Error, Store, StoreOptions};

/// Packs of a few chunks, so that a small upload has several.
fn small_packs() -> StoreOptions {
    StoreOptions {
        pack_bytes: 512 * 1024,
        ..StoreOptions::default()
    }
}

/// Everything that can go goes.
fn at_once() -> CollectOptions {
    CollectOptions {
        orphan_grace: Duration::ZERO,
        ..CollectOptions::default()
    }
}

async fn open(directory: &Path) -> Store {
    Store::open(directory, small_packs()).await.unwrap()
}

async fn upload(store: &Store, data: &[u8]) -> Result<BlobInfo, Error> {
    let mut ingest = store.ingest("blog").await?;
    for block in data.chunks(70_000) {
        ingest.write(Bytes::copy_from_slice(block)).await?;
    }
    ingest.finish().await
}

async fn read(store: &Store, id: BlobId) -> Result<Vec<u8>, Error> {
    let mut reader = store.reader(id).await?;
    let mut data = Vec::new();
    while let Some(bytes) = reader.next().await? {
        data.extend_from_slice(&bytes);
    }
    Ok(data)
}

async fn collect(store: &Store) -> CollectReport {
    store.collect(at_once()).await.unwrap()
}

fn packs(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory.join("packs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn bytes_on_disk(directory: &Path) -> u64 {
    let packs = packs(directory);
    packs
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum()
}

async fn index(directory: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.join("index.db"));
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn count(directory: &Path, sql: &'static str) -> i64 {
    let mut index = index(directory).await;
    sqlx::query_scalar(sql).fetch_one(&mut index).await.unwrap()
}

/// A store with these blobs, some of which were removed.
async fn filled(store: &Store, blobs: &[(&[u8], bool)]) -> BTreeMap<BlobId, Vec<u8>> {
    let mut kept = BTreeMap::new();
    let mut removed = Vec::new();
    for (data, keep) in blobs {
        let info = upload(store, data).await.unwrap();
        if *keep {
            kept.insert(info.id, data.to_vec());
        } else {
            removed.push(info.id);
        }
    }
    for id in removed {
        assert!(store.remove(id).await.unwrap());
    }
    kept
}

async fn assert_whole(store: &Store, blobs: &BTreeMap<BlobId, Vec<u8>>, when: &str) {
    for (id, data) in blobs {
        let found = read(store, *id).await;
        let found = found.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(found == *data, "{when}");
    }
}

/// Nothing is left of what was dead: by the index every pack and chunk is in use, and every file is a pack that
/// the index knows.
async fn assert_tidy(directory: &Path, when: &str) {
    let going = "SELECT COUNT(*) FROM pack WHERE state <> 0";
    assert_eq!(count(directory, going).await, 0, "{when}");
    let lost = "SELECT COUNT(*) FROM chunk WHERE pack NOT IN (SELECT id FROM pack)";
    assert_eq!(count(directory, lost).await, 0, "{when}");
    let leases = "SELECT COUNT(*) FROM lease";
    assert_eq!(count(directory, leases).await, 0, "{when}");
    let known = count(directory, "SELECT COUNT(*) FROM pack").await;
    assert_eq!(packs(directory).len() as i64, known, "{when}");
}
