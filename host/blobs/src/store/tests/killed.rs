//! Every operation of an upload, and of opening a store, as the one that fails or the last one that happens.

use super::*;
use crate::disk::faults::{EIO, ENOSPC, Fault};

/// Uploads with this fault at every operation in turn, until one passes without coming to it. Each time the store
/// is shown to be whole and to go on: the same one if its process lives, and the next one.
async fn every_operation(fault: Fault, way: Way) -> usize {
    let dies = matches!(fault, Fault::Kill | Fault::Tear);
    for n in 0.. {
        let when = format!("{way:?}, {fault:?} at {n}");
        let site = Site::new();
        let store = site.open().await.unwrap();
        let mut acknowledged = Acknowledged::new();
        let first = upload(&store, &known()).await.unwrap();
        acknowledged.insert(first.id, known());

        site.disk.set(n, fault);
        let data = half_known(2);
        let mut ingest = store.ingest("blog").await.unwrap();
        let mut follower = ingest.follow();
        let outcome = match feed(&store, &mut ingest, &data, way).await {
            Ok(()) => ingest.finish().await,
            Err(error) => {
                drop(ingest);
                Err(error)
            }
        };
        let reached = site.disk.reached();
        // The leases of a list are given back behind the upload's back, which may come to the fault too.
        let late = way == Way::Listed && reached;
        assert!(outcome.is_ok() != reached || late, "{when}: {outcome:?}");
        if let Ok(info) = outcome {
            acknowledged.insert(info.id, data.clone());
        }
        // Who followed it saw all of it or an error.
        let mut seen = Vec::new();
        let end = loop {
            match follower.next().await {
                Ok(Some(bytes)) => seen.extend_from_slice(&bytes),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(end.is_err() || seen == data, "{when}");
        drop(follower);

        if !dies {
            site.disk.mend();
            let data = half_known(3);
            let info = upload(&store, &data).await;
            let info = info.unwrap_or_else(|error| panic!("{when}: {error}"));
            acknowledged.insert(info.id, data);
            assert_whole(&store, &acknowledged, &when).await;
        }
        drop(store);
        site.closed().await;
        assert_comes_back(&site.directory(), &acknowledged, &when).await;
        if !reached {
            return n;
        }
    }
    unreachable!("an upload has an end")
}

#[tokio::test]
async fn an_operation_that_fails_once_fails_its_upload_and_nothing_else() {
    for way in [Way::Whole, Way::Listed] {
        assert!(every_operation(Fault::Once(EIO), way).await > 20);
    }
}

#[tokio::test]
async fn an_operation_that_happens_and_is_said_to_have_failed_harms_nothing() {
    for way in [Way::Whole, Way::Listed] {
        assert!(every_operation(Fault::Late(EIO), way).await > 20);
    }
}

#[tokio::test]
async fn whatever_is_said_to_have_failed_a_namespace_has_its_room_when_its_blobs_are_gone() {
    for n in 0.. {
        let site = Site::new();
        let disk = Arc::clone(&site.disk);
        let options = StoreOptions {
            namespace_quota_bytes: Some(2_000_000),
            ..small_packs()
        };
        let store = Store::open_on(disk, &site.directory(), options)
            .await
            .unwrap();
        // Somebody writes all the time, so that nothing is counted anew from the index.
        let beside = store.ingest("blog").await.unwrap();
        site.disk.set(n, Fault::Late(EIO));
        let outcome = upload(&store, &half_known(2)).await;
        let reached = site.disk.reached();
        // That the store is marked as one in use can wait.
        assert!(outcome.is_ok() || reached, "at {n}: {outcome:?}");
        site.disk.mend();
        for blob in store.blobs(None, 10).await.unwrap() {
            assert!(store.remove(blob.id).await.unwrap());
        }
        let data = noise(3, 1_900_000);
        let info = upload(&store, &data).await;
        let info = info.unwrap_or_else(|error| panic!("at {n}: {error}"));
        assert!(read(&store, info.id).await.unwrap() == data, "at {n}");
        drop(beside);
        if !reached {
            assert!(n > 20, "{n}");
            return;
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_full_from_any_operation_on_is_no_end_once_there_is_room() {
    for way in [Way::Whole, Way::Listed] {
        assert!(every_operation(Fault::Lasting(ENOSPC), way).await > 20);
    }
}

#[tokio::test]
async fn killed_before_any_operation_of_an_upload_a_store_comes_back_whole() {
    for way in [Way::Whole, Way::Listed] {
        assert!(every_operation(Fault::Kill, way).await > 20);
    }
}

#[tokio::test]
async fn killed_in_the_middle_of_any_write_a_store_comes_back_whole() {
    for way in [Way::Whole, Way::Listed] {
        assert!(every_operation(Fault::Tear, way).await > 20);
    }
}

#[tokio::test]
async fn killed_at_any_operation_of_opening_a_store_it_opens_the_next_time() {
    for n in 0.. {
        let when = format!("opening, at {n}");
        let site = Site::new();
        site.disk.set(n, Fault::Kill);
        let opened = site.open().await;
        let reached = site.disk.reached();
        assert_eq!(opened.is_ok(), !reached, "{when}");
        drop(opened);
        assert_comes_back(&site.directory(), &Acknowledged::new(), &when).await;
        if !reached {
            assert!(n > 3, "{n}");
            break;
        }
    }
    // One that has blobs, and a torn pack of an upload that died.
    for n in 0.. {
        let when = format!("opening again, at {n}");
        let site = Site::new();
        let store = site.open().await.unwrap();
        let info = upload(&store, &known()).await.unwrap();
        let acknowledged = Acknowledged::from([(info.id, known())]);
        drop(store);
        site.closed().await;
        fs::write(site.directory().join("packs/torn.tmp"), b"torn").unwrap();
        site.disk.set(n, Fault::Kill);
        let opened = site.open().await;
        let reached = site.disk.reached();
        assert_eq!(opened.is_ok(), !reached, "{when}");
        drop(opened);
        site.closed().await;
        assert_comes_back(&site.directory(), &acknowledged, &when).await;
        if !reached {
            break;
        }
    }
}
