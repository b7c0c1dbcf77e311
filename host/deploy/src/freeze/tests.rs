#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod digests;
mod places;
mod refusals;

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use tempfile::TempDir;

use super::*;

fn tree() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn put(root: &TempDir, path: &str, content: &str) -> PathBuf {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_tree_is_counted() {
    let root = tree();
    put(&root, "index.html", "hello");
    put(&root, "css/site.css", "body {}");
    fs::create_dir(root.path().join("empty")).unwrap();
    symlink("index.html", root.path().join("home")).unwrap();
    symlink("../index.html", root.path().join("css/up")).unwrap();
    symlink("nowhere", root.path().join("dangling")).unwrap();
    let tree = inspect(root.path()).unwrap();
    assert_eq!((tree.files, tree.bytes), (2, 12));
    assert_eq!((tree.directories, tree.links), (2, 3));
}

#[test]
fn modes_become_uniform_by_the_executable_bit() {
    let root = tree();
    for (name, before, after) in [
        ("plain", 0o600, 0o644),
        ("open", 0o666, 0o644),
        ("script", 0o700, 0o755),
        ("wide", 0o777, 0o755),
        ("setuid", 0o4755, 0o755),
        ("setgid", 0o2644, 0o644),
        ("sticky", 0o1644, 0o644),
        ("others_may_run_it", 0o655, 0o644),
        ("already", 0o644, 0o644),
    ] {
        set_mode(&put(&root, &format!("d/{name}"), name), before);
        inspect(root.path()).unwrap();
        assert_eq!(mode(&root.path().join("d").join(name)), after, "{name}");
    }
    set_mode(&root.path().join("d"), 0o7777);
    set_mode(root.path(), 0o700);
    inspect(root.path()).unwrap();
    assert_eq!(mode(&root.path().join("d")), 0o755);
    assert_eq!(mode(root.path()), 0o755);
}

#[test]
fn a_file_with_two_names_becomes_two_files() {
    let root = tree();
    let outside = tree();
    let theirs = put(&outside, "theirs", "#!/bin/sh\n");
    set_mode(&theirs, 0o4755);
    for name in ["a", "d/b", "d/c"] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::hard_link(&theirs, path).unwrap();
    }
    let before = inspect(root.path()).unwrap();
    let inodes = ["a", "d/b", "d/c"].map(|name| {
        let metadata = fs::metadata(root.path().join(name)).unwrap();
        assert_eq!(metadata.nlink(), 1, "{name}");
        assert_eq!(metadata.mode() & 0o7777, 0o755, "{name}");
        metadata.ino()
    });
    let theirs_now = fs::metadata(&theirs).unwrap();
    assert!(!inodes.contains(&theirs_now.ino()));
    assert_eq!(theirs_now.mode() & 0o7777, 0o4755, "not ours to change");
    fs::write(&theirs, "changed").unwrap();
    for name in ["a", "d/b", "d/c"] {
        let text = fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(text, "#!/bin/sh\n");
    }
    // Nothing but the files is there, and freezing again changes nothing.
    assert_eq!(fs::read_dir(root.path().join("d")).unwrap().count(), 2);
    assert_eq!(inspect(root.path()).unwrap(), before);
}

#[test]
fn extended_attributes_are_removed() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let root = tree();
    let file = put(&root, "d/file", "x");
    let directory = root.path().join("d");
    for path in [&file, &directory] {
        for name in ["user.origin", "user.empty"] {
            setxattr(path, name, b"somewhere", XattrFlags::empty()).unwrap();
        }
    }
    inspect(root.path()).unwrap();
    let mut value = [0; 64];
    for path in [&file, &directory] {
        for name in ["user.origin", "user.empty"] {
            let gone = getxattr(path, name, &mut value[..]);
            assert_eq!(gone.unwrap_err(), rustix::io::Errno::NODATA);
        }
    }
}
