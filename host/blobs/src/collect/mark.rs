//! The first pass: which chunks the complete blobs name.

use super::Collector;
use super::live::LiveSet;
use crate::{BlobInfo, Error};

/// How many blobs one query lists.
const BLOBS: u32 = 256;

/// What a part of a manifest costs for each of its chunks.
const NAME_BYTES: u64 = 36;

impl Collector {
    /// Marks what complete blobs name. What running uploads lean on is not marked: they hold its packs.
    ///
    /// A manifest that cannot be read whole ends the collection, because nobody knows what it names.
    pub(super) async fn mark(&mut self) -> Result<LiveSet, Error> {
        let most = self.shared.index.most_live_chunks().await?;
        let mut live = LiveSet::sized(most);
        let mut after = None;
        loop {
            let blobs = self.shared.index.blobs(after, BLOBS).await?;
            for blob in &blobs {
                self.mark_blob(blob, &mut live).await?;
            }
            if blobs.len() < BLOBS as usize {
                return Ok(live);
            }
            after = blobs.last().map(|blob| blob.id);
        }
    }

    async fn mark_blob(&mut self, blob: &BlobInfo, live: &mut LiveSet) -> Result<(), Error> {
        let index = &self.shared.index;
        let mut position = 0;
        let mut chunks = 0;
        while position < blob.bytes {
            let part = index.part(blob.id, position).await?;
            let next =
                part.filter(|part| part.first_byte == position && part.first_chunk == chunks);
            let Some(part) = next else {
                return self.unless_removed(blob, position).await;
            };
            for chunk in &part.chunks {
                live.insert(&chunk.id);
            }
            position += part.bytes();
            chunks += part.chunks.len() as u64;
            self.pace.spend(part.chunks.len() as u64 * NAME_BYTES).await;
        }
        if position != blob.bytes || chunks != blob.chunks {
            return self.unless_removed(blob, position).await;
        }
        self.report.blobs += 1;
        Ok(())
    }

    /// A blob whose manifest is not whole is none, or a reason to stop.
    async fn unless_removed(&self, blob: &BlobInfo, position: u64) -> Result<(), Error> {
        match self.shared.missing_part(blob.id, position).await {
            Error::NotFound { .. } => Ok(()),
            error => Err(error),
        }
    }
}
