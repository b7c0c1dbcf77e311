//! The index, made anew from the packs.

use std::fs;
use std::path::Path;

use cofferdam_blobs::pack::{Kind, Pack};
use cofferdam_blobs::{CheckEvent, Error, ReindexReport, Store};
use tokio::sync::mpsc;

use crate::testing::noise;
use crate::{closed, open, open_with_small_packs, packs, read, store};

pub(crate) async fn reindex(directory: &Path) -> ReindexReport {
    let (tell, mut told) = mpsc::channel(8);
    let listening = tokio::spawn(async move {
        let mut last = None;
        while let Some(event) = told.recv().await {
            match event {
                CheckEvent::Progress(progress) => last = Some(progress),
                other => panic!("{other:?}"),
            }
        }
        last.unwrap()
    });
    let report = Store::reindex(directory, tell).await.unwrap();
    let last = listening.await.unwrap();
    assert_eq!(last.done, last.total);
    report
}

#[tokio::test]
async fn a_new_index_names_what_the_old_one_named() {
    for lost in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let blobs = open_with_small_packs(directory.path()).await;
        let shared = noise(1, 1_500_000);
        let mut stored = Vec::new();
        for (namespace, data) in [
            ("blog", shared.clone()),
            ("shop", [shared.clone(), noise(2, 900_000)].concat()),
            ("blog", Vec::new()),
            ("wiki", b"la ".repeat(200_000)),
        ] {
            let info = store(&blobs, namespace, &data).await;
            let manifest = blobs.manifest(info.id).await.unwrap();
            stored.push((manifest, data));
        }
        drop(blobs);
        closed(directory.path()).await;
        if lost {
            fs::remove_file(directory.path().join("index.db")).unwrap();
            // What the last process left of its log belongs to the index that is lost.
            fs::write(directory.path().join("index.db-wal"), b"of another time").unwrap();
        }
        let report = reindex(directory.path()).await;
        let count = packs(directory.path(), "pack").len() as u64;
        assert_eq!(
            (report.packs, report.damaged_packs, report.blobs),
            (count, 0, 4)
        );

        let blobs = open(directory.path()).await;
        assert_eq!(blobs.blobs(None, 10).await.unwrap().len(), 4);
        for (manifest, data) in &stored {
            let id = manifest.blob.id;
            assert_eq!(blobs.manifest(id).await.unwrap(), *manifest);
            assert!(read(blobs.reader(id).await.unwrap()).await.unwrap() == *data);
        }
        // And what it knows is not stored again.
        let before = packs(directory.path(), "pack").len();
        store(&blobs, "blog", &shared).await;
        assert_eq!(packs(directory.path(), "pack").len(), before + 1);
        assert!(
            fs::metadata(packs(directory.path(), "pack").pop().unwrap())
                .unwrap()
                .len()
                < 5_000
        );
    }
}

#[tokio::test]
async fn of_two_copies_of_a_chunk_the_good_one_is_indexed() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 600_000);
    let first = store(&blobs, "blog", &data).await;
    let path = packs(directory.path(), "pack").remove(0);
    let pack = Pack::open(&path).unwrap();
    let entry = pack
        .entries
        .iter()
        .find(|entry| entry.kind == Kind::Chunk)
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(entry.extent.offset).unwrap() + 5] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(read(blobs.reader(first.id).await.unwrap()).await.is_err());
    store(&blobs, "blog", &data).await;
    assert!(read(blobs.reader(first.id).await.unwrap()).await.unwrap() == data);
    drop(blobs);
    closed(directory.path()).await;

    reindex(directory.path()).await;
    let blobs = open(directory.path()).await;
    assert!(read(blobs.reader(first.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test]
async fn a_chunk_that_was_found_wrong_is_not_leaned_on_after_a_reindex() {
    for lost in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let blobs = open(directory.path()).await;
        let data = noise(1, 600_000);
        let first = store(&blobs, "blog", &data).await;
        let path = packs(directory.path(), "pack").remove(0);
        let entries = Pack::open(&path).unwrap().entries;
        let mut chunks = entries.iter().filter(|entry| entry.kind == Kind::Chunk);
        crate::check::flip(&path, chunks.next_back().unwrap().extent.offset + 5);
        assert!(read(blobs.reader(first.id).await.unwrap()).await.is_err());
        drop(blobs);
        closed(directory.path()).await;
        if lost {
            fs::remove_file(directory.path().join("index.db")).unwrap();
        }
        reindex(directory.path()).await;
        let blobs = open(directory.path()).await;
        assert_eq!(blobs.damage().await.unwrap().chunks, 1, "lost: {lost}");
        let second = store(&blobs, "shop", &data).await;
        for blob in [first, second] {
            let found = read(blobs.reader(blob.id).await.unwrap()).await;
            assert!(found.is_ok_and(|found| found == data), "lost: {lost}");
        }
    }
}

#[tokio::test]
async fn a_damaged_pack_is_indexed_as_far_as_it_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 600_000);
    let info = store(&blobs, "blog", &data).await;
    drop(blobs);
    closed(directory.path()).await;
    let path = packs(directory.path(), "pack").remove(0);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
    fs::remove_file(directory.path().join("index.db")).unwrap();
    let report = reindex(directory.path()).await;
    assert_eq!(
        (report.packs, report.damaged_packs, report.blobs),
        (1, 1, 1)
    );
    let blobs = open(directory.path()).await;
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test]
async fn a_reindex_that_nobody_follows_leaves_the_old_index() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let info = store(&blobs, "blog", b"here").await;
    blobs.remove(info.id).await.unwrap();
    drop(blobs);
    closed(directory.path()).await;
    let (tell, told) = mpsc::channel(1);
    drop(told);
    let ended = Store::reindex(directory.path(), tell).await;
    assert!(matches!(ended, Err(Error::Interrupted { .. })), "{ended:?}");
    let blobs = open(directory.path()).await;
    assert_eq!(blobs.blob(info.id).await.unwrap(), None);
    assert!(!directory.path().join("index.db.rebuilt").exists());
    drop(blobs);
    closed(directory.path()).await;
    // What a reindex cannot know: that a blob was removed.
    reindex(directory.path()).await;
    let blobs = open(directory.path()).await;
    assert_eq!(blobs.blob(info.id).await.unwrap(), Some(info));
}
