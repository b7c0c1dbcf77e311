//! A store that is checked: faults of every kind are found, and mended if they can be.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cofferdam_blobs::pack::{Entry, Kind, Pack};
use cofferdam_blobs::{
    BlobInfo, CheckEvent, CheckOptions, CheckReport, Error, Fault, Mended, Progress, Store,
};
use sqlx::Connection;
use tokio::sync::mpsc;

use crate::testing::noise;
use crate::{closed, open, open_with_small_packs, packs, read, store};

/// What a check said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) faults: Vec<Fault>,
    mends: Vec<Mended>,
    remains: Vec<Fault>,
    progress: Vec<Progress>,
}

impl Said {
    /// The kinds of what was found, each once.
    pub(crate) fn kinds(&self) -> Vec<String> {
        kinds(&self.faults)
    }
}

fn kinds(faults: &[Fault]) -> Vec<String> {
    let mut kinds: Vec<String> = faults
        .iter()
        .map(|fault| {
            serde_json::to_value(fault).unwrap()["fault"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

pub(crate) const LOOK: CheckOptions = CheckOptions {
    read_data: false,
    repair: false,
};
const READ: CheckOptions = CheckOptions {
    read_data: true,
    repair: false,
};
pub(crate) const MEND: CheckOptions = CheckOptions {
    read_data: true,
    repair: true,
};

pub(crate) async fn check(directory: &Path, options: CheckOptions) -> (CheckReport, Said) {
    let (tell, mut told) = mpsc::channel(8);
    let listening = tokio::spawn(async move {
        let mut said = Said::default();
        while let Some(event) = told.recv().await {
            // Everything can be said to a person, and to a program.
            assert!(serde_json::to_string(&event).unwrap().contains("kind"));
            match event {
                CheckEvent::Fault(fault) => {
                    assert!(!fault.to_string().is_empty());
                    said.faults.push(fault);
                }
                CheckEvent::Mended(mended) => said.mends.push(mended),
                CheckEvent::Remains(fault) => said.remains.push(fault),
                CheckEvent::Progress(progress) => said.progress.push(progress),
                other => panic!("{other:?}"),
            }
        }
        said
    });
    let report = Store::check(directory, options, tell).await.unwrap();
    let said = listening.await.unwrap();
    assert_eq!(report.faults, said.faults.len() as u64);
    (report, said)
}

/// A store with two blobs in several packs, which share their first half, closed.
async fn two_blobs(directory: &Path) -> [(BlobInfo, Vec<u8>); 2] {
    let blobs = open_with_small_packs(directory).await;
    let shared = noise(1, 900_000);
    let first = [shared.clone(), noise(2, 900_000)].concat();
    let second = [shared, noise(3, 900_000)].concat();
    let result = [
        (store(&blobs, "blog", &first).await, first),
        (store(&blobs, "shop", &second).await, second),
    ];
    drop(blobs);
    closed(directory).await;
    result
}

/// Changes the index behind the store's back.
pub(crate) async fn sql(directory: &Path, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.join("index.db"));
    let mut index = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    let changed = sqlx::query(sql).execute(&mut index).await.unwrap();
    assert!(changed.rows_affected() > 0, "{sql}");
    index.close().await.unwrap();
}

/// The pack that has the last chunk of what was stored first, and that chunk: only the first blob has it.
fn a_chunk_of_the_first(directory: &Path, blobs: &[(BlobInfo, Vec<u8>); 2]) -> (PathBuf, Entry) {
    for path in packs(directory, "pack") {
        let pack = Pack::open(&path).unwrap();
        for entry in &pack.entries {
            let bytes = pack.read(entry).unwrap();
            let ends = |data: &[u8]| data.ends_with(&bytes);
            if entry.kind == Kind::Chunk && ends(&blobs[0].1) {
                return (path, *entry);
            }
        }
    }
    panic!("no pack has the end of the first blob");
}

/// Does something to a file.
type Damage = fn(&Path);

pub(crate) fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

pub(crate) fn truncate(path: &Path, bytes: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - bytes).unwrap();
}

/// Both blobs read whole, and a check of every byte finds nothing.
async fn assert_sound(directory: &Path, blobs: &[(BlobInfo, Vec<u8>)], when: &str) {
    let (report, said) = check(directory, READ).await;
    assert_eq!(report.faults, 0, "{when}: {said:#?}");
    let opened = open(directory).await;
    for (info, data) in blobs {
        let found = read(opened.reader(info.id).await.unwrap()).await.unwrap();
        assert!(found == *data, "{when}");
    }
    drop(opened);
    closed(directory).await;
}

#[tokio::test]
async fn a_sound_store_has_no_faults_and_a_check_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = two_blobs(directory.path()).await;
    let names = |directory: &Path| packs(directory, "pack");
    let before = names(directory.path());
    let index = fs::read(directory.path().join("index.db")).unwrap();
    for options in [LOOK, READ, MEND] {
        let (report, said) = check(directory.path(), options).await;
        assert_eq!(
            (report.faults, report.remaining, report.mended),
            (0, 0, 0),
            "{said:#?}"
        );
        assert_eq!(report.packs, before.len() as u64);
        assert_eq!(report.blobs, 2);
        let whole = report.verified_bytes > 2_700_000;
        assert_eq!(whole, options.read_data, "{report:?}");
        let last = said.progress.last().unwrap();
        assert_eq!(last.done, last.total);
    }
    assert_eq!(names(directory.path()), before);
    assert!(fs::read(directory.path().join("index.db")).unwrap() == index);
    assert_sound(directory.path(), &blobs, "after three checks").await;
}

#[tokio::test]
async fn a_store_that_is_in_use_is_not_checked() {
    let directory = tempfile::tempdir().unwrap();
    let _held = open(directory.path()).await;
    let (tell, _told) = mpsc::channel(8);
    let refused = Store::check(directory.path(), LOOK, tell.clone()).await;
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    let refused = Store::reindex(directory.path(), tell).await;
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
}

#[tokio::test]
async fn files_that_were_never_finished_are_found_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = two_blobs(directory.path()).await;
    let torn = directory
        .path()
        .join("packs/019a0000-0000-7000-8000-000000000001.tmp");
    fs::write(&torn, b"torn").unwrap();
    let index = directory.path().join("index.db.rebuilt");
    fs::write(&index, b"torn too").unwrap();
    let (_, said) = check(directory.path(), LOOK).await;
    assert_eq!(said.kinds(), ["torn_file"]);
    assert_eq!(said.faults.len(), 2);
    assert!(torn.exists());
    let (report, _) = check(directory.path(), MEND).await;
    assert_eq!((report.faults, report.mended, report.remaining), (2, 2, 0));
    assert!(!torn.exists() && !index.exists());
    assert_sound(directory.path(), &blobs, "without torn files").await;
}

#[tokio::test]
async fn a_flipped_bit_is_found_the_good_records_are_saved_and_an_upload_heals_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = two_blobs(directory.path()).await;
    let (path, entry) = a_chunk_of_the_first(directory.path(), &blobs);
    flip(&path, entry.extent.offset + 100);

    // Only who reads every byte can see it.
    let (report, _) = check(directory.path(), LOOK).await;
    assert_eq!(report.faults, 0);
    let (_, said) = check(directory.path(), READ).await;
    assert_eq!(said.kinds(), ["corrupt_record", "incomplete_blob"]);
    let concerned = said.faults.iter().any(|fault| {
        matches!(fault, Fault::IncompleteBlob { blob, namespace, chunks: 1, first }
            if *blob == blobs[0].0.id && namespace == "blog" && *first == [entry.id])
    });
    assert!(concerned, "{said:#?}");

    let (report, said) = check(directory.path(), MEND).await;
    assert!(report.mended > 0 && report.remaining > 0, "{report:?}");
    let left = kinds(&said.remains);
    assert!(left.contains(&"incomplete_blob".to_owned()), "{left:?}");
    assert!(!left.contains(&"corrupt_record".to_owned()), "{left:?}");
    assert_eq!(report.set_aside, 1);

    let opened = open(directory.path()).await;
    let second = read(opened.reader(blobs[1].0.id).await.unwrap()).await;
    assert!(second.unwrap() == blobs[1].1);
    let first = read(opened.reader(blobs[0].0.id).await.unwrap()).await;
    assert!(matches!(first, Err(Error::Corrupt { .. })), "{first:?}");
    store(&opened, "another", &blobs[0].1).await;
    let first = read(opened.reader(blobs[0].0.id).await.unwrap()).await;
    assert!(first.unwrap() == blobs[0].1);
    drop(opened);
    closed(directory.path()).await;
    // What is left is a row about a pack of which nothing is wanted any more.
    check(directory.path(), MEND).await;
    assert_sound(directory.path(), &blobs, "after it was healed").await;
}

#[tokio::test]
async fn a_pack_whose_table_is_damaged_is_saved_with_and_without_an_index() {
    // Trailer, table, header; a cut that takes the trailer, and one that takes the table too.
    let damage: [(&str, Damage); 7] = [
        ("trailer", |path| {
            flip(path, fs::metadata(path).unwrap().len() - 10);
        }),
        ("how many lines there are", |path| {
            flip(path, fs::metadata(path).unwrap().len() - 64 + 13);
        }),
        ("where the table is", |path| {
            flip(path, fs::metadata(path).unwrap().len() - 64 + 17);
        }),
        ("table", |path| {
            flip(path, fs::metadata(path).unwrap().len() - 64 - 30);
        }),
        ("header", |path| flip(path, 3)),
        ("no trailer", |path| truncate(path, 64)),
        ("half a table", |path| truncate(path, 64 + 52 + 10)),
    ];
    for (what, damage) in damage {
        for with_index in [true, false] {
            let when = format!("{what}, index {with_index}");
            let directory = tempfile::tempdir().unwrap();
            let blobs = two_blobs(directory.path()).await;
            let (path, _) = a_chunk_of_the_first(directory.path(), &blobs);
            damage(&path);
            let (_, said) = check(directory.path(), LOOK).await;
            assert!(
                said.kinds().contains(&"damaged_pack".to_owned()),
                "{when}: {said:#?}"
            );
            if !with_index {
                fs::remove_file(directory.path().join("index.db")).unwrap();
            }
            let (report, said) = check(directory.path(), MEND).await;
            if what == "half a table" && !with_index {
                // What has no line any more may have been stored, whatever it looks like: nobody is believed, and
                // every check says so.
                assert!(report.remaining > 0, "{when}: {said:#?}");
                continue;
            }
            assert_eq!(report.remaining, 0, "{when}: {said:#?}");
            assert_sound(directory.path(), &blobs, &when).await;
        }
    }
}

#[tokio::test]
async fn a_missing_pack_is_found_and_the_blobs_that_need_it_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = two_blobs(directory.path()).await;
    let (path, entry) = a_chunk_of_the_first(directory.path(), &blobs);
    fs::remove_file(&path).unwrap();
    let (_, said) = check(directory.path(), LOOK).await;
    assert!(
        said.kinds().contains(&"missing_pack".to_owned()),
        "{said:#?}"
    );
    let concerned = said
        .faults
        .iter()
        .any(|fault| matches!(fault, Fault::IncompleteBlob { blob, .. } if *blob == blobs[0].0.id));
    assert!(concerned, "{said:#?}");

    let (report, said) = check(directory.path(), MEND).await;
    assert!(report.remaining > 0);
    assert!(kinds(&said.remains).contains(&"incomplete_blob".to_owned()));
    // Nothing that the first blob consists of was forgotten: the next upload brings it back.
    let opened = open(directory.path()).await;
    store(&opened, "another", &blobs[0].1).await;
    let first = read(opened.reader(blobs[0].0.id).await.unwrap()).await;
    assert!(first.unwrap() == blobs[0].1, "{entry:?}");
    drop(opened);
    closed(directory.path()).await;
    check(directory.path(), MEND).await;
    assert_sound(directory.path(), &blobs, "after it was healed").await;
    // Also without the index: what only the missing pack recorded is recorded again.
    fs::remove_file(directory.path().join("index.db")).unwrap();
    check(directory.path(), MEND).await;
    assert_sound(directory.path(), &blobs, "after the index was lost too").await;
}

#[tokio::test]
async fn a_missing_pack_that_nobody_needs_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = two_blobs(directory.path()).await;
    let opened = open(directory.path()).await;
    let data = noise(9, 300_000);
    let before = packs(directory.path(), "pack");
    let third = store(&opened, "blog", &data).await;
    opened.remove(third.id).await.unwrap();
    drop(opened);
    closed(directory.path()).await;
    for path in packs(directory.path(), "pack") {
        if !before.contains(&path) {
            fs::remove_file(path).unwrap();
        }
    }
    let (_, said) = check(directory.path(), LOOK).await;
    assert_eq!(said.kinds(), ["missing_pack"]);
    let (report, said) = check(directory.path(), MEND).await;
    assert_eq!(report.remaining, 0, "{said:#?}");
    assert_sound(directory.path(), &blobs, "after it was forgotten").await;
}

#[tokio::test]
async fn a_pack_that_comes_back_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = two_blobs(directory.path()).await;
    let (path, _) = a_chunk_of_the_first(directory.path(), &blobs);
    let aside = directory.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    check(directory.path(), MEND).await;
    fs::rename(&aside, &path).unwrap();
    let (_, said) = check(directory.path(), LOOK).await;
    assert!(
        said.kinds().contains(&"returned_pack".to_owned()),
        "{said:#?}"
    );
    let (report, said) = check(directory.path(), MEND).await;
    assert_eq!(report.remaining, 0, "{said:#?}");
    assert_sound(directory.path(), &blobs, "after the pack came back").await;
}

#[tokio::test]
async fn a_pack_that_the_index_does_not_name_is_adopted_with_its_blobs() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = two_blobs(directory.path()).await;
    // The index of yesterday: it knows nothing of the third blob, nor that half of the second is gone.
    let yesterday = directory.path().join("yesterday");
    fs::copy(directory.path().join("index.db"), &yesterday).unwrap();
    let opened = open(directory.path()).await;
    let data = [blobs[0].1.clone(), noise(9, 300_000)].concat();
    let third = store(&opened, "blog", &data).await;
    drop(opened);
    closed(directory.path()).await;
    fs::rename(&yesterday, directory.path().join("index.db")).unwrap();

    let (_, said) = check(directory.path(), READ).await;
    assert_eq!(said.kinds(), ["orphan_pack"]);
    let (report, said) = check(directory.path(), MEND).await;
    assert_eq!(report.remaining, 0, "{said:#?}");
    let all = [blobs[0].clone(), blobs[1].clone(), (third, data)];
    assert_sound(directory.path(), &all, "with the pack that was adopted").await;
}

#[tokio::test]
async fn a_blob_of_a_pack_that_was_adopted_is_named_also_when_a_record_of_it_is_lost() {
    for kind in [Kind::Chunk, Kind::Manifest, Kind::Blob] {
        let directory = tempfile::tempdir().unwrap();
        let blobs = two_blobs(directory.path()).await;
        let index = directory.path().join("index.db");
        let yesterday = fs::read(&index).unwrap();
        let before = packs(directory.path(), "pack");
        let opened = open(directory.path()).await;
        let data = noise(9, 300_000);
        let third = store(&opened, "blog", &data).await;
        drop(opened);
        closed(directory.path()).await;
        fs::write(&index, yesterday).unwrap();
        let path = packs(directory.path(), "pack").pop().unwrap();
        assert!(!before.contains(&path));
        let entries = Pack::open(&path).unwrap().entries;
        let entry = entries.iter().find(|entry| entry.kind == kind).unwrap();
        flip(&path, entry.extent.offset + 20);

        let (report, said) = check(directory.path(), MEND).await;
        assert!(report.remaining > 0, "{kind:?}: {said:#?}");
        let (_, said) = check(directory.path(), LOOK).await;
        let named = said.faults.iter().any(|fault| match fault {
            Fault::IncompleteBlob { blob, .. } => kind == Kind::Chunk && *blob == third.id,
            Fault::WrongManifest { blob, .. } => kind == Kind::Manifest && *blob == third.id,
            // Nobody can say which it was.
            Fault::LostRecords { .. } => kind == Kind::Blob,
            _ => false,
        });
        assert!(named, "{kind:?}: {said:#?}");
        // The same bytes once more make it whole, if it is known what it consists of.
        let opened = open(directory.path()).await;
        store(&opened, "another", &data).await;
        let found = match opened.reader(third.id).await {
            Ok(reader) => read(reader).await,
            Err(error) => Err(error),
        };
        assert_eq!(found.is_ok_and(|found| found == data), kind == Kind::Chunk);
        for (info, data) in &blobs {
            assert!(read(opened.reader(info.id).await.unwrap()).await.unwrap() == *data);
        }
    }
}

#[tokio::test]
async fn rows_that_lead_nowhere_are_found_and_corrected_and_nothing_is_lost() {
    for (damage, expected) in [
        (
            "UPDATE chunk SET pack = 4711 WHERE pack = 2",
            "wrong_chunk_row",
        ),
        (
            "UPDATE chunk SET pack = 1 WHERE pack = 2",
            "wrong_chunk_row",
        ),
        (
            "UPDATE chunk SET offset = offset + 1 WHERE pack = 2",
            "wrong_chunk_row",
        ),
        (
            "UPDATE chunk SET bytes = bytes + 1 WHERE pack = 2",
            "wrong_chunk_row",
        ),
        (
            "UPDATE chunk SET quarantined = 1 WHERE pack = 2",
            "quarantined_chunk",
        ),
        ("DELETE FROM chunk WHERE pack = 2", "incomplete_blob"),
        (
            "UPDATE pack SET bytes = bytes + 1 WHERE id = 2",
            "wrong_pack_row",
        ),
        ("UPDATE pack SET state = 2 WHERE id = 2", "returned_pack"),
        ("DELETE FROM pack WHERE id = 2", "orphan_pack"),
        (
            "UPDATE pack SET name = randomblob(16) WHERE id = 2",
            "missing_pack",
        ),
        (
            "UPDATE manifest SET data = zeroblob(length(data))",
            "wrong_manifest",
        ),
        (
            "UPDATE manifest SET first_byte = first_byte + 7",
            "wrong_manifest",
        ),
        ("DELETE FROM manifest", "wrong_manifest"),
        (
            "UPDATE chunk SET encoding = 9 WHERE pack = 2",
            "index_damaged",
        ),
        ("DROP TABLE manifest", "index_damaged"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let blobs = two_blobs(directory.path()).await;
        if damage.starts_with("DROP") {
            let options = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(directory.path().join("index.db"));
            let mut index = sqlx::SqliteConnection::connect_with(&options)
                .await
                .unwrap();
            sqlx::query(damage).execute(&mut index).await.unwrap();
            index.close().await.unwrap();
        } else {
            sql(directory.path(), damage).await;
        }
        let (_, said) = check(directory.path(), LOOK).await;
        assert!(
            said.kinds().contains(&expected.to_owned()),
            "{damage}: {said:#?}"
        );
        let (report, said) = check(directory.path(), MEND).await;
        assert_eq!(report.remaining, 0, "{damage}: {said:#?}");
        assert!(report.mended > 0);
        assert_sound(directory.path(), &blobs, damage).await;
    }
}

#[tokio::test]
async fn a_row_that_leads_nowhere_and_that_no_blob_needs_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = two_blobs(directory.path()).await;
    sql(
        directory.path(),
        "INSERT INTO chunk (id, pack, offset, stored_bytes, bytes, encoding) \
         VALUES (randomblob(32), 4711, 32, 10, 10, 0), (randomblob(32), 1, 32, 10, 10, 0)",
    )
    .await;
    let (_, said) = check(directory.path(), LOOK).await;
    assert_eq!(said.kinds(), ["wrong_chunk_row"]);
    assert_eq!(said.faults.len(), 2);
    let (report, said) = check(directory.path(), MEND).await;
    assert_eq!(report.remaining, 0, "{said:#?}");
    assert_eq!(said.mends.len(), 1);
    assert_eq!(said.mends[0].mend, "dropped");
    assert_sound(directory.path(), &blobs, "without the row").await;
}

#[tokio::test]
async fn an_index_that_is_lost_or_unreadable_is_made_anew() {
    let damage: [(&str, Damage); 4] = [
        ("index_missing", |index| fs::remove_file(index).unwrap()),
        ("index_damaged", |index| {
            fs::write(index, b"not an index at all").unwrap();
        }),
        ("index_damaged", |index| fs::write(index, b"").unwrap()),
        ("index_damaged", |index| {
            // Pages in the middle, which only reading them shows.
            let length = fs::metadata(index).unwrap().len();
            let file = File::options().write(true).open(index).unwrap();
            for at in (4096..length).step_by(4096) {
                file.write_all_at(&[0xa5; 100], at).unwrap();
            }
        }),
    ];
    for (expected, damage) in damage {
        let directory = tempfile::tempdir().unwrap();
        let blobs = two_blobs(directory.path()).await;
        damage(&directory.path().join("index.db"));
        // A log of another time must not find its way into the new index.
        let (_, said) = check(directory.path(), LOOK).await;
        assert_eq!(said.kinds(), [expected], "{said:#?}");
        let (report, said) = check(directory.path(), MEND).await;
        assert_eq!(report.remaining, 0, "{said:#?}");
        assert_sound(directory.path(), &blobs, expected).await;
    }
}

#[tokio::test]
async fn a_check_that_nobody_follows_ends() {
    let directory = tempfile::tempdir().unwrap();
    two_blobs(directory.path()).await;
    let (tell, told) = mpsc::channel(1);
    drop(told);
    let ended = Store::check(directory.path(), LOOK, tell).await;
    assert!(matches!(ended, Err(Error::Interrupted { .. })), "{ended:?}");
}
