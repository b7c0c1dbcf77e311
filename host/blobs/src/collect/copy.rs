//! Copying what is alive out of packs that are mostly dead.
//!
//! The copies are verified as they are read, compressed better, and sealed in a new pack before one commit of
//! the index says that the chunks are there from now on. That commit takes the packs they were read from out of
//! use as well, unless somebody leans on them: then they stay, with what is dead in them, for the next
//! collection. So a pack that uploads lean on all the time is emptied all the same, because they lean on the
//! new one afterwards.

use std::path::PathBuf;
use std::sync::Arc;

use super::inspect::Inspected;
use super::live::LiveSet;
use super::survey::Tally;
use super::sweep::Dead;
use super::{Collector, blocking};
use crate::disk::Disk;
use crate::index::{MoveCommit, Moved, PackState};
use crate::pack::{ClosedPack, Decoder, Encoder, Entry, Kind, Pack, PackWriter, RecordError};
use crate::reader::Suspect;
use crate::store::Shared;
use crate::{ChunkId, Error};

/// How many bytes are copied before the pace is kept.
const BATCH_BYTES: u64 = 1024 * 1024;

/// A new pack is closed at this many records, as at ingest.
const PACK_RECORDS: usize = 16 * 1024;

/// The new pack that is being filled.
struct Copy {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    encoder: Encoder,
    decoder: Decoder,
    writer: Option<PackWriter>,
    moved: Vec<Moved>,
}

/// What became of a batch.
struct Copied {
    /// Read and written together.
    bytes: u64,
    /// Chunks that are not what was written.
    corrupt: Vec<ChunkId>,
}

impl Collector {
    /// Copies what is alive in these packs, and takes them away.
    pub(super) async fn copy(&mut self, sparse: Vec<Tally>, live: &LiveSet) -> Result<(), Error> {
        let mut copy = Copy::new(&self.shared, self.options.compression_level)?;
        let mut emptied = Vec::new();
        for tally in sparse {
            let row = tally.pack;
            let Some(inspected) = self.inspect(&row, live).await? else {
                continue;
            };
            if row.state == PackState::InUse && !self.is_sparse(inspected.live_bytes(), row.bytes) {
                continue;
            }
            if self.options.dry_run {
                self.report.packs_copied += 1;
                self.report.bytes_written += inspected.live_bytes();
                self.condemn(vec![Dead::new(row, &inspected)]).await?;
                continue;
            }
            let whole;
            (copy, whole) = self.copy_pack(copy, row.id, &inspected).await?;
            if whole {
                emptied.push(Dead::new(row, &inspected));
            }
            if copy.is_full(self.shared.options.pack_bytes) {
                copy = self.seal(copy, std::mem::take(&mut emptied)).await?;
            }
        }
        self.seal(copy, emptied).await.map(drop)
    }

    /// Copies what is alive in one pack, and says whether that was all of it.
    async fn copy_pack(
        &mut self,
        mut copy: Copy,
        row: i64,
        inspected: &Inspected,
    ) -> Result<(Copy, bool), Error> {
        let mut whole = true;
        let mut rest = &inspected.live[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take_while(|entry| {
                    let before = bytes;
                    bytes += u64::from(entry.extent.bytes);
                    before < BATCH_BYTES
                })
                .count();
            let (batch, after) = rest.split_at(count);
            rest = after;
            let batch = batch.to_vec();
            let pack = Arc::clone(&inspected.pack);
            let copied;
            (copy, copied) = blocking(move || {
                let copied = copy.append(&pack, row, &batch);
                copied.map(|copied| (copy, copied))
            })
            .await??;
            for id in copied.corrupt {
                whole = false;
                let suspect = Suspect::Chunk { id, pack: row };
                tracing::error!(chunk = %id, "quarantined, until the next upload that has it");
                self.shared.index.quarantine(suspect).await?;
            }
            self.pace.spend(copied.bytes).await;
        }
        Ok((copy, whole))
    }

    /// Makes the new pack durable, then known, and takes away what it replaces.
    async fn seal(&mut self, mut copy: Copy, emptied: Vec<Dead>) -> Result<Copy, Error> {
        let Some(writer) = copy.writer.take() else {
            self.condemn(emptied).await?;
            return Ok(copy);
        };
        // Until the index knows it, it looks like a pack that nobody knows.
        let naming = self.shared.naming.read().await;
        let closed = blocking(move || {
            let mut closed = writer.close()?;
            closed.seal()?;
            Ok::<ClosedPack, Error>(closed)
        })
        .await??;
        let commit = MoveCommit {
            round: self.round,
            name: closed.name(),
            length: closed.length(),
            entries: closed.entries.len() as u64,
            moved: std::mem::take(&mut copy.moved),
            emptied: emptied.iter().map(|dead| dead.pack.id).collect(),
        };
        let condemned = self.shared.index.move_chunks(&commit).await?;
        drop(naming);
        self.report.packs_copied += condemned.len() as u64;
        self.report.chunks_copied += commit.moved.len() as u64;
        self.report.bytes_written += commit.length;
        let emptied = emptied.into_iter();
        self.take_condemned_away(emptied.collect(), &condemned)
            .await?;
        Ok(copy)
    }
}

impl Copy {
    fn new(shared: &Shared, level: i32) -> Result<Copy, Error> {
        let encoder = Encoder::new(level).map_err(|source| {
            Error::io(
                "setting up compression for",
                shared.packs_directory(),
                source,
            )
        })?;
        Ok(Copy {
            disk: Arc::clone(&shared.disk),
            directory: shared.packs_directory().to_path_buf(),
            encoder,
            decoder: Decoder::default(),
            writer: None,
            moved: Vec::new(),
        })
    }

    fn is_full(&self, pack_bytes: u64) -> bool {
        self.writer.as_ref().is_some_and(|writer| {
            writer.record_bytes() >= pack_bytes || writer.records() >= PACK_RECORDS
        })
    }

    /// Copies these entries of one pack. Blocks.
    fn append(&mut self, pack: &Pack, row: i64, entries: &[Entry]) -> Result<Copied, Error> {
        let mut copied = Copied {
            bytes: 0,
            corrupt: Vec::new(),
        };
        for entry in entries {
            let (before, bytes) = match pack.read_stored(entry, &mut self.decoder) {
                Ok(read) => read,
                Err(RecordError::Wrong(_)) if entry.kind == Kind::Chunk => {
                    copied.corrupt.push(entry.id);
                    continue;
                }
                Err(error) => return Err(pack.failed(entry, error)),
            };
            let mut stored = (entry.extent.encoding, &before[..]);
            if entry.kind == Kind::Chunk {
                let encoded = self
                    .encoder
                    .encode(&bytes)
                    .map_err(|source| Error::io("compressing for", &self.directory, source))?;
                // A higher level is not always a better one.
                if encoded.1.len() < stored.1.len() {
                    stored = encoded;
                }
            }
            let (encoding, stored) = stored;
            let writer = match &mut self.writer {
                Some(writer) => writer,
                none => none.insert(PackWriter::create(Arc::clone(&self.disk), &self.directory)?),
            };
            let extent =
                writer.append(entry.kind, entry.id, entry.extent.bytes, encoding, stored)?;
            copied.bytes += u64::from(entry.extent.stored) + u64::from(extent.stored);
            if entry.kind == Kind::Chunk {
                self.moved.push(Moved {
                    id: entry.id,
                    source: row,
                    extent,
                });
            }
        }
        Ok(copied)
    }
}
