//! What a blob is written from.

use std::ops::Deref;

use bytes::Bytes;

use crate::ChunkId;

/// Bytes for a blob: any, or a chunk that the store has read and verified, which is not cut and named again. Only the
/// store makes the latter.
#[derive(Clone, Debug)]
pub struct Input {
    bytes: Bytes,
    chunk: Option<ChunkId>,
}

impl Input {
    /// A chunk of which it is known that it is what it is called.
    pub(crate) fn verified(chunk: ChunkId, bytes: Bytes) -> Input {
        Input {
            bytes,
            chunk: Some(chunk),
        }
    }

    /// The bytes, and the name if they are a chunk.
    pub(super) fn into_parts(self) -> (Bytes, Option<ChunkId>) {
        (self.bytes, self.chunk)
    }
}

impl From<Bytes> for Input {
    fn from(bytes: Bytes) -> Input {
        Input { bytes, chunk: None }
    }
}

impl Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
