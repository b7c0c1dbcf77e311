//! The power goes, and with it what was not synced.

use super::*;
use crate::disk::faults::{Fault, Operation, PowerCut};

async fn every_moment(way: Way) -> usize {
    for n in 0.. {
        let site = Site::new();
        let store = site.open().await.unwrap();
        let first = upload(&store, &known()).await.unwrap();
        let mut acknowledged = Acknowledged::from([(first.id, known())]);
        site.disk.set(n, Fault::Kill);
        let data = half_known(2);
        let mut ingest = store.ingest("blog").await.unwrap();
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
        assert!(outcome.is_ok() != reached || late, "at {n}: {outcome:?}");
        if let Ok(info) = outcome {
            acknowledged.insert(info.id, data);
        }
        drop(store);
        site.closed().await;
        for cut in [PowerCut::Everything, PowerCut::Something(n as u64)] {
            let when = format!("{way:?}, {cut:?} at {n}");
            let after = site.root.path().join(format!("{cut:?}"));
            site.disk.lose_power(&site.directory(), &after, cut);
            assert_comes_back(&after, &acknowledged, &when).await;
        }
        if !reached {
            return n;
        }
    }
    unreachable!("an upload has an end")
}

#[tokio::test]
async fn the_power_goes_at_any_operation_and_every_acknowledged_blob_is_whole() {
    for way in [Way::Whole, Way::Listed] {
        assert!(every_moment(way).await > 20);
    }
}

/// Whether the blob of a store whose disk does not do this, and says that it does, outlives the power.
async fn outlives_power_without(operation: Operation) -> bool {
    let site = Site::new();
    let store = site.open().await.unwrap();
    site.disk.swallow(operation);
    let info = upload(&store, &half_known(2)).await.unwrap();
    assert!(site.disk.seen(operation) > 0);
    drop(store);
    site.closed().await;
    let after = site.root.path().join("after");
    site.disk
        .lose_power(&site.directory(), &after, PowerCut::Everything);
    let store = Store::open(&after, small_packs()).await.unwrap();
    read(&store, info.id)
        .await
        .is_ok_and(|found| found == half_known(2))
}

#[tokio::test]
async fn a_sync_that_does_not_happen_is_noticed_by_these_tests() {
    // An operation that nothing leans on once the store is open.
    assert!(outlives_power_without(Operation::CreateDirectory).await);
    assert!(!outlives_power_without(Operation::Sync).await);
    assert!(!outlives_power_without(Operation::SyncDirectory).await);
}
