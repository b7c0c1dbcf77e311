use std::ffi::OsStr;
use std::os::unix::{ffi::OsStrExt, net::UnixListener};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// Refuses the tree, and says so.
fn refusal(root: &TempDir) -> FreezeError {
    let error = inspect(root.path()).unwrap_err();
    assert!(error.is_refusal(), "{error}");
    error
}

#[test]
fn pipes_and_sockets_are_refused_without_being_opened() {
    let root = tree();
    fs::create_dir(root.path().join("d")).unwrap();
    let pipe = root.path().join("d/pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let error = refusal(&root);
    assert!(
        matches!(&error, FreezeError::Special { path, what: "named pipe" } if path == "d/pipe")
    );
    fs::remove_file(pipe).unwrap();

    let _listener = UnixListener::bind(root.path().join("d/socket")).unwrap();
    let error = refusal(&root);
    assert!(
        matches!(&error, FreezeError::Special { what: "socket", .. }),
        "{error}"
    );
}

#[test]
fn a_link_that_leaves_by_its_words_is_refused() {
    for (link, target) in [
        ("a", "/etc/passwd"),
        ("a", ".."),
        ("a", "b/../../c"),
        ("b/a", "../../c"),
        ("b/a", "../c/../../.."),
    ] {
        let root = tree();
        fs::create_dir(root.path().join("b")).unwrap();
        symlink(target, root.path().join(link)).unwrap();
        let error = refusal(&root);
        assert!(
            matches!(&error, FreezeError::Escape { path, .. } if path == link),
            "{error}"
        );
    }
}

#[test]
fn a_link_that_leaves_through_other_links_is_refused() {
    let root = tree();
    fs::create_dir_all(root.path().join("d/e")).unwrap();
    // Each stays inside by its words; together they lead above the root.
    symlink("../..", root.path().join("d/e/top")).unwrap();
    inspect(root.path()).unwrap();
    symlink("d/e/top/..", root.path().join("out")).unwrap();
    let error = refusal(&root);
    assert!(
        matches!(&error, FreezeError::Escape { path, .. } if path == "out"),
        "{error}"
    );
    // Even where it leads to nothing.
    fs::remove_file(root.path().join("out")).unwrap();
    symlink("d/e/top/../no/such", root.path().join("out")).unwrap();
    let error = refusal(&root);
    assert!(
        matches!(&error, FreezeError::Escape { path, .. } if path == "out"),
        "{error}"
    );
}

#[test]
fn a_link_that_loops_is_refused() {
    let root = tree();
    symlink("b", root.path().join("a")).unwrap();
    symlink("a", root.path().join("b")).unwrap();
    assert!(matches!(refusal(&root), FreezeError::Loop { .. }));
}

#[test]
fn what_is_behind_a_link_is_not_touched() {
    let outside = tree();
    let theirs = put(&outside, "theirs", "x");
    set_mode(&theirs, 0o4700);
    set_mode(outside.path(), 0o700);
    let root = tree();
    symlink(outside.path(), root.path().join("d")).unwrap();
    symlink(&theirs, root.path().join("f")).unwrap();
    refusal(&root);
    assert_eq!(mode(&theirs), 0o4700);
    assert_eq!(mode(outside.path()), 0o700);
    // The root itself may not be a link either.
    let link = root.path().join("d");
    assert!(matches!(inspect(&link), Err(FreezeError::Io { .. })));
    assert_eq!(mode(outside.path()), 0o700);
}

#[test]
fn names_that_are_not_utf8_are_refused_and_shown_escaped() {
    let root = tree();
    fs::create_dir(root.path().join("d")).unwrap();
    let name = root.path().join("d").join(OsStr::from_bytes(b"caf\xe9"));
    fs::write(&name, "x").unwrap();
    let error = refusal(&root);
    assert_eq!(
        error.to_string(),
        "d/caf\\xe9 is not UTF-8; name it in UTF-8"
    );
    fs::remove_file(name).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), root.path().join("link")).unwrap();
    assert!(matches!(refusal(&root), FreezeError::NotUtf8 { .. }));
}

#[test]
fn control_characters_in_names_are_shown_escaped() {
    let root = tree();
    symlink("/", root.path().join("\u{1b}[31m")).unwrap();
    let text = refusal(&root).to_string();
    assert!(text.contains("\\u{1b}[31m"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_tree_may_be_deep_but_not_bottomless() {
    let root = tree();
    let mut path = root.path().to_owned();
    for _ in 0..128 {
        path.push("d");
        fs::create_dir(&path).unwrap();
    }
    assert_eq!(inspect(root.path()).unwrap().directories, 128);
    path.push("d");
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        refusal(&root),
        FreezeError::TooDeep { limit: 128, .. }
    ));

    let root = tree();
    let mut path = root.path().to_owned();
    for _ in 0..13 {
        path.push("n".repeat(255));
        fs::create_dir(&path).unwrap();
    }
    assert!(matches!(refusal(&root), FreezeError::TooLong { .. }));
}

#[test]
fn copies_of_shared_files_do_not_fill_the_disk() {
    let root = tree();
    put(&root, "a", "x");
    fs::hard_link(root.path().join("a"), root.path().join("b")).unwrap();
    inspect(root.path()).unwrap();
    // It takes no room, but its copies would.
    let large = fs::File::create(root.path().join("c")).unwrap();
    large.set_len((1 << 30) + 1).unwrap();
    fs::hard_link(root.path().join("c"), root.path().join("d")).unwrap();
    assert!(matches!(refusal(&root), FreezeError::TooMuchShared { .. }));
}
