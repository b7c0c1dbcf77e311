//! Cutting a directory that was sent before: only what changed since is read.
//!
//! The package's bytes are known to be the same wherever entries are that have the stamps which they had. Where a chunk
//! begins depends on the bytes from the one before it on, so a chunk of the earlier package whose bytes are all the same
//! is a chunk of this one, if one begins there. Between such runs the bytes are read and cut, until a chunk ends where
//! one of the earlier package does.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_blobs::{ChunkRef, Chunker, ChunkerParams, Digest};

use super::memory::Memory;
use super::recipe::{Copied, MIN_COPIED};
use crate::pack::{self, Plan, PlanReader, Stamp, TAR_END_BYTES};

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// A directory, and the package that it was when it was sent before.
pub(super) struct Known {
    plan: Arc<Plan>,
    /// BLAKE3 of that package.
    pub(super) package: Digest,
    /// Its chunks.
    chunks: Vec<ChunkRef>,
    /// Where each begins, and where the last one ends.
    starts: Vec<u64>,
    /// What both have in common, in the order of both.
    common: Vec<Common>,
}

/// Bytes that both packages have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Common {
    /// Where they are in the one to be sent, and in the earlier one.
    new: u64,
    old: u64,
    bytes: u64,
}

/// What a package consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A chunk that was read, and which of its bytes the earlier package has as well.
    Chunk(ChunkRef, Bytes, Vec<Copied>),
    /// Chunks of the earlier package that follow one another.
    Run {
        /// How many come before the first.
        first: u64,
        chunks: Vec<ChunkRef>,
    },
}

impl Known {
    /// Brings together what is remembered of a directory, what the server says of the package that it was, and what it is
    /// like now. Nothing if these do not fit.
    pub(super) fn new(plan: Arc<Plan>, memory: &Memory, chunks: Vec<ChunkRef>) -> Option<Known> {
        let mut starts = Vec::with_capacity(chunks.len() + 1);
        let mut end = 0_u64;
        for chunk in &chunks {
            starts.push(end);
            end += u64::from(chunk.bytes);
        }
        starts.push(end);
        let remembered: u64 = memory.entries.iter().map(|(_, bytes)| bytes).sum();
        if remembered.checked_add(TAR_END_BYTES)? != end {
            return None;
        }
        let common = common(&memory.entries, plan.stamps());
        Some(Known {
            plan,
            package: memory.package.into(),
            chunks,
            starts,
            common,
        })
    }

    /// How many bytes the package has.
    pub(super) fn bytes(&self) -> u64 {
        self.plan.tar_bytes
    }

    /// Cuts the package, and gives what it consists of to `take`, until that says that it is enough, or the first byte
    /// that would have to be cut by a chunker that is not known here. Blocks.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with a file that has to be read.
    pub(super) fn cut(
        &self,
        params: &ChunkerParams,
        mut take: impl FnMut(Item) -> bool,
    ) -> Result<(), pack::Error> {
        let total = self.plan.tar_bytes;
        let mut reader = PlanReader::new(&self.plan);
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let (mut at, mut common) = (0, &self.common[..]);
        while at < total {
            if let Some((run, bytes)) = self.run(&mut common, at) {
                at += bytes;
                if !take(run) {
                    return Ok(());
                }
                continue;
            }
            // What is not the same is read until a chunk ends where a run begins.
            let Some(mut chunker) = Chunker::new(params) else {
                return Ok(());
            };
            let mut read = at;
            loop {
                let data = loop {
                    if let Some(data) = chunker.next(read == total) {
                        break data;
                    }
                    buffer.clear();
                    reader.read_at(read, READ_BYTES, &mut buffer)?;
                    read += buffer.len() as u64;
                    chunker.push(&buffer);
                };
                let copied = self.copied(at, at + data.len() as u64);
                at += data.len() as u64;
                let chunk = ChunkRef {
                    id: Digest::blake3(&data),
                    bytes: u32::try_from(data.len()).expect("a chunk is at most a few MiB"),
                };
                if !take(Item::Chunk(chunk, data, copied)) {
                    return Ok(());
                }
                if at == total || self.run_at(&mut common, at).is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// What the earlier package has of these bytes, where it is enough to be worth it.
    fn copied(&self, start: u64, end: u64) -> Vec<Copied> {
        let first = self
            .common
            .partition_point(|common| common.new + common.bytes <= start);
        self.common[first..]
            .iter()
            .take_while(|common| common.new < end)
            .filter_map(|common| {
                let from = common.new.max(start);
                let bytes = end.min(common.new + common.bytes) - from;
                (bytes >= MIN_COPIED).then(|| Copied {
                    at: usize::try_from(from - start).expect("within a chunk"),
                    place: common.old + (from - common.new),
                    bytes: usize::try_from(bytes).expect("at most a chunk"),
                })
            })
            .collect()
    }

    /// The chunks of the earlier package that are next in this one, if one begins here, and how many bytes they have.
    fn run(&self, common: &mut &[Common], at: u64) -> Option<(Item, u64)> {
        let (first, end) = self.run_at(common, at)?;
        let run = Item::Run {
            first: first as u64,
            chunks: self.chunks[first..end].to_vec(),
        };
        Some((run, self.starts[end] - self.starts[first]))
    }

    /// The first of these chunks, and the one after the last. What ends before `at` is not looked at again.
    fn run_at(&self, common: &mut &[Common], at: u64) -> Option<(usize, usize)> {
        while let [first, rest @ ..] = *common
            && first.new + first.bytes <= at
        {
            *common = rest;
        }
        let here = common.first()?;
        let old = here.old + at.checked_sub(here.new)?;
        let first = self.starts.binary_search(&old).ok()?;
        // The last start that is not behind what is common is where the last whole chunk ends.
        let end = self
            .starts
            .partition_point(|start| *start <= here.old + here.bytes)
            - 1;
        (first < end).then_some((first, end))
    }
}

/// What two packages have in common, in order, by the stamps of their entries.
fn common(
    old: &[(Option<Stamp>, u64)],
    new: impl Iterator<Item = (Option<Stamp>, u64)>,
) -> Vec<Common> {
    let mut places = HashMap::with_capacity(old.len());
    let mut old_end = 0;
    for (stamp, bytes) in old {
        if let Some(stamp) = stamp {
            places.insert(*stamp, (old_end, *bytes));
        }
        old_end += bytes;
    }
    let mut found: Vec<Common> = Vec::new();
    let mut add = |new: u64, old: u64, bytes: u64| match found.last_mut() {
        // What goes back in the earlier package is read: it was moved there, and the list's runs go forward.
        Some(last) if old < last.old + last.bytes => {}
        Some(last) if (last.new + last.bytes, last.old + last.bytes) == (new, old) => {
            last.bytes += bytes;
        }
        _ => found.push(Common { new, old, bytes }),
    };
    let mut new_end = 0;
    for (stamp, bytes) in new {
        if let Some((old, was)) = stamp.and_then(|stamp| places.get(&stamp))
            && *was == bytes
        {
            add(new_end, *old, bytes);
        }
        new_end += bytes;
    }
    add(new_end, old_end, TAR_END_BYTES);
    found
}

#[cfg(test)]
mod tests;
