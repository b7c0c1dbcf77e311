//! What of one pack is alive, from its own table: chunks by the index, and what it records of blobs.

use std::sync::Arc;

use super::live::LiveSet;
use super::{Collector, blocking};
use crate::index::PackRow;
use crate::manifest::{BlobRecord, Part};
use crate::pack::{self, Entry, Kind, Pack};
use crate::reader::Suspect;
use crate::{BlobId, ChunkId, Digest, Error};

/// How many chunks are looked up at once, before others get their turn at the index.
const LOOKUP: usize = 512;

/// A pack that was read.
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) pack: Arc<Pack>,
    /// What of it has to be kept, in the order of the file.
    pub(super) live: Vec<Entry>,
}

impl Inspected {
    /// How many bytes of a pack its living entries would take.
    pub(super) fn live_bytes(&self) -> u64 {
        let each = self
            .live
            .iter()
            .map(|entry| pack::ENTRY_BYTES as u64 + u64::from(entry.extent.stored));
        each.sum()
    }

    /// The chunks that its table lists.
    pub(super) fn chunks(&self) -> Vec<ChunkId> {
        let entries = self.pack.entries.iter();
        entries
            .filter(|entry| entry.kind == Kind::Chunk)
            .map(|entry| entry.id)
            .collect()
    }
}

impl Collector {
    /// Reads a pack's table, and of its records those that describe blobs. `None` if the pack has to stay as it
    /// is, because it cannot be read or holds what a later version wrote.
    pub(super) async fn inspect(
        &mut self,
        row: &PackRow,
        live: &LiveSet,
    ) -> Result<Option<Inspected>, Error> {
        let path = self.shared.pack_path(row.name);
        let opened = {
            let disk = Arc::clone(&self.shared.disk);
            blocking(move || {
                if path.exists() {
                    Pack::open_on(disk, &path).map(Some)
                } else {
                    Ok(None)
                }
            })
            .await?
        };
        let pack = match opened {
            Ok(Some(pack)) if pack.name == row.name => Arc::new(pack),
            Ok(None) => {
                self.unreadable(row, "its file is gone");
                if !self.options.dry_run {
                    // What it held is missing; the next collection finds it among the lost ones.
                    self.shared
                        .index
                        .quarantine(Suspect::Pack { pack: row.id })
                        .await?;
                }
                return Ok(None);
            }
            Ok(Some(_)) => {
                self.unreadable(row, "it is another pack by its header");
                return Ok(None);
            }
            Err(error @ Error::Corrupt { .. }) => {
                self.unreadable(row, &error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let tables = pack.entries.len() as u64 * pack::ENTRY_BYTES as u64;
        self.pace.spend(tables).await;
        if pack
            .entries
            .iter()
            .any(|entry| matches!(entry.kind, Kind::Other(_)))
        {
            self.unreadable(row, "it holds records of a kind that is not known here");
            return Ok(None);
        }
        let mut kept: Vec<Entry> = self.live_chunks(row, &pack, live).await?;
        let Some(described) = self.live_descriptions(row, &pack).await? else {
            return Ok(None);
        };
        kept.extend(described);
        kept.sort_unstable_by_key(|entry| entry.extent.offset);
        Ok(Some(Inspected { pack, live: kept }))
    }

    /// The chunks that are alive and that the index finds in this very place.
    async fn live_chunks(
        &self,
        row: &PackRow,
        pack: &Pack,
        live: &LiveSet,
    ) -> Result<Vec<Entry>, Error> {
        let named: Vec<&Entry> = pack
            .entries
            .iter()
            .filter(|entry| entry.kind == Kind::Chunk && live.contains(&entry.id))
            .collect();
        let mut kept = Vec::new();
        for entries in named.chunks(LOOKUP) {
            let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
            let found = self.shared.index.lookup(&ids).await?;
            let here = |entry: &Entry| {
                found.get(&entry.id).is_some_and(|stored| {
                    stored.pack == row.id && stored.extent.offset == entry.extent.offset
                })
            };
            kept.extend(entries.iter().copied().filter(|entry| here(entry)).copied());
        }
        Ok(kept)
    }

    /// The records that describe blobs which are there: without them the index could not be built again.
    async fn live_descriptions(
        &mut self,
        row: &PackRow,
        pack: &Arc<Pack>,
    ) -> Result<Option<Vec<Entry>>, Error> {
        let entries: Vec<Entry> = pack
            .entries
            .iter()
            .filter(|entry| entry.kind != Kind::Chunk)
            .copied()
            .collect();
        let bytes = entries
            .iter()
            .map(|entry| u64::from(entry.extent.stored))
            .sum();
        self.pace.spend(bytes).await;
        let described = {
            let pack = Arc::clone(pack);
            blocking(move || {
                let described = entries
                    .into_iter()
                    .map(|entry| Ok((entry, blob_of(&pack, &entry)?)));
                described.collect::<Result<Vec<_>, Error>>()
            })
            .await?
        };
        let described = match described {
            Ok(described) => described,
            Err(error @ Error::Corrupt { .. }) => {
                self.unreadable(row, &error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut kept = Vec::new();
        let mut last: Option<(BlobId, bool)> = None;
        for (entry, blob) in described {
            let there = match last {
                Some((known, there)) if known == blob => there,
                _ => self.shared.index.blob(blob).await?.is_some(),
            };
            last = Some((blob, there));
            if there {
                kept.push(entry);
            }
        }
        Ok(Some(kept))
    }

    fn unreadable(&mut self, row: &PackRow, why: &str) {
        let pack = pack::pack_file_name(row.name);
        tracing::warn!(pack, why, "a pack is left as it is");
        self.report.packs_unreadable += 1;
    }
}

/// Which blob a record describes.
fn blob_of(pack: &Pack, entry: &Entry) -> Result<BlobId, Error> {
    let bytes = pack.read(entry)?;
    let id = entry.id;
    let described = match entry.kind {
        Kind::Manifest => Part::decode(&bytes, Digest::blake3(&bytes).as_bytes())
            .map(|part| part.blob)
            .map_err(str::to_owned),
        _ => serde_json::from_slice::<BlobRecord>(&bytes)
            .map(|record| record.info.id)
            .map_err(|error| error.to_string()),
    };
    described.map_err(|detail| Error::Corrupt {
        what: format!("record {id}"),
        place: pack::pack_file_name(pack.name),
        detail,
    })
}
