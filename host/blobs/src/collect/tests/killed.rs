//! A collection that stops at every one of its changes, and the one after it.

use std::sync::Arc;

use super::*;
use crate::disk::faults::{EIO, Fault, FaultyDisk, PowerCut};

/// A store on a faulty disk that has something to sweep and something to copy.
struct Site {
    root: tempfile::TempDir,
    disk: Arc<FaultyDisk>,
    store: Store,
    blobs: BTreeMap<BlobId, Vec<u8>>,
}

impl Site {
    async fn new() -> Site {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::new(&root.path().join("kept")));
        let directory = root.path().join("store");
        let store = Store::open_on(Arc::clone(&disk) as _, &directory, small_packs())
            .await
            .unwrap();
        let (first, second, third) = (noise(1, 900_000), noise(2, 500_000), noise(3, 150_000));
        let kept = [&first[..150_000], &third].concat();
        let blobs = [
            (&first[..], false),
            (&second, false),
            (&kept, true),
            (&third, true),
        ];
        let blobs = filled(&store, &blobs).await;
        Site {
            root,
            disk,
            store,
            blobs,
        }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("store")
    }
}

/// Opens a store as the next process would: the blobs are whole, and a collection takes up what was left.
async fn assert_goes_on(directory: &Path, blobs: &BTreeMap<BlobId, Vec<u8>>, when: &str) {
    let store = open(directory).await;
    assert_whole(&store, blobs, when).await;
    let report = collect(&store).await;
    assert_whole(&store, blobs, &format!("{when}, collected")).await;
    assert_tidy(directory, when).await;
    assert!(
        report.bytes_left() <= 2 * report.live_bytes + 10_000,
        "{when}: {report:?}"
    );
    let data = noise(1, 900_000);
    let info = upload(&store, &data).await.unwrap();
    assert!(read(&store, info.id).await.unwrap() == data, "{when}");
}

#[tokio::test]
async fn killed_before_any_change_it_is_taken_up_by_the_next_one() {
    for n in 0.. {
        let site = Site::new().await;
        let fault = if n % 2 == 0 { Fault::Kill } else { Fault::Tear };
        site.disk.set(n, fault);
        let outcome = site.store.collect(at_once()).await;
        if !site.disk.reached() {
            outcome.unwrap();
            assert!(n > 15, "{n} changes");
            break;
        }
        outcome.unwrap_err();
        let directory = site.directory();
        let Site {
            blobs, store, root, ..
        } = site;
        drop(store);
        assert_goes_on(&directory, &blobs, &format!("killed at {n}")).await;
        drop(root);
    }
}

#[tokio::test]
async fn when_the_power_goes_at_any_change_nothing_is_missing() {
    for n in 0.. {
        let site = Site::new().await;
        site.disk.set(n, Fault::Kill);
        let outcome = site.store.collect(at_once()).await;
        if !site.disk.reached() {
            outcome.unwrap();
            break;
        }
        for cut in [PowerCut::Everything, PowerCut::Something(n as u64)] {
            // Never the same place twice: a connection that closes late removes the log of its path.
            let after = site.root.path().join(format!("after {cut:?}"));
            site.disk.lose_power(&site.directory(), &after, cut);
            assert_goes_on(&after, &site.blobs, &format!("{cut:?} at {n}")).await;
        }
    }
}

#[tokio::test]
async fn a_change_that_fails_ends_the_collection_and_nothing_else() {
    for n in 0.. {
        let site = Site::new().await;
        site.disk.set(n, Fault::Once(EIO));
        let outcome = site.store.collect(at_once()).await;
        let reached = site.disk.reached();
        site.disk.mend();
        assert_whole(&site.store, &site.blobs, &format!("failed at {n}")).await;
        collect(&site.store).await;
        assert_whole(&site.store, &site.blobs, &format!("collected after {n}")).await;
        assert_tidy(&site.directory(), &format!("collected after {n}")).await;
        if !reached {
            outcome.unwrap();
            break;
        }
    }
}
