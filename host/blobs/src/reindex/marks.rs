//! Chunks that are known to be wrong.
//!
//! A chunk that was found wrong is quarantined by the index, so that the next upload that has it brings it again instead of
//! leaning on it. An index that is made anew must not forget that: what an upload leans on is not read again before the
//! upload is acknowledged. So what the old index has quarantined is read once more; and what the old index cannot speak
//! for, because it is lost or does not know the pack, is read whole.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::check::Job;
use crate::index::Index;
use crate::pack::{Decoder, Entry, Kind, Pack, pack_file_name};
use crate::reader::Suspect;
use crate::{ChunkId, Error};

/// How many chunks are looked up, or marked, at a time.
const BATCH: usize = 1000;

/// What an old index says.
#[derive(Default)]
pub(super) struct Marks {
    quarantined: Vec<ChunkId>,
    packs: HashSet<Uuid>,
}

impl Marks {
    /// What the old index says, if it can be read.
    pub(super) fn of_the_old_index(job: &Job) -> Marks {
        let path = job.index_path();
        if !path.exists() {
            return Marks::default();
        }
        let read = job.handle.block_on(async {
            let old = Index::inspect(Arc::clone(&job.disk), &path).await?;
            let marks = read(&old).await;
            old.close().await;
            marks
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, "the old index cannot say what is wrong: every chunk is read");
            Marks::default()
        })
    }

    /// Whether it has watched over this pack.
    pub(super) fn speaks_for(&self, pack: Uuid) -> bool {
        self.packs.contains(&pack)
    }

    /// Quarantines in the new index what was quarantined in the old one, and is still wrong.
    pub(super) fn carry_over(&self, job: &Job, index: &Index) -> Result<(), Error> {
        let mut decoder = Decoder::default();
        for ids in self.quarantined.chunks(BATCH) {
            let found = job.handle.block_on(index.lookup(ids))?;
            for (id, stored) in found {
                let entry = Entry {
                    kind: Kind::Chunk,
                    extent: stored.extent,
                    id,
                };
                let path = job.packs.join(pack_file_name(stored.name));
                let is_good = Pack::open_on(Arc::clone(&job.disk), &path)
                    .is_ok_and(|pack| pack.read_with(&entry, &mut decoder).is_ok());
                if !is_good {
                    let pack = stored.pack;
                    job.handle
                        .block_on(index.quarantine(Suspect::Chunk { id, pack }))?;
                }
            }
        }
        Ok(())
    }
}

async fn read(old: &Index) -> Result<Marks, Error> {
    let mut marks = Marks {
        quarantined: Vec::new(),
        packs: old.packs().await?.iter().map(|row| row.name).collect(),
    };
    loop {
        let after = marks.quarantined.last().copied();
        let page = old.quarantined_chunks(after).await?;
        if page.is_empty() {
            return Ok(marks);
        }
        marks.quarantined.extend(page.into_iter().map(|(id, _)| id));
    }
}

/// Reads every chunk of a pack that the index knows, and quarantines those that are wrong and that it places there.
pub(super) fn verify(job: &Job, index: &Index, pack: &Pack) -> Result<(), Error> {
    let mut decoder = Decoder::default();
    let chunks = pack
        .entries
        .iter()
        .filter(|entry| entry.kind == Kind::Chunk);
    let wrong: Vec<ChunkId> = chunks
        .filter(|entry| pack.read_with(entry, &mut decoder).is_err())
        .map(|entry| entry.id)
        .collect();
    for ids in wrong.chunks(BATCH) {
        job.handle
            .block_on(index.quarantine_chunks_in(pack.name, ids))?;
    }
    Ok(())
}
