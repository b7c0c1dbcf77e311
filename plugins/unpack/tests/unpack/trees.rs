//! Packages that are taken, and what becomes of them.

use std::process::Command;

use serde_json::json;

use crate::bench::{Bench, taken, taken_with};
use crate::made_tar::{Tar, header};

#[test]
fn files_directories_links_and_the_executable_bit_arrive() {
    let package = Tar::new()
        .directory("./")
        .directory("./bin/")
        .entry(header("./bin/tool", b'0').mode(0o755), b"#!/bin/sh\n")
        .file("./public/index.html", "<h1>hello</h1>")
        .symlink("./public/tool", "../bin/tool")
        .hard_link("./public/copy.html", "./public/index.html")
        .directory("./empty")
        .end();
    let (bench, report) = taken_with(&package, &json!({}));
    assert_eq!(
        bench.tree(),
        [
            "bin/",
            "bin/tool*",
            "empty/",
            "public/",
            "public/copy.html",
            "public/index.html",
            "public/tool -> ../bin/tool",
        ]
    );
    assert_eq!(bench.read("public/copy.html"), "<h1>hello</h1>");
    let summary = report.result;
    assert_eq!(summary.files, 3);
    assert_eq!(summary.directories, 3);
    assert_eq!(summary.links, 1);
    assert_eq!(summary.executables, 1);
    assert_eq!(summary.bytes, 10 + 14 + 14);
    assert_eq!(summary.package_bytes, package.len() as u64);
    assert!(report.warnings.is_empty());
    assert_eq!(report.progress.last().map(|last| last.done), Some(38));
}

#[test]
fn the_size_of_the_chunks_does_not_matter() {
    let long = "x".repeat(3000);
    let package = Tar::new()
        .file("a", &long)
        .pax(b'x', &[("path", "b/\u{e9}")])
        .file("b", "second")
        .end();
    for chunk in [1, 7, 511, 512, 513, 1 << 20] {
        let bench = Bench::new();
        bench.in_chunks(&package, chunk, &json!({})).result.unwrap();
        assert_eq!(bench.tree(), ["a", "b/", "b/\u{e9}"]);
        assert_eq!(bench.read("a"), long);
    }
}

#[test]
fn a_hard_link_is_a_file_of_its_own() {
    use std::os::unix::fs::MetadataExt as _;

    let bench = taken(&Tar::new().file("a", "one").hard_link("b", "a").end());
    let links = |name: &str| bench.release().join(name).metadata().unwrap().nlink();
    assert_eq!((links("a"), links("b")), (1, 1));
}

#[test]
fn a_read_only_directory_before_its_children_takes_them() {
    let package = Tar::new()
        .head(&header("locked/", b'5').mode(0o555))
        .entry(header("locked/file", b'0').mode(0o400), b"inside")
        .end();
    assert_eq!(taken(&package).read("locked/file"), "inside");
}

#[test]
fn special_bits_are_dropped_and_counted_in_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;

    let package = Tar::new()
        .entry(header("su", b'0').mode(0o4755), b"")
        .entry(header("sg", b'0').mode(0o2755), b"")
        .end();
    let (bench, report) = taken_with(&package, &json!({}));
    assert_eq!(report.warnings.len(), 1);
    assert!(report.warnings[0].contains("2 files") && report.warnings[0].contains("\"su\""));
    for name in ["su", "sg"] {
        let mode = bench.release().join(name).metadata().unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o755);
    }
}

#[test]
fn one_leading_directory_goes_when_asked() {
    let package = Tar::new()
        .pax(b'g', &[("comment", "a commit")])
        .directory("site-1.0/")
        .file("site-1.0/a/b", "deep")
        .symlink("site-1.0/l", "a/b")
        .hard_link("site-1.0/h", "site-1.0/a/b")
        .end();
    let (bench, _) = taken_with(&package, &json!({"strip": 1}));
    assert_eq!(bench.tree(), ["a/", "a/b", "h", "l -> a/b"]);
}

#[test]
fn long_names_arrive_in_every_way_of_writing_them() {
    let deep = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let other = format!("{}2", &deep[..deep.len() - 1]);
    let mut prefixed = header("f".repeat(90), b'0');
    prefixed.prefix = b"p/".repeat(60)[..119].to_vec();
    let package = Tar::new()
        .gnu(b'L', &deep)
        .file("d", "gnu")
        .gnu(b'K', &deep)
        .gnu(b'L', "link")
        .symlink("l", "d")
        .pax(
            b'x',
            &[("path", &other), ("mtime", "1.5"), ("LIBARCHIVE.x", "y")],
        )
        .file("d", "pax")
        .pax(b'x', &[("linkpath", &other)])
        .symlink("link2", "d")
        .entry(prefixed, b"ustar")
        .end();
    let bench = taken(&package);
    assert_eq!(bench.read(&deep), "gnu");
    assert_eq!(bench.read("link"), "gnu");
    assert_eq!(bench.read(&other), "pax");
    assert_eq!(bench.read("link2"), "pax");
    assert_eq!(
        bench.read(&format!("{}{}", "p/".repeat(60), "f".repeat(90))),
        "ustar"
    );
}

#[test]
fn directories_before_posix_are_files_with_a_slash() {
    let old = |name: &str| {
        let mut header = header(name, 0);
        header.magic = [0; 8];
        header
    };
    let package = Tar::new().head(&old("d/")).entry(old("d/f"), b"old").end();
    assert_eq!(taken(&package).tree(), ["d/", "d/f"]);
}

#[test]
fn many_directories_are_more_than_stay_open() {
    let mut tar = Tar::new();
    for round in ["a", "b"] {
        for number in 0..200 {
            tar = tar.file(format!("top/{number}/deep/{round}"), round);
        }
    }
    let (bench, report) = taken_with(&tar.end(), &json!({}));
    assert_eq!(report.result.files, 400);
    assert_eq!(report.result.directories, 401);
    assert_eq!(bench.read("top/0/deep/b"), "b");
}

#[test]
fn a_package_of_nothing_is_taken_with_a_warning() {
    let (bench, report) = taken_with(&Tar::new().end(), &json!({}));
    assert!(bench.tree().is_empty());
    assert_eq!(report.warnings, ["the package holds no files"]);
}

#[test]
fn what_gnu_tar_and_the_tar_crate_write_is_taken() {
    let source = Bench::new();
    let root = source.release();
    let deep = root.join("d".repeat(150)).join("e".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "x".repeat(70_000)).unwrap();
    std::fs::write(root.join("caf\u{e9}"), "").unwrap();
    std::fs::hard_link(deep.join("file"), root.join("hard")).unwrap();
    std::os::unix::fs::symlink(format!("{}/", "d".repeat(150)), root.join("soft")).unwrap();

    for format in ["gnu", "pax", "oldgnu", "posix"] {
        let output = Command::new("tar")
            .args(["-c", "-f", "-", "--format", format, "-C"])
            .arg(&root)
            .arg(".")
            .output()
            .expect("GNU tar is installed");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(taken(&output.stdout).tree(), source.tree(), "{format}");
    }

    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &root).unwrap();
    assert_eq!(taken(&builder.into_inner().unwrap()).tree(), source.tree());
}
