//! Keeping what only a lost pack said of blobs.
//!
//! When nothing of a lost pack is missed any more, because uploads have brought its chunks again, it is forgotten. But it
//! may have been the only pack that describes some blob, and an index that is made from packs would not know that blob.
//! Its file is gone, so what it described is found by what no other pack does.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::{Collector, blocking};
use crate::index::{MoveCommit, PackState};
use crate::manifest::BlobRecord;
use crate::pack::{ClosedPack, Decoder, Kind, Pack, PackWriter};
use crate::repair::describe;
use crate::store::Shared;
use crate::{BlobId, Digest, Error};

/// How many blobs are taken at a time.
const BLOBS: u32 = 256;

/// What the packs in use say of blobs.
#[derive(Default)]
struct Recorded {
    parts: HashSet<Digest>,
    blobs: HashSet<BlobId>,
}

impl Collector {
    /// Records in a new pack what no pack in use says of the blobs that are there.
    pub(super) async fn keep_descriptions(&mut self) -> Result<(), Error> {
        let unrecorded = self.unrecorded().await?;
        let mut rest = &unrecorded[..];
        while !rest.is_empty() {
            let naming = self.shared.naming.read().await;
            let shared = Arc::clone(&self.shared);
            let blobs = rest.to_vec();
            let (closed, written) = blocking(move || write(&shared, &blobs)).await??;
            rest = &rest[written..];
            if let Some(closed) = closed {
                let commit = MoveCommit {
                    round: self.round,
                    name: closed.name(),
                    length: closed.length(),
                    entries: closed.entries.len() as u64,
                    moved: Vec::new(),
                    emptied: Vec::new(),
                };
                self.shared.index.move_chunks(&commit).await?;
                self.report.bytes_written += commit.length;
            }
            drop(naming);
        }
        Ok(())
    }

    /// The blobs that no pack in use describes from the first byte to the last.
    async fn unrecorded(&mut self) -> Result<Vec<BlobId>, Error> {
        let index = &self.shared.index;
        let mut recorded = Recorded::default();
        for row in index.packs().await? {
            if row.state == PackState::InUse {
                let path = self.shared.pack_path(row.name);
                let disk = Arc::clone(&self.shared.disk);
                // One that cannot be read says nothing.
                if let Ok(pack) = blocking(move || Pack::open_on(disk, &path)).await? {
                    recorded = blocking(move || recorded.with(&pack)).await?;
                }
            }
        }
        let mut unrecorded = Vec::new();
        let mut after = None;
        loop {
            let blobs = index.blobs(after, BLOBS).await?;
            let Some(last) = blobs.last() else {
                return Ok(unrecorded);
            };
            after = Some(last.id);
            for blob in blobs {
                let mut known = recorded.blobs.contains(&blob.id);
                let mut from = 0;
                while known && let Some((first_byte, part)) = index.part_from(blob.id, from).await?
                {
                    from = first_byte + 1;
                    known = recorded.parts.contains(&part.checksum);
                }
                if !known {
                    unrecorded.push(blob.id);
                }
            }
        }
    }
}

impl Recorded {
    fn with(mut self, pack: &Pack) -> Recorded {
        let mut decoder = Decoder::default();
        for entry in &pack.entries {
            match entry.kind {
                Kind::Manifest => {
                    self.parts.insert(entry.id);
                }
                Kind::Blob => {
                    let record = pack.read_with(entry, &mut decoder).ok();
                    let record = record.and_then(|json| serde_json::from_slice(&json).ok());
                    self.blobs
                        .extend(record.map(|record: BlobRecord| record.info.id));
                }
                Kind::Chunk | Kind::Other(_) => {}
            }
        }
        self
    }
}

/// Describes these blobs in a new pack, as many as it takes; says how many. Blocks.
fn write(shared: &Shared, blobs: &[BlobId]) -> Result<(Option<ClosedPack>, usize), Error> {
    let handle = Handle::current();
    let disk = Arc::clone(&shared.disk);
    let mut writer = PackWriter::create(disk, shared.packs_directory())?;
    let mut written = 0;
    for blob in blobs {
        describe(&handle, &shared.index, *blob, &mut writer)?;
        written += 1;
        if writer.record_bytes() >= shared.options.pack_bytes {
            break;
        }
    }
    if writer.records() == 0 {
        // They were removed meanwhile.
        return Ok((None, written));
    }
    let mut closed = writer.close()?;
    closed.seal()?;
    Ok((Some(closed), written))
}
