//! Names that are refused.

use cofferdam_unpack::Reason;

use crate::bench::refused;
use crate::made_tar::{Tar, header};

fn named(name: impl AsRef<[u8]>) -> Vec<u8> {
    Tar::new().file(name, "x").end()
}

#[test]
fn a_name_that_leaves_the_release_is_refused() {
    refused(&named("/etc/cron.d/x"), Reason::PathAbsolute);
    refused(&named("../secret"), Reason::PathEscapes);
    refused(&named("a/../../secret"), Reason::PathEscapes);
    refused(&named("a/.."), Reason::PathEscapes);
    refused(
        &Tar::new()
            .pax(b'x', &[("path", "../secret")])
            .file("fine", "x")
            .end(),
        Reason::PathEscapes,
    );
    refused(
        &Tar::new().gnu(b'L', "/secret").file("fine", "x").end(),
        Reason::PathAbsolute,
    );
}

#[test]
fn a_name_that_cannot_be_shown_is_refused_and_shown_escaped() {
    let message = refused(
        &named("\u{1b}[2J\u{1b}]0;owned\u{7}"),
        Reason::NameControlCharacters,
    );
    assert!(message.contains(r"\u{1b}[2J"), "{message}");
    refused(&named("a\nb"), Reason::NameControlCharacters);
    refused(&named(b"caf\xE9"), Reason::NameNotUtf8);
    refused(&named("..\\secret"), Reason::NameBackslash);
}

#[test]
fn a_name_that_is_none_or_too_long_is_refused() {
    refused(&named(""), Reason::NameEmpty);
    refused(
        &Tar::new().gnu(b'L', &"n".repeat(256)).file("n", "x").end(),
        Reason::PathTooLong,
    );
    refused(
        &Tar::new()
            .gnu(b'L', &"n/".repeat(2000))
            .file("n", "x")
            .end(),
        Reason::PathTooLong,
    );
}

#[test]
fn a_name_that_goes_on_after_its_end_is_refused() {
    refused(&named(b"index.html\0.exe"), Reason::NameAmbiguous);
}

#[test]
fn names_that_are_one_elsewhere_are_refused() {
    let message = refused(
        &Tar::new().file("a/README", "1").file("a/readme", "2").end(),
        Reason::NameCollides,
    );
    assert!(message.contains("README") && message.contains("readme"));
    refused(
        &Tar::new()
            .file("caf\u{e9}", "1")
            .file("cafe\u{301}", "2")
            .end(),
        Reason::NameCollides,
    );
    // A directory that exists only as a part of names counts too.
    refused(
        &Tar::new().file("Dir/a", "1").file("dir/b", "2").end(),
        Reason::NameCollides,
    );
    refused(
        &Tar::new().symlink(".GIT", "x").directory(".git").end(),
        Reason::NameCollides,
    );
}

#[test]
fn a_second_entry_for_a_file_is_refused_and_for_a_directory_is_not() {
    refused(
        &Tar::new().file("a", "1").file("./a", "2").end(),
        Reason::EntryDuplicate,
    );
    refused(
        &Tar::new().file("a", "1").directory("a").end(),
        Reason::EntryDuplicate,
    );
    refused(
        &Tar::new().directory("a").file("a", "1").end(),
        Reason::EntryDuplicate,
    );
    refused(
        &Tar::new().symlink("a", "b").file("a", "1").end(),
        Reason::EntryDuplicate,
    );
    crate::bench::taken(
        &Tar::new()
            .file("a/b", "1")
            .directory("a")
            .directory("a/")
            .end(),
    );
}

#[test]
fn a_file_whose_name_is_a_directorys_is_refused() {
    refused(&named("a/"), Reason::EntryAmbiguous);
    refused(
        &Tar::new().head(&header("l/", b'2').link("x")).end(),
        Reason::EntryAmbiguous,
    );
    refused(&named("."), Reason::EntryAmbiguous);
}
