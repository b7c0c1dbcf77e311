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
