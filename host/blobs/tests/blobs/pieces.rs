//! Uploads that come in pieces.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_blobs::{BlobId, CollectOptions, Error, Store, StoreOptions};

use crate::testing::noise;
use crate::{open_with_small_packs, packs, read, store};

async fn write(blobs: &Store, id: BlobId, data: &[u8]) -> cofferdam_blobs::Ingest {
    let mut ingest = blobs.append(id).await.unwrap();
    for block in data.chunks(100_000) {
        ingest.write(Bytes::copy_from_slice(block)).await.unwrap();
    }
    ingest
}

async fn offset(blobs: &Store, id: BlobId) -> u64 {
    blobs.upload(id).await.unwrap().unwrap().offset
}

fn at(data: &[u8], offset: u64) -> &[u8] {
    &data[usize::try_from(offset).unwrap()..]
}

#[tokio::test]
async fn what_is_suspended_is_durable_to_the_last_byte_and_goes_on_there() {
    let directory = tempfile::tempdir().unwrap();
    let data = noise(1, 3_000_000);
    let blobs = open_with_small_packs(directory.path()).await;
    let whole = store(&blobs, "blog", &data).await;
    let upload = blobs
        .create_upload("blog", Some(3_000_000), "application/x-tar")
        .await
        .unwrap();
    // Pieces that end before a chunk does, after many packs, and after a single byte.
    let mut end = 0;
    let mut blobs = Some(blobs);
    for length in [1, 10_000, 1_000_000, 1, 1, 700_000, 200_000] {
        let open = blobs.as_ref().unwrap();
        let ingest = write(open, upload.id, &data[end..end + length]).await;
        end += length;
        assert_eq!(ingest.received(), end as u64);
        assert_eq!(ingest.suspend().await.unwrap(), end as u64);
        assert_eq!(offset(open, upload.id).await, end as u64);
        if length > 1 {
            // Another process goes on with it.
            drop(blobs.take());
            blobs = Some(open_with_small_packs(directory.path()).await);
        }
    }
    let blobs = blobs.unwrap();
    let found = blobs.upload(upload.id).await.unwrap().unwrap();
    assert_eq!((found.length, found.complete), (Some(3_000_000), false));
    assert_eq!(found.label, "application/x-tar");
    let info = write(&blobs, upload.id, &data[end..]).await.finish().await;
    let info = info.unwrap();
    assert_eq!(info.id, upload.id);
    assert_eq!((info.blake3, info.sha256), (whole.blake3, whole.sha256));
    assert_eq!(info.chunks, whole.chunks);
    let manifest = blobs.manifest(info.id).await.unwrap();
    assert_eq!(
        manifest.chunks,
        blobs.manifest(whole.id).await.unwrap().chunks
    );
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
    assert!(blobs.upload(upload.id).await.unwrap().unwrap().complete);
    let again = blobs.append(upload.id).await;
    assert!(matches!(again, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn an_append_that_dies_loses_at_most_what_is_in_no_sealed_pack() {
    const PACK: u64 = 256 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let data = noise(1, 20_000_000);
    let blobs = open_with_small_packs(directory.path()).await;
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    let ingest = write(&blobs, upload.id, &data[..50_000]).await;
    ingest.suspend().await.unwrap();
    let mut told = 50_000;
    // The process goes away in the middle: nothing is suspended, nothing is told to anybody.
    // Ends far enough that more than the window was packed by then, and near enough that nothing was.
    for end in [60_000, 9_000_000, 9_000_001, 19_900_000] {
        let from = usize::try_from(told).unwrap();
        let ingest = write(&blobs, upload.id, &data[from..end]).await;
        drop(ingest);
        // Waits until the pipeline is gone.
        let ingest = blobs.append(upload.id).await.unwrap();
        let now = offset(&blobs, upload.id).await;
        assert_eq!(ingest.received(), now);
        drop(ingest);
        assert!(now >= told, "{now} after {told} was told");
        assert!(now <= end as u64);
        told = now;
    }
    drop(blobs);
    let blobs = open_with_small_packs(directory.path()).await;
    assert_eq!(offset(&blobs, upload.id).await, told);
    let info = write(&blobs, upload.id, at(&data, told))
        .await
        .finish()
        .await;
    assert!(
        read(blobs.reader(info.unwrap().id).await.unwrap())
            .await
            .unwrap()
            == data
    );
    // Several were sealed on the way, or the above says nothing.
    assert!(told > 2 * PACK, "{told}");
}

#[tokio::test]
async fn who_goes_on_waits_until_the_one_before_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let data = noise(1, 1_000_000);
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    let first = write(&blobs, upload.id, &data[..600_000]).await;
    let second = blobs.append(upload.id);
    tokio::pin!(second);
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, &mut second).await.is_err());
    assert_eq!(first.suspend().await.unwrap(), 600_000);
    let mut second = second.await.unwrap();
    assert_eq!(second.received(), 600_000);
    let rest = Bytes::copy_from_slice(&data[600_000..]);
    second.write(rest).await.unwrap();
    let info = second.finish().await.unwrap();
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test]
async fn one_of_many_takes_a_complete_upload() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let upload = blobs.create_upload("blog", None, "label").await.unwrap();
    assert!(blobs.take_upload(upload.id).await.unwrap().is_none());
    let ingest = write(&blobs, upload.id, b"hello").await;
    ingest.finish().await.unwrap();
    assert_eq!(blobs.uploads("blog").await.unwrap(), 1);
    assert_eq!(blobs.complete_uploads().await.unwrap(), [upload.id]);
    // Nothing refers to it yet, and it is not for a collector to find.
    assert!(blobs.blobs(None, 10).await.unwrap().is_empty());
    let takers = (0..8).map(|_| {
        let blobs = blobs.clone();
        tokio::spawn(async move { blobs.take_upload(upload.id).await.unwrap() })
    });
    let mut taken = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        taken.extend(taker.await.unwrap());
    }
    let [(taken, info)] = &taken[..] else {
        panic!("{} took it", taken.len());
    };
    assert_eq!((taken.label.as_str(), info.bytes), ("label", 5));
    assert!(blobs.upload(upload.id).await.unwrap().is_none());
    // What was taken is a blob like any other: no expiry touches it.
    assert_eq!(blobs.blobs(None, 10).await.unwrap().len(), 1);
    assert!(!blobs.cancel_upload(upload.id).await.unwrap());
    assert!(blobs.blob(upload.id).await.unwrap().is_some());
}

/// Forgets what has expired, and says how much.
async fn expire(blobs: &Store) -> usize {
    let expired = blobs.expired_uploads().await.unwrap();
    for id in &expired {
        assert!(blobs.cancel_upload(*id).await.unwrap());
    }
    expired.len()
}

async fn open_with_ttl(directory: &Path, upload_ttl: Duration) -> Store {
    let options = StoreOptions {
        pack_bytes: 256 * 1024,
        upload_ttl,
        ..StoreOptions::default()
    };
    Store::open(directory, options).await.unwrap()
}

#[tokio::test]
async fn what_nobody_goes_on_with_expires_and_leaves_nothing_in_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_ttl(directory.path(), Duration::from_secs(3600)).await;
    let complete = blobs.create_upload("blog", None, "").await.unwrap();
    let ingest = write(&blobs, complete.id, &noise(1, 600_000)).await;
    ingest.finish().await.unwrap();
    let half = blobs.create_upload("blog", None, "").await.unwrap();
    let ingest = write(&blobs, half.id, &noise(2, 600_000)).await;
    ingest.suspend().await.unwrap();
    assert_eq!(expire(&blobs).await, 0);
    drop(blobs);

    // The same store, whose uploads expire at once when something is written to them.
    let blobs = open_with_ttl(directory.path(), Duration::ZERO).await;
    let ingest = write(&blobs, half.id, &noise(3, 600_000)).await;
    ingest.suspend().await.unwrap();
    assert!(blobs.upload(half.id).await.unwrap().is_none());
    assert!(matches!(
        blobs.append(half.id).await,
        Err(Error::NotFound { .. })
    ));
    assert_eq!(expire(&blobs).await, 1);
    assert_eq!(blobs.uploads("blog").await.unwrap(), 1);
    assert!(blobs.cancel_upload(complete.id).await.unwrap());
    assert!(blobs.blob(complete.id).await.unwrap().is_none());
    assert!(!blobs.holds_any("blog").await.unwrap());
    assert!(packs(directory.path(), "tmp").is_empty());
}

#[tokio::test]
async fn an_append_to_an_upload_that_is_cancelled_fails() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    let ingest = write(&blobs, upload.id, &noise(1, 100_000)).await;
    assert!(blobs.cancel_upload(upload.id).await.unwrap());
    let error = ingest.finish().await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert!(blobs.blob(upload.id).await.unwrap().is_none());
    let direct = blobs.ingest("blog").await.unwrap();
    let error = direct.suspend().await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
}

#[tokio::test]
async fn an_upload_counts_against_the_quota_from_its_first_byte_until_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        namespace_quota_bytes: Some(1_000_000),
        ..StoreOptions::default()
    };
    let blobs = Store::open(directory.path(), options).await.unwrap();
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    for piece in 1..=3 {
        let ingest = write(&blobs, upload.id, &noise(piece, 300_000)).await;
        ingest.suspend().await.unwrap();
        assert_eq!(blobs.usage("blog").await.unwrap(), piece * 300_000);
    }
    let mut over = blobs.append(upload.id).await.unwrap();
    let more = over.write(Bytes::from(noise(4, 200_000))).await;
    assert!(matches!(more, Err(Error::QuotaExceeded { .. })));
    drop(over);
    assert_eq!(offset(&blobs, upload.id).await, 900_000);
    let mut beside = blobs.ingest("blog").await.unwrap();
    let refused = beside.write(Bytes::from(noise(5, 200_000))).await;
    assert!(matches!(refused, Err(Error::QuotaExceeded { .. })));
    drop(beside);
    assert!(blobs.cancel_upload(upload.id).await.unwrap());
    assert_eq!(blobs.usage("blog").await.unwrap(), 0);
    store(&blobs, "blog", &noise(6, 900_000)).await;
}

#[tokio::test]
async fn what_a_refused_append_leaves_durable_stays_charged() {
    const QUOTA: u64 = 24_000_000;
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        namespace_quota_bytes: Some(QUOTA),
        pack_bytes: 256 << 10,
        ..StoreOptions::default()
    };
    let blobs = Store::open(directory.path(), options).await.unwrap();
    // Somebody writes all the time, so that nothing is counted anew from the index.
    let mut beside = blobs.ingest("blog").await.unwrap();
    beside.write(Bytes::from(noise(1, 1000))).await.unwrap();
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    let mut durable = 0;
    for round in 0..6 {
        // From the second round on there is no room, or not much.
        let Ok(mut over) = blobs.append(upload.id).await else {
            break;
        };
        let data = noise(2 + round, 32_000_000);
        let mut pieces = data.chunks(64 << 10).map(Bytes::copy_from_slice);
        let refused = loop {
            if let Err(error) = over.write(pieces.next().unwrap()).await {
                break error;
            }
        };
        assert!(
            matches!(refused, Error::QuotaExceeded { .. }),
            "{refused:?}"
        );
        drop(over);
        blobs.upload_settled(upload.id).await;
        durable = offset(&blobs, upload.id).await;
        assert!(durable + 1000 <= QUOTA, "round {round}: {durable}");
    }
    assert!(durable > QUOTA / 2, "nothing was sealed: {durable}");
    // And all of it is given back, once.
    let info = blobs.append(upload.id).await.unwrap().finish().await;
    assert_eq!(info.unwrap().bytes, durable);
    let (_, info) = blobs.take_upload(upload.id).await.unwrap().unwrap();
    assert!(blobs.remove(info.id).await.unwrap());
    let all = Bytes::from(noise(3, usize::try_from(QUOTA).unwrap() - 1000));
    beside.write(all).await.unwrap();
    let refused = beside.write(Bytes::from_static(b"!")).await;
    assert!(matches!(refused, Err(Error::QuotaExceeded { .. })));
}

#[tokio::test]
async fn a_collection_takes_nothing_from_an_upload_complete_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let data = noise(1, 1_500_000);
    let half = blobs.create_upload("blog", None, "").await.unwrap();
    let ingest = write(&blobs, half.id, &data[..900_000]).await;
    ingest.suspend().await.unwrap();
    let whole = blobs.create_upload("blog", None, "").await.unwrap();
    let ingest = write(&blobs, whole.id, &noise(2, 900_000)).await;
    ingest.finish().await.unwrap();
    let gone = store(&blobs, "blog", &noise(3, 900_000)).await;
    assert!(blobs.remove(gone.id).await.unwrap());
    drop(blobs);

    let blobs = open_with_small_packs(directory.path()).await;
    for _ in 0..2 {
        blobs.collect(CollectOptions::default()).await.unwrap();
    }
    assert!(read(blobs.reader(whole.id).await.unwrap()).await.is_ok());
    let info = write(&blobs, half.id, &data[900_000..])
        .await
        .finish()
        .await;
    assert!(
        read(blobs.reader(info.unwrap().id).await.unwrap())
            .await
            .unwrap()
            == data
    );
    // What is cancelled is given back.
    let before = packs(directory.path(), "pack").len();
    for id in [half.id, whole.id] {
        assert!(blobs.cancel_upload(id).await.unwrap());
    }
    blobs.collect(CollectOptions::default()).await.unwrap();
    assert!(packs(directory.path(), "pack").len() < before);
}

#[tokio::test]
async fn a_collection_takes_nothing_from_an_append_that_outlives_its_upload() {
    let directory = tempfile::tempdir().unwrap();
    let data = noise(1, 8_000_000);
    let blobs = open_with_ttl(directory.path(), Duration::from_secs(3600)).await;
    let upload = blobs.create_upload("blog", None, "").await.unwrap();
    drop(blobs);
    // Every commit of the append says that the upload has expired.
    let blobs = open_with_ttl(directory.path(), Duration::ZERO).await;
    let mut ingest = write(&blobs, upload.id, &data[..7_000_000]).await;
    while packs(directory.path(), "pack").len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..2 {
        blobs.collect(CollectOptions::default()).await.unwrap();
    }
    ingest
        .write(Bytes::copy_from_slice(&data[7_000_000..]))
        .await
        .unwrap();
    let info = ingest.finish().await.unwrap();
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test]
async fn what_clients_that_died_have_left_is_given_back_once_their_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_ttl(directory.path(), Duration::ZERO).await;
    let mut direct = blobs.ingest("blog").await.unwrap();
    for block in noise(1, 6_000_000).chunks(100_000) {
        direct.write(Bytes::copy_from_slice(block)).await.unwrap();
    }
    drop(direct);
    drop(blobs);
    let blobs = open_with_ttl(directory.path(), Duration::from_secs(3600)).await;
    let half = blobs.create_upload("blog", None, "").await.unwrap();
    drop(blobs);
    let blobs = open_with_ttl(directory.path(), Duration::ZERO).await;
    let ingest = write(&blobs, half.id, &noise(2, 6_000_000)).await;
    drop(ingest);
    blobs.upload_settled(half.id).await;
    assert!(!packs(directory.path(), "pack").is_empty());
    while expire(&blobs).await > 0 {}
    blobs.collect(CollectOptions::default()).await.unwrap();
    for end in ["pack", "tmp"] {
        assert_eq!(packs(directory.path(), end), [] as [std::path::PathBuf; 0]);
    }
    assert_eq!(blobs.usage("blog").await.unwrap(), 0);
}
