//! The decoders in front of an archive.

use std::io::Write as _;

use cofferdam_unpack::{Error, Input, Reason, Source};
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

use crate::bench::{Bench, refused, refused_with, taken, taken_with};
use crate::made_tar::Tar;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn archive() -> Vec<u8> {
    let text: String = (0..20_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    Tar::new().file("a", &text).file("b", "second").end()
}

#[test]
fn every_format_gives_the_same_tree() {
    for (package, format) in [
        (archive(), "tar"),
        (gzip(&archive()), "tar.gz"),
        (zstd(&archive()), "tar.zst"),
    ] {
        let (bench, report) = taken_with(&package, &json!({}));
        assert_eq!(bench.tree(), ["a", "b"]);
        assert_eq!(report.result.format, format);
        assert_eq!(report.result.package_bytes, package.len() as u64);
    }
}

#[test]
fn several_members_and_frames_are_one_stream() {
    let archive = archive();
    let (front, back) = archive.split_at(70_001);
    taken(&[gzip(front), gzip(back)].concat());
    let skippable = [&[0x5A, 0x2A, 0x4D, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    taken(&[skippable.clone(), zstd(front), skippable, zstd(back)].concat());
}

#[test]
fn a_damaged_or_cut_stream_is_refused() {
    for package in [gzip(&archive()), zstd(&archive())] {
        refused(&package[..package.len() / 2], Reason::Truncated);
        refused(&package[..package.len() - 1], Reason::Truncated);
        let mut damaged = package.clone();
        let checksum = damaged.len() - 8;
        damaged[checksum..].fill(0x55);
        let bench = Bench::new();
        let result = bench.in_chunks(&damaged, 1 << 16, &json!({})).result;
        assert!(
            matches!(&result, Err(Error::Refused(refused)) if refused.reason == Reason::Corrupt),
            "{result:?}"
        );
    }
}

#[test]
fn something_after_the_compressed_stream_is_refused() {
    let more = Tar::new().file("c", "").end();
    for (package, compress) in [
        (gzip(&archive()), gzip as fn(&[u8]) -> Vec<u8>),
        (zstd(&archive()), zstd),
    ] {
        refused(
            &[&package[..], b"garbage after the end"].concat(),
            Reason::Corrupt,
        );
        refused(&[package, compress(&more)].concat(), Reason::TrailingData);
    }
}

#[test]
fn what_is_no_archive_is_refused_with_a_hint() {
    let message = refused(b"\xFD7zXZ\0whatever", Reason::FormatUnknown);
    assert!(message.contains("xz"), "{message}");
    refused(b"<!doctype html>", Reason::FormatUnknown);
    refused(&[7; 4096], Reason::FormatUnknown);
    refused(&gzip(&[7; 4096]), Reason::FormatUnknown);
    refused(&gzip(b"short"), Reason::Truncated);
}

#[test]
fn a_decompression_bomb_is_refused() {
    let zeros = "\0".repeat(20 << 20);
    let bomb = gzip(&Tar::new().file("zeros", &zeros).end());
    refused_with(&bomb, &json!({"max_ratio": 100}), Reason::DecompressionBomb);
    let bomb = zstd(&Tar::new().file("zeros", &zeros).end());
    refused(&bomb, Reason::DecompressionBomb);
}

#[test]
fn a_broken_upload_is_not_the_packages_fault() {
    struct Broken(Option<Vec<u8>>);

    impl Source for Broken {
        fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
            match self.0.take() {
                Some(chunk) => Ok(Some(chunk)),
                None => Err(std::io::Error::other("the connection was lost")),
            }
        }
    }

    for package in [archive(), gzip(&archive()), zstd(&archive())] {
        let bench = Bench::new();
        let half = package[..package.len() / 2].to_vec();
        let error = cofferdam_unpack::unpack(
            &cofferdam_unpack::Config::default(),
            Input::new(Broken(Some(half))),
            &bench.release(),
            &bench.release(),
        )
        .unwrap_err();
        assert!(matches!(error, Error::Input(_)), "{error:?}");
        assert!(error.to_string().contains("the connection was lost"));
    }
}
