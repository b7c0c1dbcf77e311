//! Uploads that go on, and of which something is lost.

use super::Repair;
use crate::check::Job;
use crate::index::Index;
use crate::manifest::ChunkRef;
use crate::upload::UploadRow;
use crate::{BlobId, ChunkId, Error};

/// How many chunks are looked up at a time.
const CHUNKS: usize = 1024;

impl Repair<'_> {
    /// Forgets uploads of which something is still missing: no offset of theirs can be kept, and a blob that is put
    /// together from the rest could not be read.
    pub(super) fn forget_uploads(&mut self, uploads: &[BlobId]) -> Result<(), Error> {
        for id in uploads {
            let Some(row) = self.wait(self.index.upload_row(*id))? else {
                continue;
            };
            if whole(self.job, self.index, self.index, &row)? {
                // What it needs was found again.
                continue;
            }
            self.wait(self.index.forget_upload_row(*id))?;
            if !row.upload.complete {
                self.wait(self.index.forget_upload(*id))?;
            }
            let detail = "a part of what it had is lost, so it has to begin anew";
            self.mended("dropped", format!("upload {id}"), detail)?;
        }
        Ok(())
    }
}

/// Whether everything that an upload has told of is there: the parts of its manifest in the index `listed`, and
/// their chunks in the index `stored`.
pub(crate) fn whole(
    job: &Job,
    listed: &Index,
    stored: &Index,
    row: &UploadRow,
) -> Result<bool, Error> {
    let id = row.upload.id;
    if row.upload.complete {
        return Ok(job.handle.block_on(stored.blob(id))?.is_some());
    }
    let (mut bytes, mut chunks, mut from) = (0, 0, 0);
    while let Some((first_byte, part)) = job.handle.block_on(listed.part_from(id, from))? {
        from = first_byte + 1;
        let Ok(part) = part.part else {
            return Ok(false);
        };
        if part.blob != id || (part.first_byte, part.first_chunk) != (bytes, chunks) {
            return Ok(false);
        }
        for chunks in part.chunks.chunks(CHUNKS) {
            if !usable(job, stored, chunks)? {
                return Ok(false);
            }
        }
        bytes += part.bytes();
        chunks += part.chunks.len() as u64;
    }
    Ok((bytes, chunks) == (row.bytes, row.chunks))
}

fn usable(job: &Job, index: &Index, chunks: &[ChunkRef]) -> Result<bool, Error> {
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    let found = job.handle.block_on(index.lookup(&ids))?;
    Ok(chunks.iter().all(|chunk| {
        let stored = found.get(&chunk.id);
        stored.is_some_and(|stored| stored.usable && stored.extent.bytes == chunk.bytes)
    }))
}
