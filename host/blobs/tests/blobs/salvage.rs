//! What is had of packs that are damaged: every record that is what was written, and a word about every other one.

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_blobs::pack::{Entry, Kind, Pack};
use cofferdam_blobs::{BlobInfo, CheckReport, Error};

use crate::check::{LOOK, MEND, Said, check, flip, truncate};
use crate::testing::noise;
use crate::{closed, open, open_with_small_packs, packs, read, store};

/// The bytes of a line of a table, and of what follows it.
const LINE: u64 = 52;
const TRAILER: u64 = 64;

/// Does something to a pack.
type Damage<'a> = &'a dyn Fn(&Path);

type Blobs = Vec<(BlobInfo, Vec<u8>)>;

/// A closed store with two blobs that share something, of chunks that shrink and chunks that do not.
struct Prepared {
    directory: tempfile::TempDir,
    blobs: Blobs,
}

/// What a damage is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Kept,
    Lost,
}

impl Prepared {
    async fn new() -> Prepared {
        let directory = tempfile::tempdir().unwrap();
        let opened = open_with_small_packs(directory.path()).await;
        let shared = [noise(1, 150_000), b"la la li ".repeat(20_000)].concat();
        let mut blobs = Blobs::new();
        for (namespace, seed) in [("blog", 2), ("shop", 3)] {
            let data = [shared.clone(), noise(seed, 200_000)].concat();
            blobs.push((store(&opened, namespace, &data).await, data));
        }
        drop(opened);
        closed(directory.path()).await;
        Prepared { directory, blobs }
    }

    fn packs(&self) -> Vec<PathBuf> {
        packs(self.directory.path(), "pack")
    }

    /// A copy of it, with this pack damaged.
    fn damaged(&self, pack: &Path, index: Index, damage: impl FnOnce(&Path)) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        let to = copy.path().join("packs");
        fs::create_dir(&to).unwrap();
        for path in self.packs() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
        if index == Index::Kept {
            let from = self.directory.path().join("index.db");
            fs::copy(from, copy.path().join("index.db")).unwrap();
        }
        damage(&to.join(pack.file_name().unwrap()));
        copy
    }
}

/// Which of the blobs read whole. Of the others no byte is wrong.
async fn readable(directory: &Path, blobs: &Blobs) -> Vec<bool> {
    let opened = open(directory).await;
    let mut readable = Vec::new();
    for (info, data) in blobs {
        let whole = match opened.reader(info.id).await {
            Ok(reader) => match read(reader).await {
                Ok(found) => {
                    assert!(found == *data);
                    true
                }
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                    false
                }
            },
            Err(error) => {
                assert!(matches!(error, Error::NotFound { .. }), "{error}");
                false
            }
        };
        readable.push(whole);
    }
    drop(opened);
    closed(directory).await;
    readable
}

/// Mends it. Then it is whole, or every check from then on says that it is not.
async fn mend(directory: &Path, blobs: &Blobs, when: &str) -> (CheckReport, Said, Vec<bool>) {
    let (report, said) = check(directory, MEND).await;
    let readable = readable(directory, blobs).await;
    let whole = readable.iter().all(|whole| *whole);
    assert!(whole || report.remaining > 0, "{when}: {said:#?}");
    let (again, said_again) = check(directory, LOOK).await;
    assert_eq!(again.faults, report.remaining, "{when}: {said_again:#?}");
    (report, said, readable)
}

fn table_of(path: &Path) -> (u64, Vec<Entry>) {
    let pack = Pack::open(path).unwrap();
    let table = pack.length - TRAILER - LINE * pack.entries.len() as u64;
    (table, pack.entries)
}

#[tokio::test]
async fn whichever_line_of_a_table_is_damaged_its_record_is_found_without_it() {
    let prepared = Prepared::new().await;
    // Kind, encoding, stored bytes, bytes, offset, id.
    let fields = [0, 1, 5, 9, 13, 30];
    for path in prepared.packs() {
        let (table, entries) = table_of(&path);
        for (n, entry) in (0..).zip(&entries) {
            for field in fields {
                let when = format!("{:?}, byte {field} of line {n}", entry.kind);
                let copy = prepared.damaged(&path, Index::Lost, |pack| {
                    flip(pack, table + n * LINE + field);
                });
                let (report, said, readable) = mend(copy.path(), &prepared.blobs, &when).await;
                assert_eq!(readable, [true, true], "{when}: {said:#?}");
                assert_eq!(report.remaining, 0, "{when}: {said:#?}");
            }
        }
    }
}

#[tokio::test]
async fn without_any_table_only_what_others_name_is_found_and_the_rest_is_told_of() {
    let prepared = Prepared::new().await;
    for path in prepared.packs() {
        let (table, entries) = table_of(&path);
        let table = usize::try_from(table).unwrap();
        let wipe: [(&str, Damage<'_>); 3] = [
            ("two lines", &|pack| {
                let last = entries.len() as u64 - 1;
                flip(pack, table as u64 + last * LINE + 30);
                flip(pack, table as u64 + (last - 1) * LINE + 30);
            }),
            ("every line", &|pack| {
                for n in 0..entries.len() as u64 {
                    flip(pack, table as u64 + n * LINE + 30);
                }
            }),
            ("the whole table", &|pack| {
                let mut bytes = fs::read(pack).unwrap();
                bytes[table..].fill(0);
                fs::write(pack, bytes).unwrap();
            }),
        ];
        for (what, damage) in wipe {
            let copy = prepared.damaged(&path, Index::Lost, damage);
            let (report, said, readable) = mend(copy.path(), &prepared.blobs, what).await;
            // Without any table whatever looks like a description may have been stored.
            let is_known = what != "the whole table";
            assert_eq!(readable == [true, true], is_known, "{what}: {said:#?}");
            // Whoever cannot see a line cannot know that this was all.
            let bounded = what == "two lines";
            assert_eq!(report.remaining == 0, bounded, "{what}: {said:#?}");
            if !is_known {
                heal_by_sending_again(copy.path(), &prepared.blobs).await;
            }
        }
    }
}

#[tokio::test]
async fn what_nobody_can_name_any_more_is_told_of_until_its_note_is_deleted() {
    let prepared = Prepared::new().await;
    for path in prepared.packs() {
        let (table, entries) = table_of(&path);
        for (n, entry) in (0..).zip(&entries) {
            if entry.kind != Kind::Blob {
                continue;
            }
            let copy = prepared.damaged(&path, Index::Lost, |pack| {
                flip(pack, entry.extent.offset + 3);
                flip(pack, table + n * LINE + 30);
            });
            let directory = copy.path();
            let (report, said, readable) = mend(directory, &prepared.blobs, "a blob").await;
            assert_eq!(readable.iter().filter(|whole| **whole).count(), 1);
            assert_eq!(report.remaining, 1, "{said:#?}");
            for _ in 0..2 {
                let (_, said) = check(directory, MEND).await;
                assert_eq!(said.kinds(), ["lost_records"]);
            }
            let notes = packs(directory, "lost");
            assert_eq!(notes.len(), 1);
            fs::remove_file(&notes[0]).unwrap();
            let (report, said) = check(directory, MEND).await;
            assert_eq!(report.faults, 0, "{said:#?}");
        }
    }
}

#[tokio::test]
async fn whichever_record_is_damaged_nothing_else_is_lost_and_what_is_lost_is_told() {
    let prepared = Prepared::new().await;
    for path in prepared.packs() {
        let (_, entries) = table_of(&path);
        for (n, entry) in (0..).zip(&entries) {
            for index in [Index::Kept, Index::Lost] {
                let when = format!("{:?} {n}, index {index:?}", entry.kind);
                let copy = prepared.damaged(&path, index, |pack| {
                    flip(
                        pack,
                        entry.extent.offset + u64::from(entry.extent.stored) / 2,
                    );
                });
                let (report, said, readable) = mend(copy.path(), &prepared.blobs, &when).await;
                let described = entry.kind != Kind::Chunk && index == Index::Kept;
                assert_eq!(report.remaining == 0, described, "{when}: {said:#?}");
                assert_eq!(report.set_aside, 1, "{when}");
                if entry.kind == Kind::Chunk {
                    assert!(
                        said.kinds().contains(&"incomplete_blob".to_owned())
                            || index == Index::Lost
                    );
                    heal(copy.path(), &prepared.blobs, &when).await;
                } else {
                    let whole = if described { 2 } else { 1 };
                    let count = readable.iter().filter(|whole| **whole).count();
                    assert_eq!(count, whole, "{when}: {said:#?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn wherever_a_pack_ends_what_is_before_that_is_saved() {
    let prepared = Prepared::new().await;
    for path in prepared.packs() {
        let (_, entries) = table_of(&path);
        let length = fs::metadata(&path).unwrap().len();
        for (n, entry) in (0..).zip(&entries) {
            for index in [Index::Kept, Index::Lost] {
                let when = format!("cut in {:?} {n}, index {index:?}", entry.kind);
                let end = entry.extent.offset + u64::from(entry.extent.stored) / 2;
                let copy = prepared.damaged(&path, index, |pack| truncate(pack, length - end));
                let (report, said, readable) = mend(copy.path(), &prepared.blobs, &when).await;
                let whole = readable.iter().all(|whole| *whole);
                if index == Index::Lost {
                    assert!(report.remaining > 0, "{when}: {said:#?}");
                } else {
                    // What describes blobs comes last, and the index has it.
                    assert_eq!(whole, entry.kind != Kind::Chunk, "{when}: {said:#?}");
                    heal(copy.path(), &prepared.blobs, &when).await;
                }
            }
        }
    }
}

/// Stores the same bytes once more: what could be read of them is not stored again, and all of it can be read.
async fn heal_by_sending_again(directory: &Path, blobs: &Blobs) {
    let opened = open(directory).await;
    for (info, data) in blobs {
        let again = store(&opened, &info.namespace, data).await;
        assert!(read(opened.reader(again.id).await.unwrap()).await.unwrap() == *data);
    }
    drop(opened);
    closed(directory).await;
}

#[tokio::test]
async fn what_somebody_stored_that_looks_like_the_record_of_a_blob_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path()).await;
    // What somebody has learnt of a store, in their own words.
    let first = store(&opened, "blog", b"a first blob").await;
    let path = packs(directory.path(), "pack").remove(0);
    let (_, entries) = table_of(&path);
    let pack = Pack::open(&path).unwrap();
    let record = entries.iter().find(|entry| entry.kind == Kind::Blob);
    let record = pack.read(record.unwrap()).unwrap();
    let part = entries.iter().find(|entry| entry.kind == Kind::Manifest);
    let part = pack.read(part.unwrap()).unwrap();
    let forged = String::from_utf8(record).unwrap();
    let forged = forged.replace("\"blog\"", "\"evil\"");
    let content = [
        &noise(1, 40_000),
        forged.as_bytes(),
        &part,
        &noise(2, 40_000),
    ]
    .concat();
    // And a line for it, as the first of a table.
    let place = 32 + 40_000_u64;
    let mut line = vec![3, 0, 0, 0];
    for length in [forged.len(), forged.len()] {
        line.extend(u32::try_from(length).unwrap().to_le_bytes());
    }
    line.extend(place.to_le_bytes());
    line.extend(cofferdam_blobs::Digest::blake3(forged.as_bytes()).as_bytes());
    let mut begins = line.clone();
    begins[12..20].copy_from_slice(&32_u64.to_le_bytes());
    let content = [content, begins, line, noise(3, 300_000)].concat();
    let info = store(&opened, "blog", &content).await;
    drop(opened);
    closed(directory.path()).await;
    let path = packs(directory.path(), "pack").pop().unwrap();
    let (table, entries) = table_of(&path);
    assert_eq!(entries[0].extent.offset, 32);
    assert!(
        fs::read(&path).unwrap()[usize::try_from(place).unwrap()..].starts_with(forged.as_bytes())
    );
    let length = fs::metadata(&path).unwrap().len();
    for cut in [length - table, length - table + 100, length - 200_000] {
        for index in [Index::Kept, Index::Lost] {
            let copy = tempfile::tempdir().unwrap();
            fs::create_dir(copy.path().join("packs")).unwrap();
            for from in packs(directory.path(), "pack") {
                let name = from.file_name().unwrap();
                fs::copy(&from, copy.path().join("packs").join(name)).unwrap();
            }
            if index == Index::Kept {
                fs::copy(
                    directory.path().join("index.db"),
                    copy.path().join("index.db"),
                )
                .unwrap();
            }
            truncate(
                &copy.path().join("packs").join(path.file_name().unwrap()),
                cut,
            );
            check(copy.path(), MEND).await;
            let opened = open(copy.path()).await;
            for blob in opened.blobs(None, 10).await.unwrap() {
                assert!(
                    [first.id, info.id].contains(&blob.id),
                    "{index:?} {cut}: {blob:?}"
                );
                assert_eq!(blob.namespace, "blog", "{index:?} {cut}");
            }
            assert!(!opened.holds_any("evil").await.unwrap());
            drop(opened);
            closed(copy.path()).await;
        }
    }
}

/// Stores the same bytes once more, after which every blob is whole that is known.
async fn heal(directory: &Path, blobs: &Blobs, when: &str) {
    let opened = open(directory).await;
    for (_, data) in blobs {
        store(&opened, "another", data).await;
    }
    drop(opened);
    closed(directory).await;
    assert_eq!(readable(directory, blobs).await, [true, true], "{when}");
    check(directory, MEND).await;
    let (report, said) = check(directory, LOOK).await;
    assert_eq!(report.faults, 0, "{when}: {said:#?}");
}
