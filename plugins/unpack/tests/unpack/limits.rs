//! Archives that are too much.

use cofferdam_unpack::{Input, Reason, Source};
use serde_json::json;

use crate::bench::{Bench, refused_with, taken_with};
use crate::made_tar::{Tar, header};

#[test]
fn too_many_entries_are_refused() {
    let archive = (0..20).fold(Tar::new(), |tar, number| tar.file(format!("{number}"), ""));
    let archive = archive.end();
    taken_with(&archive, &json!({"max_entries": 20}));
    refused_with(
        &archive,
        &json!({"max_entries": 19}),
        Reason::TooManyEntries,
    );
    // Headers without an entry count too, or an archive could be all headers.
    let headers = (0..20).fold(Tar::new(), |tar, _| tar.pax(b'g', &[("comment", "again")]));
    refused_with(
        &headers.end(),
        &json!({"max_entries": 19}),
        Reason::TooManyEntries,
    );
}

#[test]
fn a_million_empty_entries_are_refused_by_default() {
    /// The same chunk for ever.
    struct Endless(Vec<u8>);

    impl Source for Endless {
        fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
            Ok(Some(self.0.clone()))
        }
    }

    // Directories of one name, so that the test makes no files.
    let entries = header("d/", b'5').block().repeat(128);
    let bench = Bench::new();
    let result = cofferdam_unpack::unpack(
        &cofferdam_unpack::Config::default(),
        Input::new(Endless(entries)),
        &bench.release(),
        &bench.release(),
    );
    let cofferdam_unpack::Error::Refused(refused) = result.unwrap_err() else {
        panic!("not refused");
    };
    assert_eq!(refused.reason, Reason::TooManyEntries);
}

#[test]
fn more_bytes_than_allowed_are_refused_before_they_are_read() {
    let archive = Tar::new().file("a", "12345").file("b", "67890").end();
    taken_with(&archive, &json!({"max_bytes": 10}));
    refused_with(&archive, &json!({"max_bytes": 9}), Reason::TooLarge);
    let huge = Tar::new().head(&header("h", b'0').size(1 << 40)).cut();
    refused_with(&huge, &json!({"max_bytes": 1 << 30}), Reason::TooLarge);
    // A copy of a hard link is as large as its file.
    let copies = Tar::new().file("a", "12345").hard_link("b", "a").end();
    refused_with(&copies, &json!({"max_bytes": 9}), Reason::TooLarge);
}

#[test]
fn strip_wants_one_directory() {
    for archive in [
        Tar::new().file("a/x", "").file("b/y", "").end(),
        Tar::new().file("a/x", "").file("y", "").end(),
    ] {
        refused_with(&archive, &json!({"strip": 1}), Reason::StripMismatch);
    }
}
