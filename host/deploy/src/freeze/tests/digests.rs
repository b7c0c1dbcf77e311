use super::*;

/// The digest by the letter of its documentation.
fn by_hand(records: &[(u8, &str, &str)]) -> String {
    let mut text = b"cofferdam-tree-1\0".to_vec();
    let mut add = |kind: u8, path: &str, rest: &[u8]| {
        text.push(kind);
        text.extend(u32::try_from(path.len()).unwrap().to_le_bytes());
        text.extend(path.as_bytes());
        text.extend(rest);
    };
    for (kind, path, rest) in records {
        match kind {
            b'd' => add(*kind, path, b""),
            b'l' => {
                let length = u32::try_from(rest.len()).unwrap().to_le_bytes();
                add(*kind, path, &[&length, rest.as_bytes()].concat());
            }
            _ => add(*kind, path, blake3::hash(rest.as_bytes()).as_bytes()),
        }
    }
    format!("blake3:{}", blake3::hash(&text).to_hex())
}

#[test]
fn the_digest_is_what_its_documentation_says() {
    let root = tree();
    put(&root, "a/b", "content");
    put(&root, "a-b", "");
    put(&root, "ä", "umlaut");
    put(&root, "Z", "upper case sorts first");
    set_mode(&put(&root, "a/run", "#!/bin/sh\n"), 0o700);
    fs::create_dir(root.path().join("empty")).unwrap();
    symlink("../a-b", root.path().join("a/link")).unwrap();
    let digest = inspect(root.path()).unwrap().digest;
    assert_eq!(
        digest,
        by_hand(&[
            (b'f', "Z", "upper case sorts first"),
            (b'd', "a", ""),
            (b'f', "a/b", "content"),
            (b'l', "a/link", "../a-b"),
            (b'x', "a/run", "#!/bin/sh\n"),
            (b'f', "a-b", ""),
            (b'd', "empty", ""),
            (b'f', "ä", "umlaut"),
        ])
    );
    // Fixed for ever: releases are compared across hosts and years.
    assert_eq!(
        digest,
        "blake3:e43ba6e0965d0df84344118b1aff977333a98e7ae561faee222c94d9d0eb6be3"
    );
}

#[test]
fn an_empty_tree_has_a_digest() {
    let root = tree();
    assert_eq!(inspect(root.path()).unwrap().digest, by_hand(&[]));
}

#[test]
fn the_digest_does_not_depend_on_the_order_of_creation_or_on_times() {
    let names: Vec<String> = (0..300).map(|n| format!("d{}/f{n}", n % 7)).collect();
    let (first, second) = (tree(), tree());
    for name in &names {
        put(&first, name, name);
    }
    for name in names.iter().rev() {
        let path = put(&second, name, name);
        let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        fs::File::open(path).unwrap().set_modified(past).unwrap();
    }
    assert_eq!(
        inspect(first.path()).unwrap(),
        inspect(second.path()).unwrap()
    );
}

#[test]
fn whatever_differs_between_two_trees_shows_in_the_digest() {
    let build = |change: &dyn Fn(&TempDir)| {
        let root = tree();
        put(&root, "a/file", "content");
        symlink("file", root.path().join("a/link")).unwrap();
        change(&root);
        inspect(root.path()).unwrap().digest
    };
    let changes: [&dyn Fn(&TempDir); 9] = [
        &|_| {},
        &|root| drop(put(root, "a/file", "Content")),
        &|root| set_mode(&root.path().join("a/file"), 0o755),
        &|root| fs::create_dir(root.path().join("a/empty")).unwrap(),
        &|root| drop(put(root, "a/more", "")),
        &|root| fs::rename(root.path().join("a"), root.path().join("b")).unwrap(),
        &|root| fs::remove_file(root.path().join("a/link")).unwrap(),
        &|root| {
            fs::remove_file(root.path().join("a/link")).unwrap();
            symlink("./file", root.path().join("a/link")).unwrap();
        },
        &|root| {
            fs::remove_file(root.path().join("a/link")).unwrap();
            put(root, "a/link", "file");
        },
    ];
    let digests: std::collections::HashSet<String> =
        changes.iter().map(|change| build(change)).collect();
    assert_eq!(digests.len(), changes.len());
}

#[test]
fn a_file_of_many_blocks_is_hashed_as_a_whole() {
    let root = tree();
    let content: String = (0..100_000).map(|n| format!("{n}\n")).collect();
    put(&root, "large", &content);
    let tree = inspect(root.path()).unwrap();
    assert_eq!(tree.bytes, content.len() as u64);
    assert_eq!(tree.digest, by_hand(&[(b'f', "large", &content)]));
}
