//! A reindex, and a repair, on a disk that fails, stops or loses its power at any operation.

use tokio::sync::mpsc;

use super::*;
use crate::disk::Disk;
use crate::disk::faults::{ENOSPC, Fault, Operation, PowerCut};
use crate::index::Index;
use crate::pack::{self, Pack};
use crate::{CheckOptions, CheckReport};

pub(super) const MEND: CheckOptions = CheckOptions {
    read_data: true,
    repair: true,
};

/// Drinks what is told.
pub(super) fn nobody_cares() -> mpsc::Sender<crate::CheckEvent> {
    let (tell, mut told) = mpsc::channel(8);
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    tell
}

async fn mend(site: &Site) -> Result<CheckReport, Error> {
    let disk = Arc::clone(&site.disk);
    Store::check_on(disk, &site.directory(), MEND, nobody_cares()).await
}

/// A closed store with two small blobs that share a chunk or two, in two packs.
async fn two_blobs(site: &Site) -> Acknowledged {
    let store = site.open().await.unwrap();
    let mut acknowledged = Acknowledged::new();
    let shared = noise(1, 70_000);
    for data in [shared.clone(), [shared, noise(2, 70_000)].concat()] {
        let info = upload(&store, &data).await.unwrap();
        acknowledged.insert(info.id, data);
    }
    drop(store);
    site.closed().await;
    let path = site.directory().join("index.db");
    while super::super::beside_index(&path)[0].exists() {
        let index = Index::inspect(Arc::new(crate::disk::RealDisk), &path).await;
        index.unwrap().close().await;
    }
    acknowledged
}

fn flip(path: &Path, from_end: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - from_end;
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

/// The faults that are seeded, by what is damaged.
fn seed(directory: &Path, what: &str) {
    let index = directory.join("index.db");
    let pack = |n: usize| {
        let mut packs: Vec<PathBuf> = fs::read_dir(directory.join("packs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == pack::EXTENSION))
            .collect();
        packs.sort();
        packs.remove(n)
    };
    match what {
        "nothing" => {}
        "no index" => fs::remove_file(index).unwrap(),
        "an unreadable index" => fs::write(index, b"not an index").unwrap(),
        "a damaged table" => flip(&pack(0), 70),
        "a damaged table and no index" => {
            flip(&pack(0), 70);
            fs::remove_file(index).unwrap();
        }
        other => panic!("{other}"),
    }
}

/// Seeds them, for good.
fn seed_for_good(site: &Site, what: &str) {
    seed(&site.directory(), what);
    site.disk.sync_directory(&site.directory()).unwrap();
}

/// What a power cut leaves, in two ways.
fn without_power(site: &Site, n: usize) -> [(PowerCut, PathBuf); 2] {
    [PowerCut::Everything, PowerCut::Something(n as u64)].map(|cut| {
        let after = site.root.path().join(format!("{cut:?}"));
        site.disk.lose_power(&site.directory(), &after, cut);
        (cut, after)
    })
}

#[tokio::test]
async fn the_power_goes_anywhere_in_a_reindex_and_the_old_index_is_left_or_the_new_one() {
    for what in ["nothing", "no index", "an unreadable index"] {
        for n in 0.. {
            let site = Site::new();
            let acknowledged = two_blobs(&site).await;
            seed_for_good(&site, what);
            site.disk.set(n, Fault::Kill);
            let disk = Arc::clone(&site.disk);
            let made = Store::reindex_on(disk, &site.directory(), nobody_cares()).await;
            let reached = site.disk.reached();
            assert_eq!(made.is_ok(), !reached, "{what} at {n}: {made:?}");
            site.closed().await;
            for (cut, after) in without_power(&site, n) {
                let when = format!("{what}, {cut:?} at {n}");
                match Store::open(&after, small_packs()).await {
                    Ok(store) => assert_whole(&store, &acknowledged, &when).await,
                    Err(Error::Format { .. } | Error::Index { .. })
                        if what != "nothing" && reached => {}
                    Err(error) => panic!("{when}: {error}"),
                }
                drop(lock(&after, LOCK_PATIENCE).unwrap());
                let made = Store::reindex(&after, nobody_cares()).await;
                assert_eq!(made.unwrap().blobs, 2, "{when}");
                assert_found(&after, &acknowledged, &when).await;
            }
            if !reached {
                assert!(n > 8, "{n}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_power_goes_anywhere_in_a_repair_and_the_next_one_loses_nothing() {
    for what in [
        "no index",
        "a damaged table",
        "a damaged table and no index",
    ] {
        for n in 0.. {
            let site = Site::new();
            let acknowledged = two_blobs(&site).await;
            seed_for_good(&site, what);
            site.disk.set(n, Fault::Kill);
            let outcome = mend(&site).await;
            let reached = site.disk.reached();
            assert_eq!(outcome.is_ok(), !reached, "{what} at {n}: {outcome:?}");
            site.closed().await;
            for (cut, after) in without_power(&site, n) {
                let when = format!("{what}, {cut:?} at {n}");
                let disk = Arc::new(crate::disk::RealDisk);
                let again = Store::check_on(disk, &after, MEND, nobody_cares()).await;
                let again = again.unwrap_or_else(|error| panic!("{when}: {error}"));
                assert_eq!(again.remaining, 0, "{when}: {again:?}");
                assert_found(&after, &acknowledged, &when).await;
            }
            if !reached {
                assert!(n > 8, "{n}");
                break;
            }
        }
    }
}

/// Whether an index that is made anew outlives the power, on a disk that does not do this and says that it does.
async fn outlives_power_without(operation: Operation) -> bool {
    let site = Site::new();
    let acknowledged = two_blobs(&site).await;
    seed_for_good(&site, "no index");
    site.disk.swallow(operation);
    let disk = Arc::clone(&site.disk);
    let made = Store::reindex_on(disk, &site.directory(), nobody_cares()).await;
    assert_eq!(made.unwrap().blobs, 2);
    site.closed().await;
    let after = site.root.path().join("after");
    site.disk
        .lose_power(&site.directory(), &after, PowerCut::Everything);
    match Store::open(&after, small_packs()).await {
        Ok(store) => {
            assert_whole(&store, &acknowledged, "with the new index").await;
            true
        }
        Err(Error::Format { .. } | Error::Index { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_sync_of_the_new_index_that_does_not_happen_is_noticed_by_these_tests() {
    assert!(outlives_power_without(Operation::CreateDirectory).await);
    assert!(!outlives_power_without(Operation::Sync).await);
    assert!(!outlives_power_without(Operation::SyncDirectory).await);
}

#[tokio::test]
async fn a_reindex_that_is_killed_anywhere_leaves_the_old_index_or_the_new_one() {
    for what in ["nothing", "no index", "an unreadable index"] {
        for n in 0.. {
            let when = format!("{what}, killed at {n}");
            let site = Site::new();
            let acknowledged = two_blobs(&site).await;
            seed(&site.directory(), what);
            site.disk.set(n, Fault::Kill);
            let disk = Arc::clone(&site.disk);
            let made = Store::reindex_on(disk, &site.directory(), nobody_cares()).await;
            let reached = site.disk.reached();
            assert_eq!(made.is_ok(), !reached, "{when}: {made:?}");
            site.closed().await;
            match Store::open(&site.directory(), small_packs()).await {
                Ok(store) => {
                    assert_whole(&store, &acknowledged, &when).await;
                    drop(store);
                    site.closed().await;
                }
                // One that could not be read before may be refused still; never is a part of it believed.
                Err(Error::Format { .. } | Error::Index { .. }) if what != "nothing" => {}
                Err(error) => panic!("{when}: {error}"),
            }
            let made = Store::reindex(&site.directory(), nobody_cares()).await;
            assert_eq!(made.unwrap().blobs, 2, "{when}");
            assert_found(&site.directory(), &acknowledged, &when).await;
            if !reached {
                assert!(n > 8, "{n}");
                break;
            }
        }
    }
}

/// A new process finds what was acknowledged.
async fn assert_found(directory: &Path, acknowledged: &Acknowledged, when: &str) {
    let store = Store::open(directory, small_packs()).await;
    let store = store.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_whole(&store, acknowledged, when).await;
}

#[tokio::test]
async fn a_repair_that_fails_or_is_killed_anywhere_is_begun_again_and_loses_nothing() {
    for (what, fault) in [
        ("no index", Fault::Kill),
        ("a damaged table", Fault::Kill),
        ("a damaged table", Fault::Tear),
        ("a damaged table", Fault::Once(ENOSPC)),
        ("a damaged table and no index", Fault::Kill),
    ] {
        for n in 0.. {
            let when = format!("{what}, {fault:?} at {n}");
            let site = Site::new();
            let acknowledged = two_blobs(&site).await;
            seed(&site.directory(), what);
            site.disk.set(n, fault);
            let outcome = mend(&site).await;
            let reached = site.disk.reached();
            assert_eq!(outcome.is_ok(), !reached, "{when}: {outcome:?}");
            if let Err(error) = &outcome
                && matches!(fault, Fault::Once(_))
            {
                assert!(
                    matches!(error, Error::StorageFull { .. }),
                    "{when}: {error}"
                );
            }
            site.closed().await;
            let disk = Arc::new(crate::disk::RealDisk);
            let again = Store::check_on(disk, &site.directory(), MEND, nobody_cares()).await;
            let again = again.unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(again.remaining, 0, "{when}: {again:?}");
            assert_found(&site.directory(), &acknowledged, &when).await;
            if !reached {
                assert!(n > 8, "{n}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_check_after_any_death_finds_litter_and_nothing_worse() {
    for n in 0.. {
        let site = Site::new();
        let store = site.open().await.unwrap();
        upload(&store, &known()).await.unwrap();
        site.disk.set(n, Fault::Kill);
        let outcome = upload(&store, &half_known(2)).await;
        let reached = site.disk.reached();
        assert_eq!(outcome.is_ok(), !reached);
        drop(store);
        site.closed().await;
        let (tell, mut told) = mpsc::channel(64);
        let options = CheckOptions {
            read_data: true,
            repair: false,
        };
        let disk = Arc::new(crate::disk::RealDisk);
        let directory = site.directory();
        let checking =
            tokio::spawn(async move { Store::check_on(disk, &directory, options, tell).await });
        while let Some(event) = told.recv().await {
            let litter = match event {
                crate::CheckEvent::Fault(fault) => matches!(
                    fault,
                    crate::Fault::TornFile { .. } | crate::Fault::OrphanPack { .. }
                ),
                _ => true,
            };
            assert!(litter, "killed at {n}");
        }
        checking.await.unwrap().unwrap();
        if !reached {
            return;
        }
    }
}

#[test]
fn the_table_of_a_pack_is_found_also_when_it_holds_a_pack() {
    // A pack that was stored as a blob, whole, has a table of its own before the real one.
    let directory = tempfile::tempdir().unwrap();
    let disk = || -> Arc<dyn Disk> { Arc::new(crate::disk::RealDisk) };
    let write = |record: &[u8]| {
        let mut writer = pack::PackWriter::create(disk(), directory.path()).unwrap();
        let bytes = u32::try_from(record.len()).unwrap();
        let id = Digest::blake3(record);
        let kind = pack::Kind::Chunk;
        writer
            .append(kind, id, bytes, pack::Encoding::Raw, record)
            .unwrap();
        let mut closed = writer.close().unwrap();
        closed.seal().unwrap();
        directory.path().join(pack::pack_file_name(closed.name()))
    };
    let inner = fs::read(write(b"something")).unwrap();
    let outer = write(&inner);
    let whole = Pack::open(&outer).unwrap().entries;
    let bytes = fs::read(&outer).unwrap();
    fs::write(&outer, &bytes[..bytes.len() - 64]).unwrap();
    let salvage = pack::Salvage::open(disk(), &outer).unwrap();
    assert_eq!(salvage.candidates, whole);
    assert!(salvage.is_good(&whole[0], &mut pack::Decoder::default()));
}
