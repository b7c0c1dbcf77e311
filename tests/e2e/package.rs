//! Packages of every format, made in memory.

use std::io::Write as _;
use std::path::Path;

/// One entry of a package.
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
}

/// A small site: a page, a stylesheet in a directory, and something large enough to be compressed.
pub(crate) fn site(title: &str) -> Vec<Entry> {
    let entry = |path: &str, bytes: String| Entry {
        path: path.to_owned(),
        bytes: bytes.into_bytes(),
    };
    vec![
        entry(
            "index.html",
            format!("<!doctype html><title>{title}</title><h1>{title}</h1>"),
        ),
        entry("css/site.css", "body { margin: 0 }\n".repeat(200)),
        entry("about/index.html", "<h1>about</h1>".to_owned()),
    ]
}

pub(crate) fn write_to(directory: &Path, entries: &[Entry]) {
    for entry in entries {
        let path = directory.join(&entry.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &entry.bytes).unwrap();
    }
}

pub(crate) fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, &entry.path, entry.bytes.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// A tar of one regular file whose name is written into the header as it is, however wrong.
pub(crate) fn tar_with_raw_name(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, bytes).unwrap();
    builder.into_inner().unwrap()
}

/// A tar with a link of the given type, and then a file at `then`.
pub(crate) fn tar_with_link(
    kind: tar::EntryType,
    name: &str,
    target: &str,
    then: Option<&str>,
) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    builder.append_link(&mut header, name, target).unwrap();
    if let Some(path) = then {
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, b"evil".as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn tar_gz(entries: &[Entry]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&tar(entries)).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn tar_zst(entries: &[Entry]) -> Vec<u8> {
    zstd::encode_all(tar(entries).as_slice(), 3).unwrap()
}

pub(crate) fn zip(entries: &[Entry]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for entry in entries {
        writer.start_file(entry.path.as_str(), options).unwrap();
        writer.write_all(&entry.bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
