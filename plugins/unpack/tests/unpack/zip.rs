//! Zips that are taken, and those that say two things.

use cofferdam_unpack::Reason;
use serde_json::json;

use crate::bench::{refused, refused_with, taken, taken_with};
use crate::made_zip::{Member, Said, parts, zip};

fn text() -> String {
    (0..30_000)
        .map(|number| format!("line {number}\n"))
        .collect()
}

#[test]
fn files_directories_links_and_the_executable_bit_arrive() {
    let package = zip(&[
        Member::stored("bin/", "").mode(0o040_755),
        Member::deflated("bin/tool", &text()).mode(0o100_755),
        Member::stored("caf\u{e9}.txt", "hot"),
        Member::stored("link", "bin/tool").mode(0o120_777),
        Member::deflated("dos/empty", ""),
    ]);
    let (bench, report) = taken_with(&package, &json!({}));
    assert_eq!(
        bench.tree(),
        [
            "bin/",
            "bin/tool*",
            "caf\u{e9}.txt",
            "dos/",
            "dos/empty",
            "link -> bin/tool"
        ]
    );
    assert_eq!(bench.read("bin/tool"), text());
    assert_eq!(report.result.format, "zip");
    assert_eq!(report.result.package_bytes, package.len() as u64);
    taken(&zip(&[]));
}

#[test]
fn streamed_members_are_taken_in_all_four_forms() {
    for signature in [true, false] {
        for wide in [true, false] {
            let package = zip(&[
                Member::deflated("a", &text()).streamed(signature, wide),
                Member::stored("b", "stored").streamed(signature, wide),
            ]);
            assert_eq!(taken(&package).read("b"), "stored");
        }
    }
}

#[test]
fn a_zip64_archive_is_taken() {
    let mut member = Member::stored("a", "wide");
    let wide = |numbers: &[u64]| {
        let mut extra = vec![1, 0, (numbers.len() * 8) as u8, 0];
        for number in numbers {
            extra.extend_from_slice(&number.to_le_bytes());
        }
        extra
    };
    for said in [&mut member.local, &mut member.central] {
        (said.size, said.compressed) = (u32::MAX, u32::MAX);
        said.extra = wide(&[4, 4]);
    }
    let package = parts(&[member.clone()]);
    assert_eq!(taken(&package.whole_64()).read("a"), "wide");
    assert_eq!(taken(&package.whole()).read("a"), "wide");
    member.local.extra = wide(&[4, 5]);
    refused(&zip(&[member.clone()]), Reason::ZipDisagrees);
    member.local.extra.clear();
    refused(&zip(&[member]), Reason::ZipLayout);
}

#[test]
fn a_comment_is_fine_and_a_second_end_record_in_it_is_not() {
    let mut archive = parts(&[Member::stored("a", "x")]);
    archive.comment = b"made by hand".to_vec();
    taken(&archive.whole());
    // Read from the back this is an empty archive; read from the front it is not.
    archive.comment = parts(&[]).end_record();
    refused(&archive.whole(), Reason::ZipLayout);
}

#[test]
fn a_local_header_that_says_something_else_is_refused() {
    let changes: [fn(&mut Said); 6] = [
        |said| said.name = b"b".to_vec(),
        |said| said.size = 4,
        |said| said.compressed = 4,
        |said| said.crc ^= 1,
        |said| said.flags ^= 1 << 1,
        |said| said.method = 8,
    ];
    for change in changes {
        let mut member = Member::stored("a", "12345");
        change(&mut member.local);
        refused(&zip(&[member]), Reason::ZipDisagrees);
    }
    let mut streamed = Member::deflated("a", "12345").streamed(true, false);
    streamed.descriptor[4] ^= 1;
    refused(&zip(&[streamed]), Reason::ZipDisagrees);
}

#[test]
fn bytes_that_belong_to_nothing_are_refused() {
    let good = parts(&[Member::stored("a", "x"), Member::stored("b", "y")]);
    let whole = good.whole();
    // In front, between, behind, and cut off.
    refused(
        &[b"PK\x03\x04hidden", &whole[..]].concat(),
        Reason::ZipLayout,
    );
    let mut gap = Member::stored("a", "x");
    gap.descriptor = b"hidden file here".to_vec();
    refused(&zip(&[gap, Member::stored("b", "y")]), Reason::ZipLayout);
    refused(&[&whole[..], b"more"].concat(), Reason::Truncated);
    refused(&whole[..whole.len() - 1], Reason::Truncated);
    refused(&whole[..40], Reason::Truncated);
    let mut miscounted = good.clone();
    miscounted.count = 1;
    refused(&miscounted.whole(), Reason::ZipLayout);
}

#[test]
fn members_that_share_their_data_are_refused() {
    let one = parts(&[Member::stored("a", "x")]);
    let mut both = one.clone();
    both.directory.extend_from_slice(&one.directory);
    both.count = 2;
    refused(&both.whole(), Reason::ZipLayout);
}

#[test]
fn data_that_is_not_what_the_headers_promise_is_refused() {
    let longer = Member::deflated("a", "12345").both(|said| said.size = 4);
    refused(&zip(&[longer]), Reason::SizeDisagrees);
    let shorter = Member::deflated("a", "12345").both(|said| said.size = 6);
    refused(&zip(&[shorter]), Reason::Truncated);
    let stored = Member::stored("a", "12345").both(|said| said.size = 4);
    refused(&zip(&[stored]), Reason::SizeDisagrees);
    let checksum = Member::deflated("a", "12345").both(|said| said.crc ^= 1);
    refused(&zip(&[checksum]), Reason::Corrupt);
    let mut damaged = Member::deflated("a", &text());
    damaged.data[20..40].fill(0xFF);
    refused(&zip(&[damaged]), Reason::Corrupt);
    // A whole header hidden after the compressed stream's own end.
    let mut tail = Member::deflated("a", "12345");
    tail.data
        .extend_from_slice(&parts(&[Member::stored("b", "y")]).data);
    let len = tail.data.len() as u32;
    refused(
        &zip(&[tail.both(|said| said.compressed = len)]),
        Reason::SizeDisagrees,
    );
}

#[test]
fn names_in_a_zip_are_judged_like_all_others() {
    let one = |name: &str| zip(&[Member::stored(name, "x")]);
    refused(&one("../secret"), Reason::PathEscapes);
    refused(&one("/etc/passwd"), Reason::PathAbsolute);
    refused(&one("..\\secret"), Reason::NameBackslash);
    refused(&one("a\u{1b}b"), Reason::NameControlCharacters);
    refused(&zip(&[Member::stored(b"\xFF", "x")]), Reason::NameNotUtf8);
    let twice = [Member::stored("a", "1"), Member::stored("a", "2")];
    refused(&zip(&twice), Reason::EntryDuplicate);
    let undeclared = Member::stored("caf\u{e9}", "x").both(|said| said.flags = 0);
    refused(&zip(std::slice::from_ref(&undeclared)), Reason::NameNotUtf8);
    let unicode = |name: &str| {
        let mut extra = vec![0x75, 0x70, (name.len() + 5) as u8, 0, 1, 0, 0, 0, 0];
        extra.extend_from_slice(name.as_bytes());
        extra
    };
    let declared = |name: &str| undeclared.clone().both(|said| said.extra = unicode(name));
    taken(&zip(&[declared("caf\u{e9}")]));
    refused(&zip(&[declared("cafe")]), Reason::ZipDisagrees);
}

#[test]
fn links_in_a_zip_are_judged_like_all_others() {
    let link = |target: &str| zip(&[Member::stored("l", target).mode(0o120_777)]);
    refused(&link("/etc/passwd"), Reason::LinkAbsolute);
    refused(&link("../secret"), Reason::LinkEscapes);
    refused(&link(&"x".repeat(5000)), Reason::EntryWithData);
    let through = [
        Member::stored("l", ".").mode(0o120_777),
        Member::stored("l/f", "x"),
    ];
    refused(&zip(&through), Reason::PathThroughLink);
}

#[test]
fn kinds_that_contradict_each_other_are_refused() {
    let kind = |name: &str, mode: u32| zip(&[Member::stored(name, "").mode(mode)]);
    refused(&kind("d", 0o040_755), Reason::EntryAmbiguous);
    refused(&kind("f/", 0o100_644), Reason::EntryAmbiguous);
    refused(&kind("l/", 0o120_777), Reason::EntryAmbiguous);
    refused(&kind("fifo", 0o010_644), Reason::SpecialFile);
    refused(&kind("device", 0o060_644), Reason::SpecialFile);
    let mut dos = Member::stored("d", "");
    (dos.mode, dos.dos_directory) = (None, true);
    refused(&zip(&[dos.clone()]), Reason::EntryAmbiguous);
    taken(&zip(&[dos.both(|said| said.name = b"d/".to_vec())]));
    let data = Member::stored("d/", "data").mode(0o040_755);
    refused(&zip(&[data]), Reason::EntryWithData);
}

#[test]
fn encryption_and_other_compressions_are_refused() {
    let encrypted = Member::stored("a", "x").both(|said| said.flags |= 1);
    refused(&zip(&[encrypted]), Reason::ZipEncrypted);
    let lzma = Member::deflated("a", "x").both(|said| said.method = 14);
    refused(&zip(&[lzma]), Reason::ZipMethod);
}

#[test]
fn limits_hold_for_zips_too() {
    let members = [Member::stored("a", "12345"), Member::stored("b", "67890")];
    refused_with(&zip(&members), &json!({"max_bytes": 9}), Reason::TooLarge);
    refused_with(
        &zip(&members),
        &json!({"max_entries": 1}),
        Reason::TooManyEntries,
    );
    let zeros = "\0".repeat(20 << 20);
    refused_with(
        &zip(&[Member::deflated("z", &zeros)]),
        &json!({"max_ratio": 100}),
        Reason::DecompressionBomb,
    );
}
