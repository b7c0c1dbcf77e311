//! A disk that is full, read-only, forbidden, broken or slow.

use std::time::{Duration, Instant};

use super::*;
use crate::disk::faults::{EACCES, EIO, ENOSPC, EROFS, Fault, Operation};

#[tokio::test]
async fn a_disk_that_refuses_says_so_clearly_and_uploads_go_on_when_it_takes_bytes_again() {
    for (number, words) in [
        (ENOSPC, "free some space, then send it again"),
        (EROFS, "mount it for writing again"),
        (EACCES, "the right to write there again"),
        (EIO, "nput/output error"),
    ] {
        // The first operation, one in the middle of a pack, and ones around its end.
        for n in [0, 2, 5, 6, 7, 8, 9] {
            let when = format!("error {number} at {n}");
            let site = Site::new();
            let store = site.open().await.unwrap();
            let first = upload(&store, &known()).await.unwrap();
            let mut acknowledged = Acknowledged::from([(first.id, known())]);
            site.disk.set(n, Fault::Lasting(number));
            for seed in [2, 3] {
                let error = upload(&store, &half_known(seed)).await.unwrap_err();
                let full = matches!(error, Error::StorageFull { .. });
                assert_eq!(full, number == ENOSPC, "{when}: {error}");
                let said = error.to_string();
                assert!(said.contains(words), "{when}: {said}");
                let place = site.directory().display().to_string();
                assert!(said.contains(&place), "{when}: {said}");
            }
            // What is there can be read all the while.
            assert_whole(&store, &acknowledged, &when).await;
            site.disk.mend();
            for seed in [4, 5] {
                let data = half_known(seed);
                let info = upload(&store, &data).await;
                let info = info.unwrap_or_else(|error| panic!("{when}: {error}"));
                acknowledged.insert(info.id, data);
            }
            assert_whole(&store, &acknowledged, &when).await;
            drop(store);
            site.closed().await;
            assert_comes_back(&site.directory(), &acknowledged, &when).await;
        }
    }
}

#[tokio::test]
async fn a_chunk_that_the_disk_cannot_give_is_quarantined_and_stored_elsewhere_by_the_next_upload()
{
    let site = Site::new();
    let store = site.open().await.unwrap();
    let info = upload(&store, &known()).await.unwrap();
    drop(store);
    site.closed().await;
    // Opened anew, so that no file is open.
    let store = site.open().await.unwrap();
    assert!(read(&store, info.id).await.is_ok());
    site.disk.fail_reads(EIO);
    let error = read(&store, info.id).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let damage = store.damage().await.unwrap();
    assert_eq!((damage.chunks, damage.reads), (1, 1));
    site.disk.mend();
    upload(&store, &known()).await.unwrap();
    let damage = store.damage().await.unwrap();
    assert_eq!((damage.chunks, damage.reads), (0, 1));
    assert!(read(&store, info.id).await.unwrap() == known());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_holds_up_who_writes_and_nobody_else() {
    for operation in [
        Operation::Create,
        Operation::Append,
        Operation::Sync,
        Operation::SyncDirectory,
        Operation::Commit,
    ] {
        let site = Site::new();
        let store = site.open().await.unwrap();
        let first = upload(&store, &known()).await.unwrap();
        let mut acknowledged = Acknowledged::from([(first.id, known())]);
        site.disk.stall(operation);
        let writer = tokio::spawn({
            let store = store.clone();
            async move { upload(&store, &half_known(2)).await }
        });
        while site.disk.stalled() == 0 {
            tokio::task::yield_now().await;
        }
        assert_whole(&store, &acknowledged, "while the disk hangs").await;
        // One that is given up meanwhile is no trouble.
        let mut other = store.ingest("blog").await.unwrap();
        other.write(Bytes::from(noise(3, 50_000))).await.unwrap();
        drop(other);
        assert!(!writer.is_finished());
        site.disk.mend();
        let info = writer.await.unwrap().unwrap();
        acknowledged.insert(info.id, half_known(2));
        assert_whole(&store, &acknowledged, "after the disk has hung").await;
    }
}

#[tokio::test]
async fn a_slow_disk_makes_an_upload_slow_and_nothing_else() {
    let site = Site::new();
    let store = site.open().await.unwrap();
    let slowness = Duration::from_millis(60);
    site.disk.slow_down(Operation::Sync, slowness);
    let before = site.disk.seen(Operation::Sync);
    let start = Instant::now();
    let info = upload(&store, &half_known(2)).await.unwrap();
    let syncs = u32::try_from(site.disk.seen(Operation::Sync) - before).unwrap();
    assert!(syncs >= 2, "{syncs}");
    assert!(start.elapsed() >= slowness * syncs);
    assert!(read(&store, info.id).await.unwrap() == half_known(2));
}
