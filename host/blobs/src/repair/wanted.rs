//! Which chunks are missed.

use std::collections::{HashMap, HashSet};

use crate::check::Job;
use crate::index::Index;
use crate::manifest::{ChunkRef, Part};
use crate::{ChunkId, Error};

/// How many blobs are taken at a time.
const BLOBS: u32 = 256;

/// How many chunks are looked up at a time.
const CHUNKS: usize = 1024;

/// No more are sought: they take 48 MB. Blobs that need others are incomplete, and a check names them.
const MOST: usize = 1_000_000;

/// What is looked for in damaged packs.
pub(crate) struct Wanted<'a> {
    job: &'a Job,
    index: &'a Index,
    /// What is in this pack, by the index, is looked for too: it is the damaged one.
    pack: Option<i64>,
    /// These are looked for wherever they are.
    doubtful: &'a HashSet<ChunkId>,
    found: HashMap<ChunkId, u32>,
}

impl<'a> Wanted<'a> {
    /// The chunks that a manifest names, one of the index or of these parts, and that the index has nowhere but in
    /// `pack`; with their lengths. Of those in `doubtful` all that are named.
    pub(crate) fn list(
        job: &'a Job,
        index: &'a Index,
        parts: &[Part],
        doubtful: &'a HashSet<ChunkId>,
        pack: Option<i64>,
    ) -> Result<HashMap<ChunkId, u32>, Error> {
        let mut wanted = Wanted {
            job,
            index,
            pack,
            doubtful,
            found: HashMap::new(),
        };
        for part in parts {
            wanted.look_at(&part.chunks)?;
        }
        let mut after = None;
        loop {
            let blobs = job.handle.block_on(index.manifest_owners(after, BLOBS))?;
            let Some(last) = blobs.last() else {
                return Ok(wanted.found);
            };
            after = Some(*last);
            for blob in blobs {
                let mut from = 0;
                while let Some((first_byte, stored)) =
                    job.handle.block_on(index.part_from(blob, from))?
                {
                    from = first_byte + 1;
                    if let Ok(part) = stored.part {
                        wanted.look_at(&part.chunks)?;
                    }
                }
            }
        }
    }

    fn look_at(&mut self, chunks: &[ChunkRef]) -> Result<(), Error> {
        for chunks in chunks.chunks(CHUNKS) {
            if self.found.len() > MOST {
                tracing::warn!("more than {MOST} chunks are missed: no more are sought");
                return Ok(());
            }
            let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
            let stored = self.job.handle.block_on(self.index.lookup(&ids))?;
            let missed = |id: &ChunkId| {
                let elsewhere =
                    |found: &crate::index::Stored| found.usable && Some(found.pack) != self.pack;
                !stored.get(id).is_some_and(elsewhere) || self.doubtful.contains(id)
            };
            let missed = chunks.iter().filter(|chunk| missed(&chunk.id));
            self.found
                .extend(missed.map(|chunk| (chunk.id, chunk.bytes)));
        }
        Ok(())
    }
}
