//! Headers over which readers disagree.

use cofferdam_unpack::Reason;

use crate::bench::{refused, taken};
use crate::made_tar::{Tar, checksum, header};

#[test]
fn a_size_that_is_given_twice_and_differs_is_refused_both_ways() {
    // The inner archive's header is data to one reader and the next entry to the other.
    let inner = header("evil", b'0').block();
    let smaller = Tar::new()
        .pax(b'x', &[("size", "0")])
        .entry(header("a", b'0'), &inner)
        .end();
    refused(&smaller, Reason::SizeDisagrees);
    let larger = Tar::new()
        .pax(b'x', &[("size", "512")])
        .head(&header("a", b'0'))
        .raw(&inner)
        .end();
    refused(&larger, Reason::SizeDisagrees);
    taken(
        &Tar::new()
            .pax(b'x', &[("size", "5")])
            .file("a", "hello")
            .end(),
    );
}

#[test]
fn extended_headers_that_repeat_mix_or_apply_to_all_are_refused() {
    for archive in [
        Tar::new()
            .pax(b'x', &[("path", "a")])
            .pax(b'x', &[("path", "b")])
            .file("c", "")
            .end(),
        Tar::new()
            .pax(b'x', &[("path", "a"), ("path", "b")])
            .file("c", "")
            .end(),
        Tar::new()
            .pax(b'x', &[("mtime", "1")])
            .gnu(b'L', "a")
            .file("c", "")
            .end(),
        Tar::new().gnu(b'L', "a").gnu(b'L', "b").file("c", "").end(),
        Tar::new().pax(b'g', &[("path", "a")]).file("c", "").end(),
        Tar::new().pax(b'g', &[("size", "0")]).file("c", "").end(),
        Tar::new().file("c", "").pax(b'x', &[("path", "a")]).end(),
    ] {
        refused(&archive, Reason::HeaderAmbiguous);
    }
    taken(
        &Tar::new()
            .pax(b'g', &[("comment", "c0ffee")])
            .file("c", "")
            .end(),
    );
}

#[test]
fn sparse_files_are_refused_in_every_dialect() {
    refused(&Tar::new().head(&header("s", b'S')).end(), Reason::Sparse);
    refused(
        &Tar::new()
            .pax(
                b'x',
                &[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.realsize", "99999999999999"),
                ],
            )
            .file("s", "")
            .end(),
        Reason::Sparse,
    );
}

#[test]
fn devices_and_unknown_types_are_refused() {
    for kind in *b"346" {
        refused(
            &Tar::new().head(&header("dev", kind)).end(),
            Reason::SpecialFile,
        );
    }
    for kind in *b"VMDNZ" {
        refused(
            &Tar::new().head(&header("odd", kind)).end(),
            Reason::EntryUnknown,
        );
    }
}

#[test]
fn directories_and_links_with_data_are_refused() {
    for kind in *b"125" {
        let head = header("d", kind).link("x");
        refused(
            &Tar::new().file("x", "").entry(head, b"data").end(),
            Reason::EntryWithData,
        );
    }
}

#[test]
fn a_header_with_a_wrong_checksum_or_number_is_refused() {
    let broken = |change: &dyn Fn(&mut [u8; 512])| {
        let mut block = header("b", b'0').block();
        change(&mut block);
        Tar::new().file("a", "").raw(&block).end()
    };
    refused(&broken(&|block| block[0] = b'c'), Reason::HeaderInvalid);
    refused(
        &broken(&|block| {
            block[124..136].copy_from_slice(b"0000000009\0\0");
            checksum(block);
        }),
        Reason::HeaderInvalid,
    );
    refused(
        &broken(&|block| {
            block[124..136].fill(0xFF);
            checksum(block);
        }),
        Reason::HeaderInvalid,
    );
    refused(
        &broken(&|block| {
            block[257..265].copy_from_slice(b"ustar\x0099");
            checksum(block);
        }),
        Reason::HeaderInvalid,
    );
    for records in [
        "9 path=a",
        "999 path=a\n",
        "path=a\n",
        "7 path\n",
        "x path=a\n",
    ] {
        let archive = Tar::new()
            .entry(header("x", b'x'), records.as_bytes())
            .file("c", "")
            .end();
        refused(&archive, Reason::HeaderInvalid);
    }
}

#[test]
fn an_archive_that_ends_early_is_refused() {
    let whole = Tar::new().file("a", &"x".repeat(1000)).file("b", "y").end();
    for len in [1, 100, 512, 600, 1024, 1536, 2048, 2100, 2560, 3000] {
        let reason = if len < 512 {
            Reason::FormatUnknown
        } else {
            Reason::Truncated
        };
        refused(&whole[..len], reason);
    }
    refused(&[], Reason::Truncated);
    // One block of zeros is half an end mark.
    refused(
        &Tar::new().file("a", "").raw(&[0; 512]).cut(),
        Reason::Truncated,
    );
}

#[test]
fn something_after_the_end_is_refused_and_padding_is_not() {
    let first = Tar::new().file("a", "").end();
    let second = Tar::new().file("b", "").end();
    refused(&[first.clone(), second].concat(), Reason::TrailingData);
    refused(&[&first[..], b"garbage"].concat(), Reason::TrailingData);
    let lone = Tar::new().file("a", "").raw(&[0; 512]).file("b", "").end();
    refused(&lone, Reason::TrailingData);
    taken(&[first, vec![0; 20 * 512]].concat());
}
