//! Quotas of namespaces, and room that is kept free.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::disk::{Disk, RealDisk};

fn with_quotas(of_all: u64, own: &[(&str, u64)]) -> StoreOptions {
    StoreOptions {
        namespace_quota_bytes: Some(of_all),
        namespace_quotas: own
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), *bytes))
            .collect(),
        ..small_packs()
    }
}

async fn upload_to(store: &Store, namespace: &str, data: &[u8]) -> Result<BlobInfo, Error> {
    let mut ingest = store.ingest(namespace).await?;
    for block in data.chunks(70_000) {
        ingest.write(Bytes::copy_from_slice(block)).await?;
    }
    ingest.finish().await
}

#[tokio::test]
async fn a_namespace_holds_what_it_may_and_not_a_byte_more() {
    let directory = tempfile::tempdir().unwrap();
    let options = with_quotas(1_000_000, &[("large", 2_000_000)]);
    let store = Store::open(directory.path(), options.clone())
        .await
        .unwrap();
    let data = noise(1, 600_000);
    let first = upload_to(&store, "blog", &data).await.unwrap();
    assert_eq!(store.usage("blog").await.unwrap(), 600_000);
    // The same bytes again take no room, and are counted in full all the same.
    let refused = upload_to(&store, "blog", &data).await;
    let Err(Error::QuotaExceeded {
        namespace, quota, ..
    }) = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((namespace.as_str(), *quota), ("blog", 1_000_000));
    assert_eq!(store.usage("blog").await.unwrap(), 600_000);
    // What it was refused for is free again, to the last byte.
    let rest = upload_to(&store, "blog", &data[..400_000]).await.unwrap();
    let full = store.ingest("blog").await;
    assert!(
        matches!(
            full,
            Err(Error::QuotaExceeded {
                used: 1_000_000,
                ..
            })
        ),
        "{full:?}"
    );
    // Nobody else is concerned.
    upload_to(&store, "another", &data).await.unwrap();
    upload_to(&store, "large", &[&data[..], &data, &data].concat())
        .await
        .unwrap();
    drop(store);

    let store = Store::open(directory.path(), options).await.unwrap();
    assert!(matches!(
        store.ingest("blog").await,
        Err(Error::QuotaExceeded { .. })
    ));
    // Room comes back with a removal at once, whether the collector has run or not.
    assert!(store.remove(first.id).await.unwrap());
    assert!(!store.remove(first.id).await.unwrap());
    upload_to(&store, "blog", &data).await.unwrap();
    assert!(read(&store, rest.id).await.unwrap() == data[..400_000]);
}

#[tokio::test]
async fn uploads_that_run_at_once_share_a_quota() {
    let directory = tempfile::tempdir().unwrap();
    let options = with_quotas(1_000_000, &[]);
    let store = Store::open(directory.path(), options).await.unwrap();
    let mut one = store.ingest("blog").await.unwrap();
    let mut other = store.ingest("blog").await.unwrap();
    one.write(Bytes::from(noise(1, 600_000))).await.unwrap();
    let refused = other.write(Bytes::from(noise(2, 600_000))).await;
    assert!(
        matches!(refused, Err(Error::QuotaExceeded { used: 600_000, .. })),
        "{refused:?}"
    );
    // It has ended with that, and has given nothing away.
    let refused = other.finish().await;
    assert!(
        matches!(refused, Err(Error::QuotaExceeded { .. })),
        "{refused:?}"
    );
    one.write(Bytes::from(noise(3, 400_000))).await.unwrap();
    let info = one.finish().await.unwrap();
    assert_eq!(info.bytes, 1_000_000);
    // A blob that is removed while others run is given back as well.
    store.remove(info.id).await.unwrap();
    let mut one = store.ingest("blog").await.unwrap();
    one.write(Bytes::from(noise(1, 1_000_000))).await.unwrap();
    drop(one);
    upload_to(&store, "blog", &noise(4, 1_000_000))
        .await
        .unwrap();
}

/// A disk that has as much room as a test says.
#[derive(Debug)]
struct SmallDisk {
    free: AtomicU64,
}

impl Disk for SmallDisk {
    fn free_bytes(&self, _directory: &Path) -> std::io::Result<u64> {
        Ok(self.free.load(Ordering::SeqCst))
    }
    fn append(&self, file: &fs::File, bytes: &[u8]) -> std::io::Result<()> {
        self.free.fetch_sub(bytes.len() as u64, Ordering::SeqCst);
        RealDisk.append(file, bytes)
    }
    fn create_directory(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.create_directory(path)
    }
    fn list(&self, path: &Path) -> std::io::Result<Vec<PathBuf>> {
        RealDisk.list(path)
    }
    fn create(&self, path: &Path) -> std::io::Result<fs::File> {
        RealDisk.create(path)
    }
    fn open(&self, path: &Path) -> std::io::Result<fs::File> {
        RealDisk.open(path)
    }
    fn read_at(&self, file: &fs::File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        RealDisk.read_at(file, bytes, offset)
    }
    fn sync(&self, file: &fs::File) -> std::io::Result<()> {
        RealDisk.sync(file)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn sync_directory(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.sync_directory(path)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.remove(path)
    }
    fn before_commit(&self, _index: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_upload_ends_before_the_disk_is_full_and_the_next_one_works() {
    const FLOOR: u64 = 10_000_000;
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(SmallDisk {
        free: AtomicU64::new(FLOOR + 6_000_000),
    });
    let options = StoreOptions {
        free_floor_bytes: FLOOR,
        ..small_packs()
    };
    let store = Store::open_on(Arc::clone(&disk) as _, directory.path(), options)
        .await
        .unwrap();
    let kept = noise(1, 500_000);
    let info = upload(&store, &kept).await.unwrap();

    let refused = upload(&store, &noise(2, 30_000_000)).await;
    let Err(Error::FloorReached { free, floor, .. }) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(*floor, FLOOR);
    // It wrote a few megabytes more at most: what it writes between two looks, and a pack.
    assert!(*free > FLOOR - 6_000_000, "{free}");
    let refused = store.ingest("blog").await;
    assert!(
        matches!(refused, Err(Error::FloorReached { .. })),
        "{refused:?}"
    );
    assert!(matches!(
        store.check_room().await,
        Err(Error::FloorReached { .. })
    ));
    assert!(read(&store, info.id).await.unwrap() == kept);

    // The collector gives the room back that the refused one had taken; then there is enough.
    while count(directory.path(), "SELECT COUNT(*) FROM lease").await > 0 {
        tokio::task::yield_now().await;
    }
    let report = collect(&store).await;
    disk.free.fetch_add(report.bytes_freed(), Ordering::SeqCst);
    assert!(report.bytes_freed() > 4_000_000, "{report:?}");
    store.check_room().await.unwrap();
    let next = noise(3, 1_000_000);
    let info = upload(&store, &next).await.unwrap();
    assert!(read(&store, info.id).await.unwrap() == next);
}

#[tokio::test]
async fn the_disk_itself_says_how_much_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let free = RealDisk.free_bytes(directory.path()).unwrap();
    assert!(free > 0);
    let options = StoreOptions {
        free_floor_bytes: u64::MAX,
        ..small_packs()
    };
    let store = Store::open(directory.path(), options).await.unwrap();
    let refused = store.ingest("blog").await;
    assert!(
        matches!(
            refused,
            Err(Error::FloorReached {
                floor: u64::MAX,
                ..
            })
        ),
        "{refused:?}"
    );
}
