//! The second pass: how much of each pack is alive.

use super::Collector;
use super::live::LiveSet;
use crate::index::{PackRow, PackState};
use crate::{ChunkId, Error};

/// How many rows one query reads: a few hundred kilobytes.
const ROWS: u32 = 4096;

/// About what a chunk's row takes in the index.
const ROW_BYTES: u64 = 80;

/// A pack, and what of it is alive by the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    pub(super) pack: PackRow,
    pub(super) live_chunks: u64,
    pub(super) live_bytes: u64,
}

impl Collector {
    /// Reads every row of the index's chunks once. Rows of dead chunks in packs that nothing may lean on any
    /// more go at once: the files of such packs may be gone, and with them the list of what they held.
    pub(super) async fn survey(&mut self, live: &LiveSet) -> Result<Vec<Tally>, Error> {
        let shared = self.shared.clone();
        let mut scan = shared.index.scan().await?;
        let mut tallies: Vec<Tally> = Vec::new();
        loop {
            let after = tallies.last().map_or(0, |tally| tally.pack.id);
            let packs = scan.packs(after, ROWS).await?;
            if packs.is_empty() {
                break;
            }
            self.report.packs += packs.len() as u64;
            for pack in packs {
                if pack.state != PackState::Lost {
                    self.report.bytes += pack.bytes;
                }
                tallies.push(Tally {
                    pack,
                    live_chunks: 0,
                    live_bytes: 0,
                });
            }
        }
        let mut doomed: Vec<(i64, ChunkId)> = Vec::new();
        let mut after = None;
        loop {
            let chunks = scan.chunks(after, ROWS).await?;
            for chunk in &chunks {
                // A pack that came after the list was read is nothing to this collection.
                let Ok(at) = tallies.binary_search_by_key(&chunk.pack, |tally| tally.pack.id)
                else {
                    continue;
                };
                let tally = &mut tallies[at];
                if live.contains(&chunk.id) {
                    tally.live_chunks += 1;
                    tally.live_bytes += u64::from(chunk.stored);
                } else if tally.pack.state != PackState::InUse && tally.pack.round < self.round {
                    doomed.push((chunk.pack, chunk.id));
                }
            }
            self.forget(&mut doomed).await?;
            self.pace.spend(chunks.len() as u64 * ROW_BYTES).await;
            if chunks.len() < ROWS as usize {
                break;
            }
            after = chunks.last().map(|chunk| chunk.id);
        }
        scan.close().await?;
        for tally in &tallies {
            self.report.live_chunks += tally.live_chunks;
            self.report.live_bytes += tally.live_bytes;
        }
        Ok(tallies)
    }

    async fn forget(&self, doomed: &mut Vec<(i64, ChunkId)>) -> Result<(), Error> {
        if !self.options.dry_run {
            doomed.sort_unstable();
            for chunks in doomed.chunk_by(|(one, _), (other, _)| one == other) {
                let ids: Vec<ChunkId> = chunks.iter().map(|(_, id)| *id).collect();
                self.shared.index.forget_chunks(chunks[0].0, &ids).await?;
            }
        }
        doomed.clear();
        Ok(())
    }
}
