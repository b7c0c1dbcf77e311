//! A collection from its begin to its end, with nobody beside it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::*;
use crate::pack::{Kind, Pack};

#[tokio::test]
async fn what_nothing_refers_to_goes_and_everything_else_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let (first, second) = (noise(1, 900_000), noise(2, 900_000));
    let blobs = filled(&store, &[(&first, false), (&second, true)]).await;
    let before = bytes_on_disk(directory.path());

    let report = collect(&store).await;
    assert_whole(&store, &blobs, "after it").await;
    assert_tidy(directory.path(), "after it").await;
    assert_eq!(report.blobs, 1);
    assert!(report.packs_removed >= 2, "{report:?}");
    assert_eq!(report.bytes, before);
    assert_eq!(report.bytes_left(), bytes_on_disk(directory.path()));
    assert!(report.bytes_freed() >= 900_000, "{report:?}");

    // There is nothing more to do, and what comes again is stored again.
    let again = collect(&store).await;
    assert_eq!((again.packs_removed, again.packs_copied), (0, 0));
    let info = upload(&store, &first).await.unwrap();
    assert!(read(&store, info.id).await.unwrap() == first);
}

#[tokio::test]
async fn a_store_without_blobs_takes_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    filled(&store, &[(&noise(1, 900_000), false), (b"", false)]).await;
    collect(&store).await;
    assert!(packs(directory.path()).is_empty());
    assert_tidy(directory.path(), "empty").await;
    assert_eq!(
        count(directory.path(), "SELECT COUNT(*) FROM chunk").await,
        0
    );
}

#[tokio::test]
async fn what_is_alive_in_mostly_dead_packs_moves_into_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    // In each pack of the first blob about a quarter is shared with the second.
    let pieces: Vec<Vec<u8>> = (0..4).map(|n| noise(n, 1_600_000)).collect();
    let shared: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| &piece[..400_000])
        .copied()
        .collect();
    let blobs = filled(&store, &[(&pieces.concat(), false), (&shared, true)]).await;

    let report = collect(&store).await;
    assert_whole(&store, &blobs, "after it").await;
    assert_tidy(directory.path(), "after it").await;
    assert!(
        report.packs_copied > 0 && report.chunks_copied > 0,
        "{report:?}"
    );
    let left = bytes_on_disk(directory.path());
    assert_eq!(report.bytes_left(), left);
    assert!(left <= 2 * report.live_bytes, "{left} of {report:?}");
    // Chunks are counted once, where they are now.
    let stored = count(directory.path(), "SELECT COUNT(*) FROM chunk").await;
    assert!(stored as u64 >= report.live_chunks, "{report:?}");
}

/// A word of a few letters and a space.
fn letters(bytes: &[u8]) -> Vec<u8> {
    let letters = bytes[1..2 + usize::from(bytes[0] % 6)].iter();
    letters.map(|byte| b'a' + byte % 26).chain([b' ']).collect()
}

#[tokio::test]
async fn what_is_copied_is_compressed_better() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let vocabulary: Vec<Vec<u8>> = noise(1, 16_000).chunks(8).map(letters).collect();
    let words: Vec<u8> = noise(2, 200_000)
        .chunks(2)
        .flat_map(|pick| {
            let pick = usize::from(u16::from_le_bytes([pick[0], pick[1]]));
            vocabulary[pick * pick / 65536 % vocabulary.len()].clone()
        })
        .collect();
    let (kept, dead) = (words, noise(3, 3_000_000));
    let half: Vec<u8> = [&kept[..], &dead].concat();
    let blobs = filled(&store, &[(&half, false), (&kept, true)]).await;
    let report = collect(&store).await;
    assert_whole(&store, &blobs, "after it").await;
    assert!(report.chunks_copied > 3, "{report:?}");
    let again = collect(&store).await;
    assert_eq!(again.live_chunks, report.live_chunks);
    assert!(
        again.live_bytes < report.live_bytes * 97 / 100,
        "{report:?}, {again:?}"
    );
}

#[tokio::test]
async fn the_packs_alone_still_say_what_every_blob_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let (first, second) = (noise(1, 1_600_000), noise(2, 300_000));
    let kept = [&first[..300_000], &second, &first[1_300_000..]].concat();
    let blobs = filled(&store, &[(&first, false), (&second, false), (&kept, true)]).await;
    collect(&store).await;
    assert_whole(&store, &blobs, "after it").await;

    let mut found = std::collections::HashMap::new();
    for path in packs(directory.path()) {
        let pack = Pack::open(&path).unwrap();
        for entry in &pack.entries {
            found.insert((entry.kind, entry.id), pack.read(entry).unwrap());
        }
    }
    let records: Vec<_> = found
        .keys()
        .filter(|(kind, _)| *kind == Kind::Blob)
        .collect();
    assert_eq!(records.len(), 1, "removed blobs left their records");
    let (id, data) = blobs.first_key_value().unwrap();
    let manifest = store.manifest(*id).await.unwrap();
    let rebuilt: Vec<u8> = manifest
        .chunks
        .iter()
        .flat_map(|chunk| found[&(Kind::Chunk, chunk.id)].clone())
        .collect();
    assert!(rebuilt == *data);
    let parts = found.keys().filter(|(kind, _)| *kind == Kind::Manifest);
    assert_eq!(parts.count(), 1);
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let (first, second) = (noise(1, 1_600_000), noise(2, 900_000));
    let kept = first[..200_000].to_vec();
    filled(&store, &[(&first, false), (&second, false), (&kept, true)]).await;
    let orphan = directory
        .path()
        .join("packs/019a0000-0000-7000-8000-000000000002.pack");
    fs::write(&orphan, b"what a crash left").unwrap();

    let files = packs(directory.path());
    let rows = "SELECT COUNT(*) FROM chunk";
    let chunks = count(directory.path(), rows).await;
    let options = CollectOptions {
        dry_run: true,
        ..at_once()
    };
    let foretold = store.collect(options).await.unwrap();
    assert!(foretold.dry_run);
    assert_eq!(packs(directory.path()), files);
    assert_eq!(count(directory.path(), rows).await, chunks);

    let done = collect(&store).await;
    assert_eq!(
        (
            foretold.packs_removed,
            foretold.bytes_removed,
            foretold.packs_copied
        ),
        (done.packs_removed, done.bytes_removed, done.packs_copied)
    );
    assert_eq!(foretold.orphans_removed, 1);
    assert_eq!(done.orphan_bytes, 17);
    assert!(foretold.bytes_freed().abs_diff(done.bytes_freed()) < 10_000);
}

/// The packs that the index does not know were first seen so much earlier.
async fn grow_old(directory: &Path, by: Duration) {
    let mut index = index(directory).await;
    let earlier = sqlx::query("UPDATE orphan SET seen_at = seen_at - ?");
    let by = i64::try_from(by.as_millis()).unwrap();
    earlier.bind(by).execute(&mut index).await.unwrap();
}

#[tokio::test]
async fn packs_that_the_index_does_not_know_go_when_it_has_not_known_them_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 300_000);
    let blobs = filled(&store, &[(&data, true)]).await;
    let file = |name: &str| directory.path().join("packs").join(name);
    let orphan = file("019a0000-0000-7000-8000-000000000002.pack");
    fs::copy(packs(directory.path()).remove(0), &orphan).unwrap();
    // What has no pack's name is not the store's to remove.
    let foreign = [file("notes.pack"), file("notes.txt")];
    for path in &foreign {
        fs::write(path, b"do not lose").unwrap();
    }
    let careful = CollectOptions::default();
    let report = store.collect(careful.clone()).await.unwrap();
    assert_eq!(report.orphans_removed, 0);
    // However old its bytes are: it counts since when the index has not known it.
    let old = std::time::SystemTime::now() - 2 * careful.orphan_grace;
    let copy = File::options().write(true).open(&orphan).unwrap();
    copy.set_modified(old).unwrap();
    let report = store.collect(careful.clone()).await.unwrap();
    assert_eq!(report.orphans_removed, 0);
    grow_old(directory.path(), careful.orphan_grace).await;
    let report = store.collect(careful.clone()).await.unwrap();
    assert_eq!(report.orphans_removed, 1);
    assert!(!orphan.exists());
    assert!(foreign.iter().all(|path| path.exists()));
    assert_whole(&store, &blobs, "after it").await;
    // One of the same name that comes later has all of its time again.
    fs::copy(packs(directory.path()).remove(0), &orphan).unwrap();
    let report = store.collect(careful).await.unwrap();
    assert_eq!(report.orphans_removed, 0);
}

#[tokio::test]
async fn nothing_goes_while_a_manifest_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let blobs = filled(
        &store,
        &[(&noise(1, 900_000), false), (&noise(2, 900_000), true)],
    )
    .await;
    let files = packs(directory.path());
    for damage in [
        "UPDATE manifest SET data = zeroblob(length(data))",
        "UPDATE manifest SET first_byte = first_byte + 7",
        "DELETE FROM manifest",
        "UPDATE blob SET chunks = chunks + 1",
    ] {
        let mut index = index(directory.path()).await;
        sqlx::query("CREATE TABLE aside AS SELECT * FROM manifest")
            .execute(&mut index)
            .await
            .unwrap();
        sqlx::query(damage).execute(&mut index).await.unwrap();
        let refused = store.collect(at_once()).await;
        assert!(
            matches!(refused, Err(Error::Corrupt { .. })),
            "{damage}: {refused:?}"
        );
        assert_eq!(packs(directory.path()), files, "{damage}");
        for sql in [
            "DELETE FROM manifest",
            "INSERT INTO manifest SELECT * FROM aside",
            "DROP TABLE aside",
        ] {
            sqlx::query(sql).execute(&mut index).await.unwrap();
        }
        if damage.starts_with("UPDATE blob") {
            let mended = "UPDATE blob SET chunks = chunks - 1";
            sqlx::query(mended).execute(&mut index).await.unwrap();
        }
    }
    collect(&store).await;
    assert!(packs(directory.path()).len() < files.len());
    assert_whole(&store, &blobs, "after it").await;
}

#[tokio::test]
async fn a_chunk_that_cannot_be_copied_is_quarantined_and_the_rest_is_saved() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let first = noise(1, 2_000_000);
    let blobs = filled(&store, &[(&first, false), (&first[..300_000], true)]).await;
    let damaged = store
        .manifest(*blobs.keys().next().unwrap())
        .await
        .unwrap()
        .chunks[1]
        .id;
    for path in packs(directory.path()) {
        let pack = Pack::open(&path).unwrap();
        if let Some(entry) = pack.entries.iter().find(|entry| entry.id == damaged) {
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(b"rot", entry.extent.offset + 100)
                .unwrap();
        }
    }
    let report = collect(&store).await;
    assert!(report.chunks_copied > 0, "{report:?}");
    let wrong = "SELECT COUNT(*) FROM chunk WHERE quarantined <> 0";
    assert_eq!(count(directory.path(), wrong).await, 1);
    // The next upload that has it heals the blob, and the one after that collection takes the rest away.
    upload(&store, &first[..300_000]).await.unwrap();
    assert_whole(&store, &blobs, "healed").await;
    collect(&store).await;
    assert_whole(&store, &blobs, "collected").await;
    assert_tidy(directory.path(), "healed").await;
}

#[tokio::test]
async fn a_pack_that_is_lost_is_forgotten_when_nothing_of_it_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let data = noise(1, 300_000);
    let blobs = filled(&store, &[(&data, true)]).await;
    fs::remove_file(packs(directory.path()).remove(0)).unwrap();
    assert!(read(&store, *blobs.keys().next().unwrap()).await.is_err());
    collect(&store).await;
    let lost = "SELECT COUNT(*) FROM pack WHERE state = 2";
    assert_eq!(
        count(directory.path(), lost).await,
        1,
        "its chunks are missed"
    );
    upload(&store, &data).await.unwrap();
    collect(&store).await;
    assert_eq!(count(directory.path(), lost).await, 0);
    assert_whole(&store, &blobs, "healed").await;

    // And one whose chunks are dead anyway goes without having been read.
    let gone = upload(&store, &noise(2, 300_000)).await.unwrap();
    let path = packs(directory.path()).pop().unwrap();
    store.remove(gone.id).await.unwrap();
    fs::remove_file(path).unwrap();
    collect(&store).await;
    collect(&store).await;
    assert_tidy(directory.path(), "lost and dead").await;

    // What only the pack that is lost said of the blob is in another one now.
    close(store).await;
    fs::remove_file(directory.path().join("index.db")).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    Store::reindex(directory.path(), tell).await.unwrap();
    let store = open(directory.path()).await;
    assert_whole(&store, &blobs, "without the index").await;
}

/// Closes a store's index, so that its file may be taken away.
async fn close(store: Store) {
    let mut shared = std::sync::Arc::clone(&store.shared);
    drop(store);
    let last = loop {
        match std::sync::Arc::try_unwrap(shared) {
            Ok(last) => break last,
            Err(again) => shared = again,
        }
        tokio::task::yield_now().await;
    };
    last.index.close().await;
}

#[tokio::test]
async fn a_collection_keeps_its_pace() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let first = noise(1, 2_000_000);
    filled(&store, &[(&first, false), (&first[..300_000], true)]).await;
    let started = Instant::now();
    let options = CollectOptions {
        bytes_per_second: Some(2_000_000),
        ..at_once()
    };
    let report = store.collect(options).await.unwrap();
    // What was copied was read and written.
    assert!(report.bytes_written > 250_000, "{report:?}");
    assert!(started.elapsed() >= Duration::from_millis(250));
}
