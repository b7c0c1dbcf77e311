//! Bytes that change on the disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cofferdam_blobs::pack::{Encoding, Kind, Pack};
use cofferdam_blobs::{Error, Store};

use sqlx::Connection;

use crate::testing::noise;
use crate::{closed, open, packs, read, store};

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

async fn corrupt(blobs: &Store, id: cofferdam_blobs::BlobId) -> (String, String) {
    match read(blobs.reader(id).await.unwrap()).await {
        Err(Error::Corrupt { what, place, .. }) => (what, place),
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
}

#[tokio::test]
async fn a_flipped_bit_is_named_and_the_next_upload_heals_it() {
    for (data, encoding) in [
        (noise(1, 1_000_000), Encoding::Raw),
        (b"la ".repeat(300_000), Encoding::Zstd),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let blobs = open(directory.path()).await;
        let info = store(&blobs, "blog", &data).await;
        let path = packs(directory.path(), "pack").remove(0);
        let pack = Pack::open(&path).unwrap();
        let entry = pack
            .entries
            .iter()
            .filter(|entry| entry.kind == Kind::Chunk)
            .nth(1)
            .unwrap();
        assert_eq!(entry.extent.encoding, encoding);
        flip(
            &path,
            entry.extent.offset + u64::from(entry.extent.stored) / 2,
        );

        let (what, place) = corrupt(&blobs, info.id).await;
        assert_eq!(what, format!("chunk {}", entry.id));
        assert_eq!(place, path.file_name().unwrap().to_str().unwrap());
        // It stays wrong until somebody brings the chunk again.
        corrupt(&blobs, info.id).await;
        store(&blobs, "another", &data).await;
        assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
    }
}

#[tokio::test]
async fn a_truncated_pack_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let info = store(&blobs, "blog", &noise(1, 1_000_000)).await;
    let path = packs(directory.path(), "pack").remove(0);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(500_000)
        .unwrap();
    let (_, place) = corrupt(&blobs, info.id).await;
    assert_eq!(place, path.file_name().unwrap().to_str().unwrap());
}

#[tokio::test]
async fn a_missing_pack_is_noticed_and_healed() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    let data = noise(1, 1_000_000);
    let info = store(&blobs, "blog", &data).await;
    fs::remove_file(packs(directory.path(), "pack").remove(0)).unwrap();
    corrupt(&blobs, info.id).await;
    store(&blobs, "blog", &data).await;
    assert!(read(blobs.reader(info.id).await.unwrap()).await.unwrap() == data);
}

#[tokio::test]
async fn a_store_that_has_lost_its_index_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = open(directory.path()).await;
    store(&blobs, "blog", b"something").await;
    drop(blobs);
    let index = directory.path().join("index.db");
    let aside = directory.path().join("aside.db");
    closed(directory.path()).await;
    fs::rename(&index, &aside).unwrap();
    let refused = Store::open(directory.path(), cofferdam_blobs::StoreOptions::default()).await;
    assert!(matches!(refused, Err(Error::Format { .. })), "{refused:?}");
    fs::rename(&aside, &index).unwrap();
    open(directory.path()).await;
}

#[tokio::test]
async fn a_damaged_manifest_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let data = noise(1, 1_000_000);
    for damage in [
        "UPDATE manifest SET data = zeroblob(length(data))",
        "UPDATE manifest SET first_byte = 7",
        "DELETE FROM manifest",
        "DELETE FROM chunk",
        "UPDATE chunk SET bytes = bytes + 1",
        "UPDATE chunk SET stored_bytes = 4000000000",
    ] {
        let blobs = open(directory.path()).await;
        let info = store(&blobs, "blog", &data).await;
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("index.db"));
        let mut index = sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap();
        sqlx::query(damage).execute(&mut index).await.unwrap();
        corrupt(&blobs, info.id).await;
        blobs.remove(info.id).await.unwrap();
        drop(blobs);
        fs::remove_dir_all(directory.path()).unwrap();
    }
}
