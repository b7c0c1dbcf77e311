//! The chunks of a complete blob, a part of its manifest at a time.

use std::sync::Arc;

use crate::manifest::ChunkRef;
use crate::store::Shared;
use crate::{BlobInfo, ChunkerParams, Error};

/// The chunk list of a complete blob, in order. However long the blob is, a part of it is held.
#[derive(Debug)]
pub struct ChunkList {
    shared: Arc<Shared>,
    blob: BlobInfo,
    chunker: ChunkerParams,
    /// How many bytes and chunks were handed out.
    bytes: u64,
    chunks: u64,
}

impl ChunkList {
    pub(crate) fn new(shared: Arc<Shared>, blob: BlobInfo, chunker: ChunkerParams) -> ChunkList {
        ChunkList {
            shared,
            blob,
            chunker,
            bytes: 0,
            chunks: 0,
        }
    }

    /// Whose list it is.
    #[must_use]
    pub fn blob(&self) -> &BlobInfo {
        &self.blob
    }

    /// What cut the blob.
    #[must_use]
    pub fn chunker(&self) -> &ChunkerParams {
        &self.chunker
    }

    /// The next chunks, never none; nothing after the last.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the list is not whole, [`Error::NotFound`] if the blob was removed meanwhile.
    pub async fn next(&mut self) -> Result<Option<Vec<ChunkRef>>, Error> {
        let id = self.blob.id;
        if self.bytes >= self.blob.bytes {
            if self.bytes != self.blob.bytes || self.chunks != self.blob.chunks {
                return Err(self.shared.missing_part(id, self.bytes).await);
            }
            return Ok(None);
        }
        let part = self.shared.index.part(id, self.bytes).await?;
        let whole =
            part.filter(|part| (part.first_byte, part.first_chunk) == (self.bytes, self.chunks));
        let Some(part) = whole.filter(|part| !part.chunks.is_empty()) else {
            return Err(self.shared.missing_part(id, self.bytes).await);
        };
        self.bytes += part.bytes();
        self.chunks += part.chunks.len() as u64;
        Ok(Some(part.chunks))
    }
}
