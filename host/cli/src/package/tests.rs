#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;

use super::{Error, Package, Prepared, Source, Wanted};

async fn open(source: Source, compress: bool) -> Result<Package, Error> {
    let mut prepared = Prepared::of(&source, compress).await?;
    prepared.open(Wanted::default()).await
}

async fn bytes(mut package: Package) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(part) = package.parts.recv().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

fn source(path: &Path) -> Source {
    Source::parse(path.to_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_directory_is_a_tar_stream_of_known_length() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("big"), vec![7; 3_000_001]).unwrap();
    let mut prepared = Prepared::of(&source(root.path()), false).await.unwrap();
    assert_eq!(prepared.files, Some(1));
    let package = prepared.open(Wanted::default()).await.unwrap();
    assert_eq!(package.media_type, "application/x-tar");
    let announced = package.bytes.unwrap();
    assert_eq!(bytes(package).await.unwrap().len() as u64, announced);
}

#[tokio::test]
async fn compressed_it_is_the_same_stream_inside_zstd() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("text"), "again and again ".repeat(100_000)).unwrap();
    let plain = bytes(open(source(root.path()), false).await.unwrap())
        .await
        .unwrap();
    let package = open(source(root.path()), true).await.unwrap();
    assert_eq!(
        (package.media_type, package.bytes),
        ("application/zstd", None)
    );
    let compressed = bytes(package).await.unwrap();
    assert!(compressed.len() < plain.len() / 100);
    assert_eq!(
        zstd::stream::decode_all(compressed.as_slice()).unwrap(),
        plain
    );
}

#[tokio::test]
async fn an_archive_goes_as_it_is_with_the_type_that_its_first_bytes_tell() {
    let directory = tempfile::tempdir().unwrap();
    let mut tar = vec![0; 2048];
    tar[257..262].copy_from_slice(b"ustar");
    for (content, media_type) in [
        (tar, "application/x-tar"),
        (vec![0x1f, 0x8b, 8, 0], "application/gzip"),
        (vec![0x28, 0xb5, 0x2f, 0xfd, 0], "application/zstd"),
        (b"PK\x03\x04rest".to_vec(), "application/zip"),
        (b"!<arch>\n".to_vec(), "application/octet-stream"),
    ] {
        let path = directory.path().join("archive");
        fs::write(&path, &content).unwrap();
        let package = open(source(&path), false).await.unwrap();
        assert_eq!(package.media_type, media_type);
        assert_eq!(package.bytes, Some(content.len() as u64));
        assert_eq!(bytes(package).await.unwrap(), content);
    }
}

#[tokio::test]
async fn an_empty_archive_is_refused_before_anything_is_sent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(
        open(source(file.path()), false).await,
        Err(Error::Empty(_))
    ));
}

#[test]
fn a_project_is_named_after_the_directory_or_the_archive() {
    let root = tempfile::tempdir().unwrap();
    let site = root.path().join("My Site");
    fs::create_dir(&site).unwrap();
    assert_eq!(source(&site).name().unwrap(), "My Site");
    assert_eq!(source(&site.join(".")).name().unwrap(), "My Site");
    for (name, stem) in [
        ("blog.tar.gz", "blog"),
        ("a.b.zip", "a.b"),
        ("plain", "plain"),
    ] {
        let archive = root.path().join(name);
        fs::write(&archive, "x").unwrap();
        assert_eq!(source(&archive).name().unwrap(), stem);
    }
    assert_eq!(Source::Stdin.name(), None);
}
