#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::{Error, plan};

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        write(root.path(), path, content);
    }
    root
}

fn pack(root: &Path) -> Vec<u8> {
    let plan = plan(root).unwrap();
    let mut out = Vec::new();
    plan.write(&mut out).unwrap();
    assert_eq!(out.len() as u64, plan.tar_bytes, "the size is known before");
    out
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn refusal(root: &Path) -> String {
    plan(root).unwrap_err().to_string()
}

#[test]
fn the_same_tree_is_the_same_bytes_whatever_its_times_and_the_order_it_was_made_in() {
    let files = [
        ("b/z.txt", "zz"),
        ("a.txt", "a"),
        ("b-c", "bc"),
        ("b/a.txt", ""),
    ];
    let one = tree(&files);
    let mut reversed = files;
    reversed.reverse();
    let other = tree(&reversed);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let file = File::options()
        .write(true)
        .open(other.path().join("a.txt"))
        .unwrap();
    file.set_modified(long_ago).unwrap();
    fs::set_permissions(other.path().join("a.txt"), Permissions::from_mode(0o600)).unwrap();

    let packed = pack(one.path());
    assert_eq!(packed, pack(one.path()));
    assert_eq!(packed, pack(other.path()));
    assert_eq!(names(&packed), ["a.txt", "b/", "b-c", "b/a.txt", "b/z.txt"]);
}

#[test]
fn headers_say_nothing_about_the_machine_and_keep_the_executable_bit() {
    let root = tree(&[("run.sh", "#!/bin/sh\n"), ("page.html", "x")]);
    fs::set_permissions(root.path().join("run.sh"), Permissions::from_mode(0o4770)).unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    symlink("page.html", root.path().join("index.html")).unwrap();

    let packed = pack(root.path());
    let mut archive = tar::Archive::new(packed.as_slice());
    let mut modes = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert_eq!(header.mtime().unwrap(), 0);
        modes.push((
            entry.path().unwrap().to_str().unwrap().to_owned(),
            header.mode().unwrap(),
        ));
        if header.entry_type().is_symlink() {
            assert_eq!(entry.link_name().unwrap().unwrap(), Path::new("page.html"));
        }
    }
    let expected = [
        ("empty/", 0o755),
        ("index.html", 0o777),
        ("page.html", 0o644),
        ("run.sh", 0o755),
    ];
    assert_eq!(modes, expected.map(|(path, mode)| (path.to_owned(), mode)));
}

#[test]
fn long_names_come_back_whole() {
    let deep = format!("{}/{}", "d".repeat(120), "f".repeat(90));
    let long = "ü".repeat(120);
    let root = tree(&[(&deep, "deep"), (&long, "long")]);
    let target = format!("{}/{}", "d".repeat(120), "f".repeat(90));
    symlink(&target, root.path().join("link")).unwrap();

    let packed = pack(root.path());
    let expected = [
        format!("{}/", "d".repeat(120)),
        deep,
        "link".to_owned(),
        long,
    ];
    assert_eq!(names(&packed), expected);
    let mut archive = tar::Archive::new(packed.as_slice());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if let Some(link) = entry.link_name().unwrap() {
            assert_eq!(link.to_str().unwrap(), target);
        } else if entry.header().entry_type().is_file() {
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            assert!(["deep", "long"].contains(&content.as_str()));
        }
    }
}

#[test]
fn ignore_files_leave_out_what_they_name_and_the_stronger_one_brings_back() {
    let root = tree(&[
        (".gitignore", "dist/\n*.log\n"),
        (".cofferdamignore", "!dist/\ndrafts/\n"),
        ("cofferdam.toml", ""),
        (".git/config", "secret"),
        ("sub/.git/config", "secret"),
        (".well-known/security.txt", "hidden files are packed"),
        ("dist/app.js", ""),
        ("drafts/one.md", ""),
        ("sub/.gitignore", "/local\n"),
        ("sub/local", ""),
        ("sub/keep/local", ""),
        ("sub/cofferdam.toml", ""),
        ("debug.log", ""),
    ]);
    // A parent's rules are not this package's.
    let outside = root.path().join("sub/keep");
    write(root.path(), "sub/keep/trace.log", "");
    assert_eq!(names(&pack(&outside)), ["local", "trace.log"]);

    assert_eq!(
        names(&pack(root.path())),
        [
            ".gitignore",
            ".well-known/",
            ".well-known/security.txt",
            "dist/",
            "dist/app.js",
            "sub/",
            "sub/.gitignore",
            "sub/cofferdam.toml",
            "sub/keep/",
            "sub/keep/local",
        ]
    );
}

#[test]
fn a_bad_pattern_is_named_rather_than_skipped() {
    let root = tree(&[(".cofferdamignore", "a[z-a]\n"), ("a", "")]);
    assert!(matches!(plan(root.path()), Err(Error::Ignore(_))));
}

#[test]
fn a_dangling_link_ends_the_packing_with_its_name() {
    let root = tree(&[("a", "")]);
    symlink("missing/file", root.path().join("broken")).unwrap();
    let why = refusal(root.path());
    assert!(
        why.contains("broken: the symlink dangles: there is no missing"),
        "{why}"
    );
}

#[test]
fn links_that_leave_the_package_or_mean_nothing_without_it_are_refused() {
    let root = tree(&[(".gitignore", "out/\n"), ("out/x", ""), ("d/f", "")]);
    for (name, target, why) in [
        ("absolute", "/etc/passwd", "is absolute"),
        ("above", "d/../../x", "leads out of the package"),
        ("ignored", "out/x", "an ignore file leaves it out"),
        ("circle", "circle", "in a circle"),
        ("through-a-file", "d/f/g", "dangles"),
    ] {
        let link = root.path().join(name);
        symlink(target, &link).unwrap();
        let refusal = refusal(root.path());
        assert!(refusal.contains(name) && refusal.contains(why), "{refusal}");
        fs::remove_file(link).unwrap();
    }
    // By way of another link, up and down again: still inside.
    symlink("d", root.path().join("door")).unwrap();
    symlink("../door/../d/f", root.path().join("d/self")).unwrap();
    symlink(".", root.path().join("here")).unwrap();
    assert_eq!(plan(root.path()).unwrap().files, 2);
}

#[test]
fn sockets_are_refused_and_every_refusal_is_counted() {
    let root = tree(&[("a", "")]);
    let socket = root.path().join("app.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(refusal(root.path()).contains("app.sock: sockets cannot be packed"));
    for number in 0..12 {
        symlink("nowhere", root.path().join(format!("broken-{number:02}"))).unwrap();
    }
    let why = refusal(root.path());
    assert!(
        why.starts_with("13 entries") && why.ends_with("and 3 more"),
        "{why}"
    );
}

#[test]
fn a_file_that_changes_while_it_is_packed_is_an_error() {
    for (content, what) in [("longer than it was", "grew"), ("s", "shrank")] {
        let root = tree(&[("file", "planned")]);
        let plan = plan(root.path()).unwrap();
        fs::write(root.path().join("file"), content).unwrap();
        let why = plan.write(&mut Vec::new()).unwrap_err().to_string();
        assert!(why.contains(&format!("file {what} while")), "{why}");
    }
    let root = tree(&[("file", "planned")]);
    let plan = plan(root.path()).unwrap();
    fs::remove_file(root.path().join("file")).unwrap();
    let why = plan.write(&mut Vec::new()).unwrap_err().to_string();
    assert!(why.contains("file went away while"), "{why}");
}

#[test]
fn gnu_tar_reads_what_is_packed() {
    let root = tree(&[("a/b.txt", "content"), (&"n".repeat(150), "long")]);
    let archive = tempfile::NamedTempFile::new().unwrap();
    fs::write(archive.path(), pack(root.path())).unwrap();
    let out = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("tar")
        .arg("-xf")
        .arg(archive.path())
        .arg("-C")
        .arg(out.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(
        fs::read_to_string(out.path().join("a/b.txt")).unwrap(),
        "content"
    );
    assert_eq!(
        fs::read_to_string(out.path().join("n".repeat(150))).unwrap(),
        "long"
    );
}
