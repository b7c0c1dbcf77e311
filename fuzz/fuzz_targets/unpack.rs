//! The plugin that unpacks archives, built natively: without a sandbox around it, nothing may appear beside the
//! directory it was given.
#![no_main]

use std::collections::BTreeSet;
use std::fs;

use cofferdam_unpack::{Config, Input, Source, unpack};
use libfuzzer_sys::fuzz_target;

/// Bytes that an archive may unpack to: without a sandbox there is no quota.
const MAX_BYTES: u64 = 4 << 20;

/// Entries that an archive may have.
const MAX_ENTRIES: u64 = 200;

struct Whole(Option<Vec<u8>>);

impl Source for Whole {
    fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        Ok(self.0.take())
    }
}

fuzz_target!(|archive: &[u8]| {
    let root = tempfile::tempdir().expect("a temporary directory");
    let names = ["release", "scratch", "outside"];
    for name in names {
        fs::create_dir(root.path().join(name)).expect("a directory");
    }
    fs::write(root.path().join("outside/file"), "untouched").expect("a file");
    let _ = unpack(
        &Config {
            max_bytes: Some(MAX_BYTES),
            max_entries: MAX_ENTRIES,
            ..Config::default()
        },
        Input::new(Whole(Some(archive.to_vec()))),
        &root.path().join("release"),
        &root.path().join("scratch"),
    );
    let found: BTreeSet<_> = fs::read_dir(root.path())
        .expect("the directory is still there")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(found, names.into_iter().map(Into::into).collect());
    let outside = fs::read(root.path().join("outside/file")).expect("the file is still there");
    assert_eq!(outside, b"untouched");
    let beside = fs::read_dir(root.path().join("outside")).expect("the directory is still there");
    assert_eq!(beside.count(), 1);
});
