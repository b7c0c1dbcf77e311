//! Uploads and readers beside a collection, at chosen moments.

use std::sync::Arc;

use super::*;
use crate::disk::faults::{FaultyDisk, Operation};
use crate::index::{MoveCommit, Moved};
use crate::pack::{Encoding, Extent};
use crate::reader::Suspect;

/// An upload that has brought these bytes, waits for more, and leans on what it found.
async fn leaning(store: &Store, data: &[u8]) -> crate::Ingest {
    let mut ingest = store.ingest("blog").await.unwrap();
    ingest.write(Bytes::copy_from_slice(data)).await.unwrap();
    // More than the window, so that the packer has seen what came before.
    ingest
        .write(Bytes::from(noise(77, 5_000_000)))
        .await
        .unwrap();
    ingest
}

#[tokio::test]
async fn what_a_running_upload_leans_on_stays_until_it_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 900_000);
    filled(&store, &[(&data, false)]).await;
    let before = packs(directory.path());
    let ingest = leaning(&store, &data).await;
    let dry = CollectOptions {
        dry_run: true,
        ..at_once()
    };
    let foretold = store.collect(dry).await.unwrap();
    let report = collect(&store).await;
    for report in [foretold, report] {
        assert!(report.packs_leased >= before.len() as u64, "{report:?}");
        assert_eq!(report.packs_removed, 0, "{report:?}");
    }
    assert!(before.iter().all(|path| path.exists()));
    let info = ingest.finish().await.unwrap();
    collect(&store).await;
    assert_eq!(read(&store, info.id).await.unwrap().len(), 5_900_000);
    assert!(store.remove(info.id).await.unwrap());

    let ingest = leaning(&store, &data).await;
    drop(ingest);
    while count(directory.path(), "SELECT COUNT(*) FROM lease").await > 0 {
        tokio::task::yield_now().await;
    }
    collect(&store).await;
    assert!(packs(directory.path()).is_empty());
}

#[tokio::test]
async fn a_pack_that_uploads_lean_on_all_the_time_is_emptied_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 1_500_000);
    let hot = &data[..200_000];
    let blobs = filled(&store, &[(&data, false), (hot, true)]).await;
    let old = packs(directory.path());
    let ingest = leaning(&store, hot).await;
    let report = collect(&store).await;
    assert!(
        report.chunks_copied > 0 && report.packs_leased > 0,
        "{report:?}"
    );
    assert!(old[0].exists());
    // Somebody leans on the same chunks before the first one ends, so there is no moment without a lease.
    let next = leaning(&store, hot).await;
    let first = ingest.finish().await.unwrap();
    collect(&store).await;
    assert!(
        !old[0].exists(),
        "what is hot was moved, so the old pack is left by all"
    );
    let second = next.finish().await.unwrap();
    collect(&store).await;
    assert_whole(&store, &blobs, "after it").await;
    for id in [first.id, second.id] {
        assert_eq!(read(&store, id).await.unwrap().len(), 5_200_000);
    }
    // Nothing of the 1.3 MB that nobody names is left.
    let left = bytes_on_disk(directory.path());
    assert!(left < 5_200_000 + 300_000, "{left}");
}

#[tokio::test]
async fn who_leans_on_a_wrong_chunk_holds_the_one_that_replaces_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 100_000);
    filled(&store, &[(&data, false)]).await;
    let ingest = leaning(&store, &data).await;
    // A reader finds all of it wrong; somebody brings it again, and goes.
    let mut connection = index(directory.path()).await;
    let chunks = sqlx::query_as::<_, (Vec<u8>, i64)>("SELECT id, pack FROM chunk WHERE pack = 1");
    for (id, pack) in chunks.fetch_all(&mut connection).await.unwrap() {
        let id = <[u8; 32]>::try_from(id).unwrap().into();
        let suspect = Suspect::Chunk { id, pack };
        store.shared.index.quarantine(suspect).await.unwrap();
    }
    let healed = upload(&store, &data).await.unwrap();
    store.remove(healed.id).await.unwrap();
    collect(&store).await;
    collect(&store).await;
    let info = ingest.finish().await.unwrap();
    assert!(read(&store, info.id).await.unwrap()[..100_000] == data);
    collect(&store).await;
    assert!(read(&store, info.id).await.unwrap()[..100_000] == data);
}

#[tokio::test]
async fn who_leans_on_a_pack_that_is_lost_holds_the_one_that_replaces_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 100_000);
    filled(&store, &[(&data, false)]).await;
    let lost = packs(directory.path());
    let ingest = leaning(&store, &data).await;
    // Its file goes, and somebody finds out; somebody brings what was in it again, and goes.
    assert_eq!(lost.len(), 1);
    fs::remove_file(&lost[0]).unwrap();
    let suspect = Suspect::Pack { pack: 1 };
    store.shared.index.quarantine(suspect).await.unwrap();
    let healed = upload(&store, &data).await.unwrap();
    store.remove(healed.id).await.unwrap();
    collect(&store).await;
    collect(&store).await;
    let info = ingest.finish().await.unwrap();
    collect(&store).await;
    assert!(read(&store, info.id).await.unwrap()[..100_000] == data);
}

#[tokio::test]
async fn a_chunk_that_is_found_wrong_is_stored_again_also_by_who_holds_its_pack() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 1_000_000);
    filled(&store, &[(&data, false)]).await;
    let mut connection = index(directory.path()).await;
    let chunks = sqlx::query_as::<_, (Vec<u8>, i64)>("SELECT id, pack FROM chunk")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let mut ingest = leaning(&store, &data).await;
    for (id, pack) in &chunks {
        let id = <[u8; 32]>::try_from(id.as_slice()).unwrap().into();
        let suspect = Suspect::Chunk { id, pack: *pack };
        store.shared.index.quarantine(suspect).await.unwrap();
    }
    // The same bytes once more: but for the first and the last chunk they are cut as they were.
    ingest.write(Bytes::from(data)).await.unwrap();
    ingest.finish().await.unwrap();
    let wrong = "SELECT COUNT(*) FROM chunk WHERE quarantined <> 0";
    let wrong = count(directory.path(), wrong).await;
    assert!(wrong <= 3, "{wrong} of {}", chunks.len());
}

#[tokio::test]
async fn a_pack_that_was_named_and_is_not_known_yet_is_no_orphan() {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::new(&root.path().join("kept")));
    let directory = root.path().join("store");
    let store = Store::open_on(Arc::clone(&disk) as _, &directory, small_packs())
        .await
        .unwrap();
    let data = noise(1, 100_000);
    disk.stall(Operation::SyncDirectory);
    let uploading = {
        let (store, data) = (store.clone(), data.clone());
        tokio::spawn(async move { upload(&store, &data).await })
    };
    while disk.stalled() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(packs(&directory).len(), 1);
    let collecting = {
        let store = store.clone();
        tokio::spawn(async move { store.collect(at_once()).await })
    };
    // Long enough for it to come to the pack.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(packs(&directory).len(), 1);
    disk.mend();
    let info = uploading.await.unwrap().unwrap();
    assert_eq!(collecting.await.unwrap().unwrap().orphans_removed, 0);
    assert!(read(&store, info.id).await.unwrap() == data);
}

#[tokio::test]
async fn a_reader_goes_on_when_its_packs_are_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 12_000_000);
    let kept: Vec<u8> = (0..8)
        .flat_map(|n| &data[n * 1_500_000..][..300_000])
        .copied()
        .collect();
    let blobs = filled(&store, &[(&data, false), (&kept, true)]).await;
    let id = *blobs.keys().next().unwrap();
    // Three readers: at the first byte, in the middle, and one that has not begun.
    let mut begun = store.reader(id).await.unwrap();
    let mut seen = begun.next().await.unwrap().unwrap().to_vec();
    let untouched = store.reader(id).await.unwrap();
    let report = collect(&store).await;
    assert!(report.packs_copied > 8, "{report:?}");
    while let Some(bytes) = begun.next().await.unwrap() {
        seen.extend_from_slice(&bytes);
    }
    assert!(seen == kept);
    let mut seen = Vec::new();
    let mut reader = untouched;
    while let Some(bytes) = reader.next().await.unwrap() {
        seen.extend_from_slice(&bytes);
    }
    assert!(seen == kept);
    // A reader of what was removed and collected under it is told so, and nothing is quarantined for it.
    let mut reader = store.reader(id).await.unwrap();
    reader.next().await.unwrap().unwrap();
    store.remove(id).await.unwrap();
    collect(&store).await;
    let end = loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert!(matches!(end, Err(Error::NotFound { .. })), "{end:?}");
    let wrong = "SELECT COUNT(*) FROM chunk WHERE quarantined <> 0";
    assert_eq!(count(directory.path(), wrong).await, 0);
}

#[tokio::test]
async fn a_chunk_that_was_replaced_meanwhile_does_not_move() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 50_000);
    let blobs = filled(&store, &[(&data, true)]).await;
    let id = *blobs.keys().next().unwrap();
    let chunk = store.manifest(id).await.unwrap().chunks[0].id;
    let round = store.shared.index.begin_round().await.unwrap();
    let commit = MoveCommit {
        round,
        name: uuid::Uuid::now_v7(),
        length: 0,
        entries: 1,
        moved: vec![Moved {
            id: chunk,
            source: 1234,
            extent: Extent {
                offset: 0,
                stored: 1,
                bytes: 1,
                encoding: Encoding::Raw,
            },
        }],
        emptied: vec![1234],
    };
    let condemned = store.shared.index.move_chunks(&commit).await.unwrap();
    assert!(condemned.is_empty());
    assert_whole(&store, &blobs, "after it").await;
}
