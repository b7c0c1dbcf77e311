//! An index that is not the one of these packs: an empty one, or a copy from before the last uploads.

use std::fs::{self, File};
use std::path::Path;
use std::time::SystemTime;

use cofferdam_blobs::{CollectOptions, Error, Store, StoreOptions};

use crate::reindex::reindex;
use crate::testing::noise;
use crate::{closed, open, packs, read, store};

/// The packs were written days ago.
fn grow_old(directory: &Path) {
    let old = SystemTime::now() - 3 * CollectOptions::default().orphan_grace;
    for path in packs(directory, "pack") {
        let pack = File::options().write(true).open(path).unwrap();
        pack.set_modified(old).unwrap();
    }
}

async fn refused(directory: &Path) -> String {
    let opened = Store::open(directory, StoreOptions::default()).await;
    let error = opened.expect_err("an index that knows no pack is refused");
    assert!(matches!(error, Error::Format { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn an_index_that_names_no_pack_is_not_opened_over_packs() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let index = directory.join("index.db");
    drop(open(directory).await);
    closed(directory).await;
    let first = fs::read(&index).unwrap();
    let blobs = open(directory).await;
    let data = noise(1, 300_000);
    let info = store(&blobs, "blog", &data).await;
    drop(blobs);
    closed(directory).await;

    grow_old(directory);
    for (what, bytes) in [("it is empty", Vec::new()), ("it names no pack", first)] {
        fs::write(&index, bytes).unwrap();
        // However often it is tried.
        for _ in 0..2 {
            let said = refused(directory).await;
            assert!(said.contains(what), "{said}");
            assert!(said.contains("cofferdam store reindex"), "{said}");
        }
        closed(directory).await;
    }
    reindex(directory).await;
    let blobs = open(directory).await;
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test]
async fn a_store_whose_first_upload_died_is_opened_again() {
    let elsewhere = tempfile::tempdir().unwrap();
    let blobs = open(elsewhere.path()).await;
    store(&blobs, "blog", b"a pack that no index came to know").await;
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).await);
    for pack in packs(elsewhere.path(), "pack") {
        let name = pack.file_name().unwrap();
        fs::copy(&pack, directory.path().join("packs").join(name)).unwrap();
    }
    for _ in 0..2 {
        drop(open(directory.path()).await);
    }
    // As is one of which everything was removed, but for what a crash has left.
    let blobs = open(directory.path()).await;
    let info = store(&blobs, "blog", b"here").await;
    blobs.remove(info.id).await.unwrap();
    blobs.collect(CollectOptions::default()).await.unwrap();
    assert_eq!(packs(directory.path(), "pack").len(), 1);
    drop(blobs);
    open(directory.path()).await;
}

#[tokio::test]
async fn an_index_from_before_the_last_blobs_leaves_a_day_to_take_their_packs_in() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let index = directory.join("index.db");
    let mut stored = Vec::new();
    let mut yesterday = Vec::new();
    for seed in [1, 2] {
        yesterday = fs::read(&index).unwrap_or_default();
        let blobs = open(directory).await;
        let data = noise(seed, 300_000);
        stored.push((store(&blobs, "blog", &data).await, data));
        drop(blobs);
        closed(directory).await;
    }
    fs::write(&index, yesterday).unwrap();
    grow_old(directory);

    let before = packs(directory, "pack");
    let blobs = open(directory).await;
    for _ in 0..2 {
        let report = blobs.collect(CollectOptions::default()).await.unwrap();
        assert_eq!(report.orphans_removed, 0, "{report:?}");
    }
    assert_eq!(packs(directory, "pack"), before);
    drop(blobs);
    closed(directory).await;
    reindex(directory).await;
    let blobs = open(directory).await;
    blobs.collect(CollectOptions::default()).await.unwrap();
    for (info, data) in &stored {
        assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == *data);
    }
}
