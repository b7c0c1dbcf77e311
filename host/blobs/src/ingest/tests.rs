#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use sqlx::{Connection, SqliteConnection};

use bytes::Bytes;

use super::*;
use crate::manifest::{BlobRecord, Part};
use crate::pack::{Kind, Pack};
use crate::testing::noise;
use crate::{ChunkId, Store, StoreOptions};

fn small_packs() -> StoreOptions {
    StoreOptions {
        pack_bytes: 512 * 1024,
        ..StoreOptions::default()
    }
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

#[tokio::test]
async fn the_packs_alone_say_what_every_blob_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    let shared = noise(1, 1_000_000);
    let mut written = HashMap::new();
    for data in [
        Vec::new(),
        shared.clone(),
        [shared.clone(), noise(2, 900_000)].concat(),
        [noise(3, 500_000), shared.clone(), shared].concat(),
    ] {
        let info = upload(&store, &data).await.unwrap();
        written.insert(info.id, (info, data));
    }
    drop(store);
    fs::remove_file(directory.path().join("index.db")).unwrap();

    let mut chunks: HashMap<ChunkId, Vec<u8>> = HashMap::new();
    let mut parts: HashMap<BlobId, Vec<Part>> = HashMap::new();
    let mut records = Vec::new();
    for path in fs::read_dir(directory.path().join("packs")).unwrap() {
        let pack = Pack::open(&path.unwrap().path()).unwrap();
        for entry in &pack.entries {
            let bytes = pack.read(entry).unwrap();
            match entry.kind {
                Kind::Chunk => {
                    let again = chunks.insert(entry.id, bytes);
                    assert!(again.is_none(), "a chunk was stored twice");
                }
                Kind::Manifest => {
                    let part = Part::decode(&bytes, entry.id.as_bytes()).unwrap();
                    parts.entry(part.blob).or_default().push(part);
                }
                Kind::Blob => records.push(serde_json::from_slice::<BlobRecord>(&bytes).unwrap()),
                Kind::Other(_) => unreachable!(),
            }
        }
    }
    assert_eq!(records.len(), written.len());
    for record in records {
        let (info, data) = &written[&record.info.id];
        assert_eq!(&record.info, info);
        let mut list = parts.remove(&info.id).unwrap_or_default();
        list.sort_by_key(|part| part.first_byte);
        let rebuilt: Vec<u8> = list
            .iter()
            .flat_map(|part| &part.chunks)
            .flat_map(|chunk| chunks[&chunk.id].clone())
            .collect();
        assert!(rebuilt == *data);
    }
}

async fn count(directory: &Path, sql: &'static str) -> i64 {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.join("index.db"));
    let mut index = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut index).await.unwrap()
}

#[tokio::test]
async fn a_running_upload_holds_every_pack_it_leans_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    let data = noise(1, 5_000_000);
    upload(&store, &data).await.unwrap();
    let packs = count(directory.path(), "SELECT COUNT(*) FROM pack").await;
    assert!(packs > 5);
    let leases = "SELECT COUNT(*) FROM lease";
    assert_eq!(count(directory.path(), leases).await, 0);

    // The whole of it again, and more than the window, so that the packer has seen the former.
    let mut ingest = store.ingest("blog").await.unwrap();
    ingest.write(Bytes::from(data)).await.unwrap();
    ingest
        .write(Bytes::from(noise(2, 6_000_000)))
        .await
        .unwrap();
    assert!(count(directory.path(), leases).await >= packs);
    let info = ingest.finish().await.unwrap();
    assert_eq!(count(directory.path(), leases).await, 0);
    assert_eq!(read(&store, info.id).await.unwrap().len(), 11_000_000);

    // One that is given up lets go as well.
    let mut ingest = store.ingest("blog").await.unwrap();
    ingest
        .write(Bytes::from(noise(3, 6_000_000)))
        .await
        .unwrap();
    assert!(count(directory.path(), leases).await > 0);
    drop(ingest);
    while count(directory.path(), leases).await > 0 {
        tokio::task::yield_now().await;
    }
    let lost = "SELECT COUNT(*) FROM manifest WHERE blob NOT IN (SELECT id FROM blob)";
    assert_eq!(count(directory.path(), lost).await, 0);
}

#[tokio::test]
async fn nothing_leans_on_a_pack_that_is_being_collected() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    let data = noise(1, 2_000_000);
    upload(&store, &data).await.unwrap();
    let packs = count(directory.path(), "SELECT COUNT(*) FROM pack").await;
    // What a collector does first.
    count(directory.path(), "UPDATE pack SET state = 1 RETURNING 0").await;
    let info = upload(&store, &data).await.unwrap();
    let stale = "SELECT COUNT(*) FROM chunk JOIN pack ON pack.id = chunk.pack WHERE state <> 0";
    assert_eq!(count(directory.path(), stale).await, 0);
    let now = count(directory.path(), "SELECT COUNT(*) FROM pack").await;
    assert!(now >= 2 * packs);
    assert!(read(&store, info.id).await.unwrap() == data);
}

#[tokio::test]
async fn a_stage_that_panics_fails_its_upload() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    let mut ingest = store.ingest("blog").await.unwrap();
    let mut follower = ingest.follow();
    drop(Stage::new(&ingest.flow, "test"));
    let failed = ingest.write(Bytes::from_static(b"more")).await;
    assert!(matches!(failed, Err(Error::Defect { part: "test" })));
    let failed = ingest.finish().await;
    assert!(matches!(failed, Err(Error::Defect { part: "test" })));
    assert!(matches!(
        follower.next().await,
        Err(Error::Interrupted { .. })
    ));
    upload(&store, b"after").await.unwrap();
}

#[tokio::test]
async fn an_index_from_before_there_was_such_a_table_learns_what_projects_hold() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    // A chunk that occurs twice counts twice, and goes with its blob all the same.
    let data = [noise(1, 600_000), vec![0; 1_000_000], noise(2, 600_000)].concat();
    let blob = upload(&store, &data).await.unwrap();
    upload(&store, &noise(2, 900_000)).await.unwrap();
    let rows = "SELECT SUM(uses) FROM held";
    let before = count(directory.path(), rows).await;
    drop(store);
    count(directory.path(), "DELETE FROM held RETURNING 0").await;

    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    assert_eq!(count(directory.path(), rows).await, before);
    store.shared().index.derive_held().await.unwrap();
    assert_eq!(count(directory.path(), rows).await, before);
    assert!(store.remove(blob.id).await.unwrap());
    let distinct = "SELECT COUNT(*) FROM held WHERE uses = 1";
    assert_eq!(
        count(directory.path(), rows).await,
        count(directory.path(), distinct).await
    );
    let left = count(directory.path(), "SELECT SUM(chunks) FROM blob").await;
    assert_eq!(count(directory.path(), rows).await, left);
}

#[tokio::test]
async fn an_assembly_holds_every_pack_it_leans_on_until_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    let blob = upload(&store, &noise(1, 2_000_000)).await.unwrap();
    let list = store.manifest(blob.id).await.unwrap().chunks;
    let held: Vec<_> = list.into_iter().map(crate::Named::Held).collect();
    let mut assembly = store.assemble("blog").await.unwrap();
    assembly.name(&held).await.unwrap();
    let leases = "SELECT COUNT(*) FROM lease";
    let packs = count(directory.path(), "SELECT COUNT(*) FROM pack").await;
    assert!(packs > 2);
    assert_eq!(count(directory.path(), leases).await, packs);
    drop(assembly);
    while count(directory.path(), leases).await > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_suspended_upload_holds_its_packs_across_a_restart_until_it_expires() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    upload(&store, &noise(1, 1_000_000)).await.unwrap();
    let half = store.create_upload("blog", None, "").await.unwrap();
    let mut ingest = store.append(half.id).await.unwrap();
    let data = Bytes::from(noise(1, 2_000_000));
    ingest.write(data).await.unwrap();
    ingest.suspend().await.unwrap();
    let packs = count(directory.path(), "SELECT COUNT(*) FROM pack").await;
    let leases = "SELECT COUNT(*) FROM lease";
    let taken = count(directory.path(), leases).await;
    // One of the first blob's packs may hold nothing that the second has.
    assert!(taken >= packs - 1, "{taken} of {packs}");
    drop(store);
    let store = Store::open(directory.path(), small_packs()).await.unwrap();
    assert_eq!(count(directory.path(), leases).await, taken);
    assert!(store.cancel_upload(half.id).await.unwrap());
    assert_eq!(
        count(directory.path(), "SELECT COUNT(*) FROM lease").await,
        0
    );
    let lost = "SELECT COUNT(*) FROM manifest WHERE blob NOT IN (SELECT id FROM blob)";
    assert_eq!(count(directory.path(), lost).await, 0);
}
