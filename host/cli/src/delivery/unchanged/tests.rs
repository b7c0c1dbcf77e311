#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::pack::plan_at;

/// Files of noise, of lengths that fill chunks, are in the middle of ones, and span several.
const FILES: [(&str, usize); 7] = [
    ("a/first", 300_000),
    ("a/second", 700),
    ("b/deep/er/third", 1_000_000),
    ("b/empty", 0),
    ("c", 512),
    ("d", 900_000),
    ("e/last", 200_000),
];

struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    fn new() -> Tree {
        let tree = Tree {
            root: tempfile::tempdir().unwrap(),
        };
        for (seed, (path, length)) in FILES.iter().enumerate() {
            tree.write(path, &noise(seed, *length));
        }
        tree
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn write(&self, path: &str, data: &[u8]) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }

    /// As it is seen long after its last change.
    fn plan(&self) -> Arc<Plan> {
        let later = SystemTime::now() + Duration::from_secs(60);
        Arc::new(plan_at(self.path(), later).unwrap())
    }
}

fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    let mut reader = blake3::Hasher::new();
    reader.update(&seed.to_le_bytes());
    reader.finalize_xof().fill(&mut data);
    data
}

/// All of a package, and its chunks when all of it is cut.
fn whole(plan: &Plan) -> (Vec<u8>, Vec<ChunkRef>) {
    let mut tar = Vec::new();
    plan.write(&mut tar).unwrap();
    let mut chunker = Chunker::new(&ChunkerParams::default()).unwrap();
    chunker.push(&tar);
    let chunks = std::iter::from_fn(|| chunker.next(true)).map(|data| ChunkRef {
        id: Digest::blake3(&data),
        bytes: u32::try_from(data.len()).unwrap(),
    });
    (tar, chunks.collect())
}

/// The same of one that is sent, and what is remembered of it.
fn sent(plan: &Plan) -> (Vec<u8>, Vec<ChunkRef>, Memory) {
    let (tar, chunks) = whole(plan);
    let memory = Memory::of(plan, *Digest::blake3(&tar).as_bytes());
    (tar, chunks, memory)
}

/// What is read of a tree that was changed like this since it was sent, and what of that the earlier package does not
/// have; the rest of it was put together from the earlier package, and all of it is cut as if it had been read.
fn read_after(change: impl FnOnce(&Tree)) -> (usize, usize) {
    let tree = Tree::new();
    let before = tree.plan();
    let (old, list, memory) = sent(&before);
    change(&tree);
    let now = tree.plan();
    let (new, expected) = whole(&now);
    let known = Known::new(now, &memory, list.clone()).unwrap();
    let (mut built, mut chunks, mut read, mut passed) = (Vec::new(), Vec::new(), 0, 0);
    let mut sent = 0;
    let take = |item: Item| {
        match item {
            Item::Chunk(chunk, data, copied) => {
                assert_eq!(chunk.id, Digest::blake3(&data));
                sent += data.len();
                let mut end = 0;
                for Copied { at, place, bytes } in copied {
                    assert!(at >= end && bytes >= 512);
                    end = at + bytes;
                    let place = usize::try_from(place).unwrap();
                    assert!(data[at..end] == old[place..place + bytes]);
                    sent -= bytes;
                }
                built.extend_from_slice(&data);
                chunks.push(chunk);
                read += data.len();
            }
            Item::Run { first, chunks: run } => {
                let first = usize::try_from(first).unwrap();
                assert!(first >= passed, "a run goes back");
                passed = first + run.len();
                assert_eq!(list[first..passed], run);
                let start: usize = list[..first].iter().map(|chunk| chunk.bytes as usize).sum();
                let bytes: usize = run.iter().map(|chunk| chunk.bytes as usize).sum();
                built.extend_from_slice(&old[start..start + bytes]);
                chunks.extend(run);
            }
        }
        true
    };
    known.cut(&ChunkerParams::default(), take).unwrap();
    assert!(built == new, "the package is another one");
    assert_eq!(chunks, expected);
    (read, sent)
}

#[test]
fn of_a_tree_without_a_change_nothing_is_read() {
    assert_eq!(read_after(|_| {}), (0, 0));
}

#[test]
fn of_a_changed_tree_what_is_around_the_change_is_read() {
    type Change = fn(&Tree);
    let changes: [(&str, Change, usize); 9] = [
        (
            "one that grows",
            |tree| tree.write("c", &noise(9, 700)),
            600_000,
        ),
        (
            "other content of the same length",
            |tree| tree.write("c", &noise(9, 512)),
            600_000,
        ),
        (
            "the first",
            |tree| tree.write("a/first", &noise(9, 10)),
            300_000,
        ),
        (
            "the last",
            |tree| tree.write("e/last", &noise(9, 10)),
            300_000,
        ),
        (
            "a new one",
            |tree| tree.write("b/new", &noise(9, 5_000)),
            600_000,
        ),
        (
            "a new first",
            |tree| tree.write("0", &noise(9, 5_000)),
            300_000,
        ),
        (
            "a new last",
            |tree| tree.write("z", &noise(9, 5_000)),
            300_000,
        ),
        (
            "one that goes",
            |tree| fs::remove_file(tree.path().join("b/empty")).unwrap(),
            600_000,
        ),
        (
            "a new mode",
            |tree| {
                use std::os::unix::fs::PermissionsExt;
                let path = tree.path().join("c");
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            },
            600_000,
        ),
    ];
    for (what, change, most) in changes {
        let (read, sent) = read_after(change);
        assert!((1..=most).contains(&read), "{what}: {read} bytes were read");
        // The change, and the header before it.
        assert!(sent <= 6_000, "{what}: {sent} bytes are sent");
    }
}

#[test]
fn of_a_tree_in_which_all_is_another_everything_is_read() {
    let total: usize = FILES.iter().map(|(_, length)| length).sum();
    let (moved, _) =
        read_after(|tree| fs::rename(tree.path().join("a"), tree.path().join("z")).unwrap());
    assert!(moved < total / 2, "{moved}");
    let (other, sent) = read_after(|tree| {
        for (path, length) in FILES {
            tree.write(path, &noise(77, length));
        }
    });
    assert!(other > total, "{other}");
    assert!(sent > total, "{sent}");
}

#[test]
fn a_file_that_was_just_touched_is_not_remembered() {
    let tree = Tree::new();
    let fresh = pack::plan(tree.path()).unwrap();
    let stamps: Vec<_> = fresh.stamps().map(|(stamp, _)| stamp).collect();
    let files = stamps.iter().filter(|stamp| stamp.is_none()).count();
    assert_eq!(
        files,
        FILES.len(),
        "directories have no content that could change"
    );
}

#[test]
fn what_does_not_fit_together_is_not_used() {
    let tree = Tree::new();
    let plan = tree.plan();
    let (_, list, memory) = sent(&plan);
    assert!(Known::new(Arc::clone(&plan), &memory, list[1..].to_vec()).is_none());
    assert!(Known::new(Arc::clone(&plan), &memory, Vec::new()).is_none());
    assert!(Known::new(plan, &memory, list).is_some());
}

#[test]
fn a_file_that_is_no_longer_what_was_looked_at_is_named() {
    let tree = Tree::new();
    let before = tree.plan();
    let (_, list, memory) = sent(&before);
    tree.write("d", &noise(9, 900_000));
    let known = Known::new(tree.plan(), &memory, list).unwrap();
    tree.write("d", b"short");
    let error = known.cut(&ChunkerParams::default(), |_| true).unwrap_err();
    assert!(
        matches!(&error, pack::Error::Changed { path, .. } if path == "d"),
        "{error}"
    );
}
