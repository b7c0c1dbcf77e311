#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::fs;
use std::sync::Arc;

use super::*;
use crate::disk::RealDisk;
use crate::testing::noise;

fn sealed(directory: &Path, records: &[Vec<u8>]) -> PathBuf {
    let mut writer = PackWriter::create(Arc::new(RealDisk), directory).unwrap();
    for record in records {
        let bytes = u32::try_from(record.len()).unwrap();
        let id = Digest::blake3(record);
        writer
            .append(Kind::Chunk, id, bytes, Encoding::Raw, record)
            .unwrap();
    }
    let mut closed = writer.close().unwrap();
    closed.seal().unwrap();
    directory.join(pack_file_name(closed.name()))
}

#[test]
fn a_pack_says_by_itself_what_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let records = [noise(1, 1_000), Vec::new(), noise(2, 70_000)];
    let path = sealed(directory.path(), &records);
    let pack = Pack::open(&path).unwrap();
    assert_eq!(path, directory.path().join(pack_file_name(pack.name)));
    assert_eq!(pack.entries.len(), records.len());
    for (entry, record) in pack.entries.iter().zip(&records) {
        assert_eq!(entry.kind, Kind::Chunk);
        assert_eq!(&pack.read(entry).unwrap(), record);
    }
}

#[test]
fn every_flipped_byte_of_header_table_and_trailer_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = sealed(directory.path(), &[noise(3, 100), noise(4, 100)]);
    let whole = fs::read(&path).unwrap();
    let records = HEADER_BYTES..HEADER_BYTES + 200;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        fs::write(&path, &bytes).unwrap();
        match Pack::open(&path) {
            Ok(pack) => {
                assert!(records.contains(&at), "byte {at} was not noticed");
                let wrong = pack
                    .entries
                    .iter()
                    .filter(|entry| pack.read(entry).is_err());
                assert_eq!(wrong.count(), 1);
            }
            Err(error) => {
                assert!(!records.contains(&at));
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            }
        }
    }
}

#[test]
fn a_truncated_pack_is_noticed_wherever_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = sealed(directory.path(), &[noise(5, 100)]);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(Pack::open(&path), Err(Error::Corrupt { .. })));
    }
}

#[test]
fn a_pack_that_is_dropped_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let writer = PackWriter::create(Arc::new(RealDisk), directory.path()).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    drop(writer);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
