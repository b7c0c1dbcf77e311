//! The store on a disk that fails, stops, or loses what was not synced.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

mod killed;
mod mending;
mod pieces;
mod power;
mod refusing;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{LOCK_PATIENCE, Store, StoreOptions, lock};
use crate::disk::faults::FaultyDisk;
use crate::testing::noise;
use crate::{
    BlobId, BlobInfo, ChunkRef, Chunker, ChunkerParams, Digest, Error, Ingest, Named, Supply,
};

/// A store on a faulty disk.
struct Site {
    root: tempfile::TempDir,
    disk: Arc<FaultyDisk>,
}

/// What uploads were acknowledged.
type Acknowledged = HashMap<BlobId, Vec<u8>>;

impl Site {
    fn new() -> Site {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::new(&root.path().join("kept")));
        Site { root, disk }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("store")
    }

    async fn open(&self) -> Result<Store, Error> {
        let disk = Arc::clone(&self.disk);
        Store::open_on(disk, &self.directory(), small_packs()).await
    }

    /// Waits until nothing of a dropped store is left.
    async fn closed(&self) {
        let directory = self.directory();
        tokio::task::spawn_blocking(move || lock(&directory, LOCK_PATIENCE).unwrap())
            .await
            .unwrap();
    }
}

/// A pack for each batch of chunks (half a megabyte), so that a small upload has several.
fn small_packs() -> StoreOptions {
    StoreOptions {
        pack_bytes: 100_000,
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

/// How the bytes of an upload come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One after the other.
    Whole,
    /// As a list of chunks, of which those that are held are not sent.
    Listed,
}

async fn feed(store: &Store, ingest: &mut Ingest, data: &[u8], way: Way) -> Result<(), Error> {
    if way == Way::Whole {
        return ingest.write(Bytes::copy_from_slice(data)).await;
    }
    let mut chunker = Chunker::new(&ChunkerParams::default()).unwrap();
    chunker.push(data);
    let chunks: Vec<Bytes> = std::iter::from_fn(|| chunker.next(true)).collect();
    let ids: Vec<_> = chunks.iter().map(|data| Digest::blake3(data)).collect();
    let missing = store.missing("blog", &ids).await?;
    assert!(missing.contains(&false) && missing.contains(&true));
    let list = chunks.iter().zip(ids).zip(missing);
    let list: Vec<Named> = list
        .map(|((data, id), missing)| {
            let bytes = u32::try_from(data.len()).unwrap();
            let chunk = ChunkRef { id, bytes };
            match missing {
                true => Named::Sent(chunk),
                false => Named::Held(chunk),
            }
        })
        .collect();
    let mut assembly = store.assemble("blog").await?;
    assembly.name(&list).await?;
    let mut chunks = chunks.into_iter();
    loop {
        let sent = chunks.next();
        match assembly.next().await? {
            Supply::Held(input) => ingest.write(input).await?,
            Supply::Wanted(_) => ingest.write(sent.unwrap()).await?,
            Supply::End => return Ok(()),
        }
    }
}

async fn read(store: &Store, id: BlobId) -> Result<Vec<u8>, Error> {
    let mut reader = store.reader(id).await?;
    let mut data = Vec::new();
    while let Some(bytes) = reader.next().await? {
        data.extend_from_slice(&bytes);
    }
    Ok(data)
}

/// What every upload of these tests begins with, so that they lean on each other's packs.
fn known() -> Vec<u8> {
    noise(1, 200_000)
}

/// Something that is known in its first half and new in its second.
fn half_known(seed: u64) -> Vec<u8> {
    [known(), noise(seed, 600_000)].concat()
}

/// Every acknowledged blob reads whole, and so does whatever else is visible.
async fn assert_whole(store: &Store, acknowledged: &Acknowledged, when: &str) {
    let visible = store.blobs(None, 1000).await.unwrap();
    for (id, data) in acknowledged {
        assert!(visible.iter().any(|blob| blob.id == *id), "{when}: {id}");
        let found = read(store, *id).await;
        assert!(found.is_ok_and(|found| found == *data), "{when}: {id}");
    }
    for blob in visible {
        let found = read(store, blob.id).await;
        let found = found.unwrap_or_else(|error| panic!("{when}: {}: {error}", blob.id));
        assert_eq!(Digest::blake3(&found), blob.blake3, "{when}");
        assert_eq!(found.len() as u64, blob.bytes, "{when}");
        let manifest = store.manifest(blob.id).await.unwrap();
        assert_eq!(manifest.chunks.len() as u64, blob.chunks, "{when}");
    }
}

/// Opens a directory as the next process would, and finds in it what was acknowledged and no torn file; then
/// uploads to it.
async fn assert_comes_back(directory: &Path, acknowledged: &Acknowledged, when: &str) {
    let store = Store::open(directory, small_packs()).await;
    let store = store.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(torn(directory), Vec::<PathBuf>::new(), "{when}");
    assert_whole(&store, acknowledged, when).await;
    let data = half_known(99);
    let info = upload(&store, &data).await;
    let info = info.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert!(read(&store, info.id).await.unwrap() == data, "{when}");
}

fn torn(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory.join("packs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "tmp"))
        .collect()
}
