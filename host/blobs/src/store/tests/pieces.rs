//! Every operation of an upload that comes in pieces, as the one that fails or the last one that happens: what was
//! told of it holds, and it goes on there.

use super::mending::{MEND, nobody_cares};
use super::*;
use crate::disk::faults::{EIO, ENOSPC, Fault, PowerCut};

/// What a client was told.
#[derive(Debug, Default)]
struct Told {
    id: Option<BlobId>,
    offset: usize,
    complete: bool,
}

/// Sends the upload in pieces, the first of which ends before a chunk does, for as long as that goes well.
async fn send(store: &Store, data: &[u8], told: &mut Told) -> Result<(), Error> {
    let upload = store.create_upload("blog", None, "").await?;
    told.id = Some(upload.id);
    for end in [30_000, 500_000] {
        let mut ingest = store.append(upload.id).await?;
        for block in data[told.offset..end].chunks(70_000) {
            ingest.write(Bytes::copy_from_slice(block)).await?;
        }
        told.offset = usize::try_from(ingest.suspend().await?).unwrap();
    }
    finish(store, upload.id, data, told.offset).await?;
    told.complete = true;
    Ok(())
}

async fn finish(store: &Store, id: BlobId, data: &[u8], from: usize) -> Result<BlobInfo, Error> {
    let mut ingest = store.append(id).await?;
    for block in data[from..].chunks(70_000) {
        ingest.write(Bytes::copy_from_slice(block)).await?;
    }
    ingest.finish().await
}

/// What was told of the upload holds, and what is sent from there on makes it whole.
async fn assert_goes_on(store: &Store, data: &[u8], told: &Told, when: &str) {
    let Some(id) = told.id else { return };
    let upload = store.upload(id).await.unwrap();
    let upload = upload.unwrap_or_else(|| panic!("{when}: the upload is gone"));
    let offset = usize::try_from(upload.offset).unwrap();
    assert!(offset >= told.offset, "{when}: {offset} after {told:?}");
    assert!(upload.complete || !told.complete, "{when}");
    if !upload.complete {
        let whole = finish(store, id, data, offset).await;
        whole.unwrap_or_else(|error| panic!("{when}: {error}"));
    }
    let found = read(store, id).await;
    assert!(found.is_ok_and(|found| found == data), "{when}");
}

/// Sends with this fault at every operation in turn, until one passes without coming to it; then does `afterwards`
/// to what is left, and goes on with it.
async fn every_operation(fault: Fault, mut afterwards: impl AsyncFnMut(&Site)) {
    let data = half_known(2);
    let dies = matches!(fault, Fault::Kill | Fault::Tear);
    for n in 0.. {
        let when = format!("{fault:?} at {n}");
        let site = Site::new();
        let store = site.open().await.unwrap();
        upload(&store, &known()).await.unwrap();
        site.disk.set(n, fault);
        let mut told = Told::default();
        let outcome = send(&store, &data, &mut told).await;
        let reached = site.disk.reached();
        assert_eq!(outcome.is_ok(), !reached, "{when}: {outcome:?}");
        if !dies {
            site.disk.mend();
            assert_goes_on(&store, &data, &told, &when).await;
        }
        drop(store);
        site.closed().await;
        site.disk.mend();
        afterwards(&site).await;
        let store = Store::open(&site.directory(), small_packs()).await.unwrap();
        assert_goes_on(&store, &data, &told, &when).await;
        if !reached {
            assert!(n > 20, "{n}");
            return;
        }
    }
}

#[tokio::test]
async fn a_piece_that_fails_once_or_for_a_while_takes_back_nothing() {
    for fault in [Fault::Once(EIO), Fault::Lasting(ENOSPC)] {
        every_operation(fault, async |_| {}).await;
    }
}

#[tokio::test]
async fn killed_at_any_operation_an_upload_goes_on_where_it_was_told_to_be() {
    for fault in [Fault::Kill, Fault::Tear] {
        every_operation(fault, async |_| {}).await;
    }
}

#[tokio::test]
async fn killed_at_any_operation_an_upload_goes_on_after_a_repair() {
    every_operation(Fault::Kill, async |site| {
        let report = Store::check(&site.directory(), MEND, nobody_cares()).await;
        assert_eq!(report.unwrap().remaining, 0);
    })
    .await;
}

#[tokio::test]
async fn killed_at_any_operation_an_upload_goes_on_after_a_reindex() {
    every_operation(Fault::Kill, async |site| {
        let made = Store::reindex(&site.directory(), nobody_cares()).await;
        assert_eq!(made.unwrap().damaged_packs, 0);
    })
    .await;
}

#[tokio::test]
async fn the_power_goes_at_any_operation_and_an_upload_goes_on_where_it_was_told_to_be() {
    let data = half_known(2);
    for n in 0.. {
        let site = Site::new();
        let store = site.open().await.unwrap();
        upload(&store, &known()).await.unwrap();
        site.disk.set(n, Fault::Kill);
        let mut told = Told::default();
        let _ = send(&store, &data, &mut told).await;
        let reached = site.disk.reached();
        drop(store);
        site.closed().await;
        for cut in [PowerCut::Everything, PowerCut::Something(n as u64)] {
            let when = format!("{cut:?} at {n}");
            let after = site.root.path().join(format!("{cut:?}"));
            site.disk.lose_power(&site.directory(), &after, cut);
            let store = Store::open(&after, small_packs()).await.unwrap();
            assert_goes_on(&store, &data, &told, &when).await;
        }
        if !reached {
            assert!(n > 20, "{n}");
            return;
        }
    }
}
