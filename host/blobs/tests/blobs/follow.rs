//! Reading a blob while it is being written.

use std::time::Duration;

use bytes::Bytes;
use cofferdam_blobs::Error;

use crate::testing::noise;
use crate::{open, open_with_small_packs, packs, read};

const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_follower_from_the_start_sees_every_byte_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let data = noise(1, 12_000_000);
    let mut ingest = blobs.ingest("blog").await.unwrap();
    let followers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(read(ingest.follow())))
        .collect();
    for block in data.chunks(33_333) {
        ingest.write(Bytes::copy_from_slice(block)).await.unwrap();
    }
    ingest.finish().await.unwrap();
    for follower in followers {
        assert!(follower.await.unwrap().unwrap() == data);
    }
}

#[tokio::test]
async fn every_byte_of_a_dribble_is_seen_before_the_next_one_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let mut ingest = blobs.ingest("blog").await.unwrap();
    let mut follower = ingest.follow();
    for byte in 0..=255 {
        ingest.write(Bytes::copy_from_slice(&[byte])).await.unwrap();
        let seen = follower.next().await.unwrap().unwrap();
        assert_eq!(seen[..], [byte]);
    }
    ingest.finish().await.unwrap();
    assert_eq!(follower.next().await.unwrap(), None);
    assert_eq!(follower.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_follower_that_lags_by_many_packs_still_sees_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let data = noise(1, 15_000_000);
    let mut ingest = blobs.ingest("blog").await.unwrap();
    let mut slow = ingest.follow();
    let untouched = ingest.follow();
    let mut seen = Vec::new();
    for (n, block) in data.chunks(1_000_000).enumerate() {
        ingest.write(Bytes::copy_from_slice(block)).await.unwrap();
        if n % 5 == 4 {
            seen.extend_from_slice(&slow.next().await.unwrap().unwrap());
        }
    }
    let late = ingest.follow();
    assert!(seen.len() < 5_000_000);
    ingest.finish().await.unwrap();
    seen.extend(read(slow).await.unwrap());
    assert!(seen == data);
    assert!(read(untouched).await.unwrap() == data);
    assert!(read(late).await.unwrap() == data);
}

#[tokio::test]
async fn a_follower_that_lags_on_known_chunks_reads_them_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 10_000_000);
    crate::store(&blobs, "blog", &data).await;
    let mut ingest = blobs.ingest("blog").await.unwrap();
    ingest.write(Bytes::from(data.clone())).await.unwrap();
    let follower = tokio::spawn(read(ingest.follow()));
    ingest.write(Bytes::from(data.clone())).await.unwrap();
    ingest.finish().await.unwrap();
    assert!(follower.await.unwrap().unwrap() == [data.clone(), data].concat());
}

#[tokio::test]
async fn a_follower_that_goes_away_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 9_000_000);
    let mut ingest = blobs.ingest("blog").await.unwrap();
    let mut follower = ingest.follow();
    ingest.write(Bytes::from(data.clone())).await.unwrap();
    follower.next().await.unwrap();
    drop(follower);
    let info = ingest.finish().await.unwrap();
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test]
async fn the_end_is_not_seen_before_the_writer_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let mut ingest = blobs.ingest("blog").await.unwrap();
    ingest
        .write(Bytes::from_static(b"all of it"))
        .await
        .unwrap();
    let mut follower = ingest.follow().with_idle_timeout(SOON);
    assert_eq!(follower.next().await.unwrap().unwrap(), "all of it");
    let waited = follower.next().await;
    assert!(matches!(waited, Err(Error::IdleTimeout { after }) if after == SOON));
    // Who gave up stays that way, and others do not mind.
    assert!(matches!(
        follower.next().await,
        Err(Error::IdleTimeout { .. })
    ));
    let patient = ingest.follow();
    ingest.finish().await.unwrap();
    assert_eq!(read(patient).await.unwrap(), b"all of it");
}

#[tokio::test]
async fn a_follower_of_an_upload_that_stops_sees_an_error_and_never_a_short_blob() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let mut ingest = blobs.ingest("blog").await.unwrap();
    let id = ingest.id();
    let waiting = tokio::spawn(read(ingest.follow()));
    let mut idle = ingest.follow();
    ingest
        .write(Bytes::from(noise(1, 6_000_000)))
        .await
        .unwrap();
    assert!(ingest.received() == 6_000_000);
    drop(ingest);
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    for _ in 0..2 {
        assert!(matches!(idle.next().await, Err(Error::Interrupted { .. })));
    }
    assert_eq!(blobs.blob(id).await.unwrap(), None);
    // What it had begun to write goes away with it.
    while !packs(directory.path(), "tmp").is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn finishing_that_is_given_up_is_no_deadlock_and_the_store_works_on() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    for _ in 0..20 {
        let mut ingest = blobs.ingest("blog").await.unwrap();
        let follower = ingest.follow();
        ingest.write(Bytes::from(noise(2, 300_000))).await.unwrap();
        let id = ingest.id();
        let _ = tokio::time::timeout(Duration::from_micros(500), ingest.finish()).await;
        // Either all of it or an error, for the follower and in the store.
        if let Ok(bytes) = read(follower).await {
            assert!(bytes == noise(2, 300_000));
        }
        if let Ok(reader) = blobs.reader(id).await {
            assert!(read(reader).await.unwrap() == noise(2, 300_000));
        }
    }
    crate::store(&blobs, "blog", b"after").await;
}

#[tokio::test]
async fn a_follower_of_a_blob_that_is_removed_sees_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let mut ingest = blobs.ingest("blog").await.unwrap();
    let follower = ingest.follow();
    ingest
        .write(Bytes::from(noise(1, 5_000_000)))
        .await
        .unwrap();
    let info = ingest.finish().await.unwrap();
    blobs.remove(info.id).await.unwrap();
    let error = read(follower).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}
