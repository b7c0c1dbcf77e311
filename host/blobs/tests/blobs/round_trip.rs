//! What is written is what is read, and what is known is not written again.

use std::fs;

use bytes::Bytes;
use cofferdam_blobs::{Digest, Error, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, StoreOptions};
use sha2::Digest as _;

use crate::testing::noise;
use crate::{open, open_with_small_packs, packs, read, store};

/// Text-like bytes, which compress well.
fn prose(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length / 16 + 1)
        .iter()
        .flat_map(|byte| format!("word number {byte:03} ").into_bytes())
        .take(length)
        .collect()
}

#[tokio::test]
async fn every_size_comes_back_as_it_went_in() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let sizes = [
        0,
        1,
        MIN_CHUNK_BYTES - 1,
        MIN_CHUNK_BYTES,
        MAX_CHUNK_BYTES - 1,
        MAX_CHUNK_BYTES,
        MAX_CHUNK_BYTES + 1,
        3 * MAX_CHUNK_BYTES,
        20_000_003,
    ];
    for (seed, size) in (1..).zip(sizes) {
        for data in [noise(seed, size), prose(seed, size), vec![0; size]] {
            let info = store(&blobs, "blog", &data).await;
            assert_eq!(info.bytes, size as u64);
            assert_eq!(info.blake3, Digest::blake3(&data));
            assert_eq!(info.sha256, None);
            assert_eq!(blobs.blob(info.id).await.unwrap(), Some(info.clone()));
            let sha256: [u8; 32] = sha2::Sha256::digest(&data).into();
            let sha256 = Digest::from(sha256);
            assert_eq!(blobs.sha256(info.id).await.unwrap(), sha256);
            let mut asked = blobs.ingest_with_sha256("blog").await.unwrap();
            asked.write(Bytes::from(data.clone())).await.unwrap();
            let asked = asked.finish().await.unwrap();
            assert_eq!(asked.sha256, Some(sha256));
            assert_eq!(blobs.blob(asked.id).await.unwrap(), Some(asked));
            let reader = blobs.reader(info.id).await.unwrap();
            assert!(read(reader).await.unwrap() == data, "{size} bytes");
        }
    }
}

#[tokio::test]
async fn a_blob_survives_the_store_being_closed() {
    let directory = tempfile::tempdir().unwrap();
    let data = noise(1, 3_000_000);
    let blobs = open_with_small_packs(directory.path()).await;
    let info = store(&blobs, "blog", &data).await;
    let manifest = blobs.manifest(info.id).await.unwrap();
    drop(blobs);

    let blobs = open(directory.path()).await;
    let reader = blobs.reader(info.id).await.unwrap();
    assert!(read(reader).await.unwrap() == data);
    assert_eq!(blobs.manifest(info.id).await.unwrap(), manifest);
    let bytes: u64 = manifest.chunks.iter().map(|c| u64::from(c.bytes)).sum();
    assert_eq!(bytes, info.bytes);
    assert_eq!(manifest.chunks.len() as u64, info.chunks);
    assert_eq!(manifest.chunker.name, "fastcdc-2020");
    assert_eq!(manifest.blob, info);
}

#[tokio::test]
async fn a_store_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let _blobs = open(directory.path()).await;
    let second = cofferdam_blobs::Store::open(directory.path(), StoreOptions::default()).await;
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
}

#[tokio::test]
async fn a_namespace_has_a_length() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    for namespace in [String::new(), "x".repeat(256)] {
        let refused = blobs.ingest(&namespace).await;
        assert!(matches!(refused, Err(Error::Namespace { .. })));
    }
}

#[tokio::test]
async fn what_compresses_is_stored_small_and_what_does_not_is_stored_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let info = store(&blobs, "blog", &prose(1, 2_000_000)).await;
    assert!(info.stored_bytes < info.bytes / 2, "{info:?}");
    let info = store(&blobs, "blog", &noise(1, 2_000_000)).await;
    assert_eq!(info.stored_bytes, info.bytes);
}

#[tokio::test]
async fn known_chunks_are_not_written_again_and_nobody_can_tell() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let mut data = noise(1, 4_000_000);
    let first = store(&blobs, "blog", &data).await;
    let on_disk = |directory: &std::path::Path| -> u64 {
        packs(directory, "pack")
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum()
    };
    let before = on_disk(directory.path());

    let again = store(&blobs, "shop", &data).await;
    let added = on_disk(directory.path()) - before;
    assert!(added < 10_000, "{added} bytes were written again");
    assert_eq!(again.stored_bytes, first.stored_bytes);
    assert_eq!(again.blake3, first.blake3);

    data[2_000_000] ^= 1;
    let edited = store(&blobs, "blog", &data).await;
    let added = on_disk(directory.path()) - before - added;
    assert!(added < 2 * MAX_CHUNK_BYTES as u64, "{added} bytes");
    for (info, whole) in [(&edited, true), (&first, false), (&again, false)] {
        let bytes = read(blobs.reader(info.id).await.unwrap()).await.unwrap();
        assert_eq!(bytes == data, whole);
        assert_eq!(Digest::blake3(&bytes), info.blake3);
    }
}

#[tokio::test]
async fn a_blob_of_one_byte_repeated_is_stored_once() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open_with_small_packs(directory.path()).await;
    let data = vec![7; 30_000_000];
    let info = store(&blobs, "blog", &data).await;
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
    let bytes: u64 = packs(directory.path(), "pack")
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert!(bytes < 20_000, "{bytes}");
}

#[tokio::test]
async fn a_removed_blob_is_gone_and_leaves_the_others_whole() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 1_000_000);
    let first = store(&blobs, "blog", &data).await;
    let second = store(&blobs, "blog", &data).await;
    assert_eq!(
        blobs.blobs(None, 10).await.unwrap(),
        [first.clone(), second.clone()]
    );
    assert_eq!(
        blobs.blobs(Some(first.id), 10).await.unwrap(),
        std::slice::from_ref(&second)
    );

    assert!(blobs.remove(first.id).await.unwrap());
    assert!(!blobs.remove(first.id).await.unwrap());
    assert_eq!(blobs.blob(first.id).await.unwrap(), None);
    for refused in [
        blobs.reader(first.id).await.map(drop),
        blobs.manifest(first.id).await.map(drop),
    ] {
        assert!(matches!(refused, Err(Error::NotFound { id }) if id == first.id));
    }
    assert!(read(blobs.reader(second.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_run_at_once_and_share_what_they_share() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        pack_bytes: 512 * 1024,
        max_ingests: 5,
        ..StoreOptions::default()
    };
    let blobs = cofferdam_blobs::Store::open(directory.path(), options)
        .await
        .unwrap();
    let shared = noise(99, 1_500_000);
    let uploads: Vec<_> = (0..16)
        .map(|n| {
            let blobs = blobs.clone();
            let mut data = shared.clone();
            data.extend_from_slice(&noise(n, 1_000_000));
            tokio::spawn(async move {
                let mut ingest = blobs.ingest(&format!("project-{n}")).await.unwrap();
                let follower = tokio::spawn(read(ingest.follow()));
                for block in data.chunks(10_007) {
                    ingest.write(Bytes::copy_from_slice(block)).await.unwrap();
                }
                let info = ingest.finish().await.unwrap();
                assert!(follower.await.unwrap().unwrap() == data);
                (info, data)
            })
        })
        .collect();
    for upload in uploads {
        let (info, data) = upload.await.unwrap();
        assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
    }
}
