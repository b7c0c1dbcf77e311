//! Chunks that are not where the index says.

use std::collections::HashSet;
use std::sync::Arc;

use super::Repair;
use crate::index::KnownPack;
use crate::pack::{Decoder, Kind, Pack};
use crate::{ChunkId, Error};

/// How many chunks are looked for in one pass over the packs. They take 5 MB.
const SOUGHT: usize = 100_000;

/// How many chunks one commit changes.
const BATCH: usize = 1000;

/// How many blobs are taken at a time.
const BLOBS: u32 = 256;

impl Repair<'_> {
    /// Finds these chunks again, and those that the index places in packs that are gone.
    pub(super) fn find_chunks(
        &mut self,
        lost: HashSet<ChunkId>,
        gone: &[KnownPack],
    ) -> Result<(), Error> {
        let mut sought = HashSet::new();
        for id in lost {
            sought.insert(id);
            if sought.len() == SOUGHT {
                self.seek(std::mem::take(&mut sought))?;
            }
        }
        for row in gone {
            let mut after = None;
            loop {
                let page = self.wait(self.index.chunks_of(row.id, after))?;
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                sought.extend(page.into_iter().map(|(id, _)| id));
                if sought.len() >= SOUGHT {
                    self.seek(std::mem::take(&mut sought))?;
                }
            }
        }
        self.seek(sought)
    }

    fn seek(&mut self, mut sought: HashSet<ChunkId>) -> Result<(), Error> {
        if sought.is_empty() {
            return Ok(());
        }
        self.seek_in_packs(&mut sought)?;
        let wanted = self.wanted(&sought)?;
        let (wanted, unwanted): (Vec<ChunkId>, Vec<ChunkId>) =
            sought.into_iter().partition(|id| wanted.contains(id));
        for batch in wanted.chunks(BATCH) {
            self.wait(self.index.quarantine_chunks(batch))?;
        }
        for batch in unwanted.chunks(BATCH) {
            self.wait(self.index.drop_chunks(batch))?;
        }
        if !unwanted.is_empty() {
            let detail = "they are nowhere, and no blob has them";
            self.mended("dropped", format!("{} chunks", unwanted.len()), detail)?;
        }
        if !wanted.is_empty() {
            // Not a mend: nothing is better than before, but the next upload that has them makes it so.
            super::tell(
                self.job,
                "quarantined",
                format!("{} chunks", wanted.len()),
                "they are nowhere and blobs have them: the next upload that carries them heals those".to_owned(),
            )?;
        }
        Ok(())
    }

    /// Places those that some pack has, and takes them out of what is sought.
    fn seek_in_packs(&mut self, sought: &mut HashSet<ChunkId>) -> Result<(), Error> {
        let files = self.job.list()?.packs;
        let mut decoder = Decoder::default();
        for row in self.wait(self.index.packs())? {
            let Some(path) = files.get(&row.name) else {
                continue;
            };
            // One that cannot be opened was told of by the check, or came to be so since.
            let Ok(pack) = Pack::open_on(Arc::clone(&self.job.disk), path) else {
                continue;
            };
            let mut found = Vec::new();
            for entry in &pack.entries {
                if entry.kind == Kind::Chunk
                    && sought.contains(&entry.id)
                    && pack.read_with(entry, &mut decoder).is_ok()
                {
                    sought.remove(&entry.id);
                    found.push(*entry);
                }
            }
            for batch in found.chunks(BATCH) {
                self.wait(self.index.relocate(row.id, batch))?;
            }
            if !found.is_empty() {
                let detail = format!("they are in {}", row.name);
                self.mended("relocated", format!("{} chunks", found.len()), detail)?;
            }
            if sought.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Those of these chunks that some manifest names, also of an upload that is not complete.
    fn wanted(&self, ids: &HashSet<ChunkId>) -> Result<HashSet<ChunkId>, Error> {
        let mut wanted = HashSet::new();
        let mut after = None;
        loop {
            let blobs = self.wait(self.index.manifest_owners(after, BLOBS))?;
            let Some(last) = blobs.last() else {
                return Ok(wanted);
            };
            after = Some(*last);
            for blob in blobs {
                let mut from = 0;
                while let Some((first_byte, part)) = self.wait(self.index.part_from(blob, from))? {
                    from = first_byte + 1;
                    match part.part {
                        Ok(part) => wanted.extend(
                            part.chunks
                                .iter()
                                .map(|chunk| chunk.id)
                                .filter(|id| ids.contains(id)),
                        ),
                        // It cannot be known what it names, so nothing can be said to be unwanted.
                        Err(_) => return Ok(ids.clone()),
                    }
                }
            }
        }
    }

    /// Forgets packs that are gone and of which nothing is wanted any more.
    pub(super) fn forget_packs(&mut self, gone: &[KnownPack]) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        let left = self.wait(self.index.chunks_in_packs())?;
        for row in gone {
            if !left.contains_key(&row.id) {
                self.wait(self.index.drop_pack(row.id))?;
                let detail = "nothing is in it any more";
                self.mended("dropped", row.name.to_string(), detail)?;
            }
        }
        Ok(())
    }
}
