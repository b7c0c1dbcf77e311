//! Repairs and reindexes of a store with uploads that are not complete, and what projects hold after them.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use cofferdam_blobs::{BlobId, ChunkId, CollectOptions, Store};

use crate::check::{LOOK, MEND, check, flip, sql};
use crate::reindex::reindex;
use crate::testing::noise;
use crate::{closed, open_with_small_packs, packs, read, store};

/// Writes to an upload from its offset on.
async fn append(blobs: &Store, id: BlobId, data: &[u8]) -> cofferdam_blobs::Ingest {
    let mut ingest = blobs.append(id).await.unwrap();
    for block in data.chunks(100_000) {
        ingest.write(Bytes::copy_from_slice(block)).await.unwrap();
    }
    ingest
}

/// The chunks of these bytes, as a store cuts them.
async fn cut(data: &[u8]) -> Vec<ChunkId> {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let info = store(&blobs, "any", data).await;
    let manifest = blobs.manifest(info.id).await.unwrap();
    manifest.chunks.iter().map(|chunk| chunk.id).collect()
}

/// How many of these a namespace need not send.
async fn held(blobs: &Store, namespace: &str, chunks: &[ChunkId]) -> usize {
    let missing = blobs.missing(namespace, chunks).await.unwrap();
    missing.into_iter().filter(|missing| !missing).count()
}

/// A store with an upload that was told to be at `told`. The server that wrote the rest of `data`, up to the last
/// pack, which says that the blob is complete, was killed before its index knew of it.
async fn killed_before_the_last_commit(directory: &Path, data: &[u8], told: usize) -> BlobId {
    let blobs = open_with_small_packs(directory).await;
    store(&blobs, "blog", &noise(100, 300_000)).await;
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    let ingest = append(&blobs, upload.id, &data[..told]).await;
    ingest.suspend().await.unwrap();
    drop(blobs);
    closed(directory).await;
    let index = directory.join("index.db");
    let before = fs::read(&index).unwrap();
    let blobs = open_with_small_packs(directory).await;
    let ingest = append(&blobs, upload.id, &data[told..]).await;
    ingest.finish().await.unwrap();
    drop(blobs);
    closed(directory).await;
    fs::write(&index, before).unwrap();
    upload.id
}

/// The upload goes on where it was told to be, with other bytes than those that died, and becomes what was sent.
async fn assert_goes_on(directory: &Path, id: BlobId, told: &[u8], when: &str) -> Vec<u8> {
    let blobs = open_with_small_packs(directory).await;
    assert!(blobs.blob(id).await.unwrap().is_none(), "{when}");
    let upload = blobs.upload(id).await.unwrap();
    let upload = upload.unwrap_or_else(|| panic!("{when}: the upload is gone"));
    assert_eq!(upload.offset, told.len() as u64, "{when}");
    // What it has is not taken away under it.
    blobs.collect(CollectOptions::default()).await.unwrap();
    let rest = noise(55, 800_000);
    let ingest = append(&blobs, id, &rest).await;
    let info = ingest.finish().await.unwrap();
    let data = [told, &rest].concat();
    let found = read(blobs.reader(info.id).await.unwrap()).await;
    assert!(found.unwrap() == data, "{when}");
    drop(blobs);
    closed(directory).await;
    data
}

#[tokio::test]
async fn an_upload_goes_on_after_a_repair_and_a_reindex_that_find_more_of_it_than_was_told() {
    let data = noise(1, 1_700_000);
    for mend in ["nothing", "repair", "reindex"] {
        for told in [0, 50_000, 900_000] {
            let when = format!("{mend} at {told}");
            let directory = tempfile::tempdir().unwrap();
            let id = killed_before_the_last_commit(directory.path(), &data, told).await;
            if mend == "repair" {
                let (_, said) = check(directory.path(), LOOK).await;
                assert_eq!(said.kinds(), ["orphan_pack"], "{when}");
                let (report, said) = check(directory.path(), MEND).await;
                assert_eq!(report.remaining, 0, "{when}: {said:#?}");
            } else if mend == "reindex" {
                let report = reindex(directory.path()).await;
                assert_eq!((report.blobs, report.uploads), (1, 1), "{when}");
            }
            let whole = assert_goes_on(directory.path(), id, &data[..told], &when).await;
            let (_, said) = check(directory.path(), LOOK).await;
            let orphans = said.kinds().iter().all(|kind| kind == "orphan_pack");
            assert!(
                orphans && (mend == "nothing" || said.faults.is_empty()),
                "{when}: {said:#?}"
            );

            // The packs have two ways that this blob went. Without an index, it is the one that was acknowledged.
            fs::remove_file(directory.path().join("index.db")).unwrap();
            assert_eq!(reindex(directory.path()).await.blobs, 2, "{when}");
            let blobs = open_with_small_packs(directory.path()).await;
            let found = read(blobs.reader(id).await.unwrap()).await;
            assert!(found.unwrap() == whole, "{when}");
        }
    }
}

#[tokio::test]
async fn an_upload_that_waits_to_be_taken_is_carried_over_and_one_whose_index_is_lost_is_forgotten()
{
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let data = noise(1, 600_000);
    let whole = blobs
        .create_upload("blog", Some(600_000), "x")
        .await
        .unwrap();
    append(&blobs, whole.id, &data)
        .await
        .finish()
        .await
        .unwrap();
    let half = blobs.create_upload("blog", None, "y").await.unwrap();
    let other = noise(2, 600_000);
    append(&blobs, half.id, &other)
        .await
        .suspend()
        .await
        .unwrap();
    let before = (
        blobs.upload(whole.id).await.unwrap().unwrap(),
        blobs.upload(half.id).await.unwrap().unwrap(),
    );
    drop(blobs);
    closed(directory.path()).await;

    let report = reindex(directory.path()).await;
    assert_eq!((report.blobs, report.uploads), (1, 2));
    let blobs = open_with_small_packs(directory.path()).await;
    let after = (
        blobs.upload(whole.id).await.unwrap().unwrap(),
        blobs.upload(half.id).await.unwrap().unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(blobs.blobs(None, 10).await.unwrap(), []);
    drop(blobs);
    closed(directory.path()).await;

    fs::remove_file(directory.path().join("index.db")).unwrap();
    let report = reindex(directory.path()).await;
    assert_eq!((report.blobs, report.uploads), (1, 0));
    let blobs = open_with_small_packs(directory.path()).await;
    assert!(blobs.upload(half.id).await.unwrap().is_none());
    assert!(blobs.blob(half.id).await.unwrap().is_none());
    // A claim on what it had would lean on something that the collector takes.
    assert_eq!(held(&blobs, "blog", &cut(&other).await).await, 0);
    let (all, of_whole) = (cut(&data).await, blobs.blobs(None, 10).await.unwrap());
    assert_eq!(held(&blobs, "blog", &all).await, all.len());
    assert_eq!(of_whole.len(), 1);
}

#[tokio::test]
async fn what_projects_hold_after_a_reindex_is_what_their_whole_manifests_name() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let (own, others) = (noise(1, 900_000), noise(2, 900_000));
    store(&blobs, "blog", &own).await;
    let seen: Vec<_> = packs(directory.path(), "pack");
    let torn = noise(3, 9_000_000);
    let broken = store(&blobs, "blog", &torn).await;
    let mut of_broken = packs(directory.path(), "pack");
    of_broken.retain(|path| !seen.contains(path));
    store(&blobs, "shop", &others).await;
    assert!(blobs.remove(broken.id).await.unwrap());
    drop(blobs);
    closed(directory.path()).await;
    // Of the blob that was removed, a pack from the middle was collected.
    assert!(of_broken.len() > 3);
    fs::remove_file(&of_broken[1]).unwrap();
    for lost in [false, true] {
        if lost {
            fs::remove_file(directory.path().join("index.db")).unwrap();
        }
        reindex(directory.path()).await;
        let blobs = open_with_small_packs(directory.path()).await;
        let (own, others) = (cut(&own).await, cut(&others).await);
        assert_eq!(held(&blobs, "blog", &own).await, own.len());
        assert_eq!(held(&blobs, "blog", &others).await, 0);
        assert_eq!(held(&blobs, "shop", &others).await, others.len());
        assert_eq!(held(&blobs, "shop", &own).await, 0);
        assert_eq!(held(&blobs, "blog", &cut(&torn).await).await, 0);
        drop(blobs);
        closed(directory.path()).await;
    }
}

#[tokio::test]
async fn rows_of_what_a_project_holds_that_do_not_follow_from_its_packages_are_found_and_derived() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let data = noise(1, 900_000);
    store(&blobs, "blog", &data).await;
    store(&blobs, "shop", &noise(2, 100_000)).await;
    drop(blobs);
    closed(directory.path()).await;
    let chunks = cut(&data).await;
    for damage in [
        "DELETE FROM held",
        "DELETE FROM held WHERE chunk IN (SELECT chunk FROM held LIMIT 2)",
        "UPDATE held SET namespace = 3 - namespace",
        "INSERT INTO held SELECT 2, id, 1 FROM chunk WHERE id NOT IN (SELECT chunk FROM held WHERE namespace = 2)",
    ] {
        sql(directory.path(), damage).await;
        let (_, said) = check(directory.path(), LOOK).await;
        assert_eq!(said.kinds(), ["wrong_held_rows"], "{damage}");
        let (report, said) = check(directory.path(), MEND).await;
        assert_eq!(report.remaining, 0, "{damage}: {said:#?}");
        let blobs = open_with_small_packs(directory.path()).await;
        assert_eq!(
            held(&blobs, "blog", &chunks).await,
            chunks.len(),
            "{damage}"
        );
        assert_eq!(held(&blobs, "shop", &chunks).await, 0, "{damage}");
        drop(blobs);
        closed(directory.path()).await;
    }
}

#[tokio::test]
async fn an_upload_of_which_something_is_lost_is_found_and_forgotten_and_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let lost = blobs.create_upload("blog", None, "").await.unwrap();
    append(&blobs, lost.id, &noise(1, 700_000))
        .await
        .suspend()
        .await
        .unwrap();
    let of_lost = packs(directory.path(), "pack");
    let data = noise(2, 700_000);
    let sound = blobs.create_upload("blog", None, "").await.unwrap();
    append(&blobs, sound.id, &data)
        .await
        .suspend()
        .await
        .unwrap();
    drop(blobs);
    closed(directory.path()).await;
    let (report, said) = check(directory.path(), MEND).await;
    assert_eq!(report.faults, 0, "{said:#?}");

    fs::remove_file(&of_lost[0]).unwrap();
    let (_, said) = check(directory.path(), LOOK).await;
    assert_eq!(said.kinds(), ["broken_upload", "missing_pack"]);
    let (report, said) = check(directory.path(), MEND).await;
    assert_eq!(report.remaining, 0, "{said:#?}");
    let blobs = open_with_small_packs(directory.path()).await;
    assert!(blobs.upload(lost.id).await.unwrap().is_none());
    drop(blobs);
    closed(directory.path()).await;
    assert_goes_on(directory.path(), sound.id, &data, "the sound one").await;
}

#[tokio::test]
async fn what_a_pack_records_of_an_upload_is_kept_for_it_after_a_reindex() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let blobs = open_with_small_packs(directory).await;
    let known = noise(1, 900_000);
    store(&blobs, "blog", &known).await;
    // Everything that is sent is there already, so its packs say what it is and nothing else.
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    let ingest = append(&blobs, upload.id, &known).await;
    ingest.suspend().await.unwrap();
    drop(blobs);
    closed(directory).await;

    assert_eq!(reindex(directory).await.uploads, 1);
    let blobs = open_with_small_packs(directory).await;
    blobs.collect(CollectOptions::default()).await.unwrap();
    let rest = noise(2, 300_000);
    let ingest = append(&blobs, upload.id, &rest).await;
    let info = ingest.finish().await.unwrap();
    drop(blobs);
    closed(directory).await;

    let (_, said) = check(directory, LOOK).await;
    assert!(said.faults.is_empty(), "{said:#?}");
    fs::remove_file(directory.join("index.db")).unwrap();
    reindex(directory).await;
    let blobs = open_with_small_packs(directory).await;
    let found = read(blobs.reader(info.id).await.unwrap()).await.unwrap();
    assert!(found == [known, rest].concat());
}

#[tokio::test]
async fn what_a_repair_saves_of_an_upload_is_kept_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let blobs = open_with_small_packs(directory).await;
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    let begun = noise(1, 900_000);
    let ingest = append(&blobs, upload.id, &begun).await;
    ingest.suspend().await.unwrap();
    drop(blobs);
    closed(directory).await;
    for path in packs(directory, "pack") {
        let length = fs::metadata(&path).unwrap().len();
        flip(&path, length - 10);
    }
    let (report, said) = check(directory, MEND).await;
    assert_eq!(report.remaining, 0, "{said:#?}");

    let blobs = open_with_small_packs(directory).await;
    for _ in 0..2 {
        blobs.collect(CollectOptions::default()).await.unwrap();
    }
    let rest = noise(2, 300_000);
    let ingest = append(&blobs, upload.id, &rest).await;
    let info = ingest.finish().await.unwrap();
    let found = read(blobs.reader(info.id).await.unwrap()).await.unwrap();
    assert!(found == [begun, rest].concat());
    drop(blobs);
    closed(directory).await;
    let (report, said) = check(directory, LOOK).await;
    assert_eq!(report.faults, 0, "{said:#?}");
}
