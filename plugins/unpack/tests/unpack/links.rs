//! Links that are refused, and those that only look dangerous.

use cofferdam_unpack::Reason;
use serde_json::json;

use crate::bench::{refused, refused_with, taken};
use crate::made_tar::Tar;

#[test]
fn a_file_through_a_link_is_refused() {
    let message = refused(
        &Tar::new()
            .directory("real")
            .symlink("door", "real")
            .file("door/file", "x")
            .end(),
        Reason::PathThroughLink,
    );
    assert!(message.contains("\"door/file\""), "{message}");
}

#[test]
fn a_directory_over_a_link_is_refused() {
    refused(
        &Tar::new()
            .directory("real")
            .symlink("door", "real")
            .directory("door")
            .end(),
        Reason::DirectoryOverLink,
    );
    refused(
        &Tar::new().file("a", "x").file("a/b", "y").end(),
        Reason::PathThroughFile,
    );
}

#[test]
fn a_link_that_leaves_the_release_is_refused() {
    let link = |name: &str, target: &str| Tar::new().symlink(name, target).end();
    refused(&link("l", "/etc/passwd"), Reason::LinkAbsolute);
    refused(&link("l", ".."), Reason::LinkEscapes);
    refused(&link("l", "../secret"), Reason::LinkEscapes);
    refused(&link("a/b/l", "../../../secret"), Reason::LinkEscapes);
    refused(&link("l", "a/../../secret"), Reason::LinkEscapes);
    refused(&link("l", ""), Reason::NameEmpty);
    refused(&link("l", "a\u{1b}[0m"), Reason::NameControlCharacters);
    taken(&link("a/b/l", "../../c"));
    taken(&link("a/l", ".././b/c"));
    taken(&link("l", "dangling"));
}

#[test]
fn a_chain_of_links_cannot_climb() {
    // Each of the two stays inside by itself; the second, followed through the first, would not.
    refused(
        &Tar::new()
            .directory("p/q")
            .symlink("p/q/up", "../..")
            .symlink("out", "p/q/up/../..")
            .end(),
        Reason::LinkEscapes,
    );
}

#[test]
fn stripping_counts_when_a_link_is_judged() {
    refused_with(
        &Tar::new().symlink("top/l", "../top/x").end(),
        &json!({"strip": 1}),
        Reason::LinkEscapes,
    );
}

#[test]
fn a_hard_link_to_what_the_archive_did_not_bring_is_refused() {
    let link = |target: &str| {
        Tar::new()
            .file("a", "x")
            .symlink("s", "a")
            .hard_link("h", target)
            .end()
    };
    taken(&link("a"));
    for target in [
        "../secret",
        "/etc/passwd",
        "later",
        "s",
        "s/x",
        "",
        "h",
        "A",
    ] {
        refused(&link(target), Reason::HardLinkTarget);
    }
}
