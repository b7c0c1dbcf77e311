//! The stages that only compute: finding and naming chunks, and hashing the whole.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::flow::{Block, Flow};
use crate::chunker::Chunker;
use crate::{ChunkId, ChunkerParams, Digest, Error};

/// Chunks go from stage to stage in batches of about this size: one query to the index for each.
const BATCH_BYTES: usize = 1024 * 1024;

/// How many chunks are in a batch, however short they are: those of 1 MiB, at the shortest that is cut, are 64.
const BATCH_CHUNKS: usize = 256;

/// How many batches may wait before a stage. The window bounds the bytes; this bounds the digester's lag.
const BATCHES: usize = 2;

/// A chunk and its name.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) id: ChunkId,
    pub(super) data: Bytes,
}

/// Chunks that follow one another.
pub(super) type Batch = Vec<Chunk>;

/// The digests of a whole blob, as far as it was seen.
#[derive(Clone)]
pub(crate) struct Hashers {
    bytes: u64,
    blake3: blake3::Hasher,
    sha256: Option<Sha256>,
}

impl Hashers {
    /// Of a blob of which nothing was seen; SHA-256, which costs more than all else here, only if asked for.
    pub(super) fn new(sha256: bool) -> Hashers {
        Hashers {
            bytes: 0,
            blake3: blake3::Hasher::new(),
            sha256: sha256.then(Sha256::new),
        }
    }

    /// How many bytes were seen.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.blake3.update(data);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(data);
        }
    }

    /// BLAKE3 of what was seen, and SHA-256 if it was asked for.
    pub(super) fn finish(self) -> (Digest, Option<Digest>) {
        let sha256 = self.sha256.map(|sha256| {
            let sha256: [u8; 32] = sha256.finalize().into();
            Digest::from(sha256)
        });
        (Digest::from(*self.blake3.finalize().as_bytes()), sha256)
    }
}

impl fmt::Debug for Hashers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashers")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// A channel between two stages.
pub(super) fn channel() -> (SyncSender<Batch>, Receiver<Batch>) {
    sync_channel(BATCHES)
}

/// Cuts what arrives into named chunks, for the packer and the digester. An upload that is suspended leaves bytes
/// that make no whole chunk yet: the packer is told them.
pub(super) fn cut(
    flow: &Flow,
    packer: &SyncSender<Batch>,
    digester: &SyncSender<Batch>,
    tell_rest: oneshot::Sender<Bytes>,
) -> Result<(), Error> {
    let mut chunker =
        Chunker::new(&ChunkerParams::default()).ok_or(Error::Defect { part: "chunker" })?;
    let mut batches = Batches {
        batch: Batch::new(),
        bytes: 0,
        flow,
        packer,
        digester,
    };
    let mut last = false;
    while !last {
        let block = flow.take_block()?;
        last = block.is_none();
        let chunk = match block {
            Some(block) if block.chunk.is_some() => Some(block),
            Some(block) => {
                chunker.push(&block.bytes);
                None
            }
            None => None,
        };
        let suspended = last && flow.is_suspending();
        // A chunk that is one already ends whatever was cut before it.
        let ends = chunk.is_some() || (last && !suspended);
        while let Some(data) = chunker.next(ends) {
            let id = Digest::blake3(&data);
            batches.push(Chunk { id, data })?;
        }
        if let Some(Block {
            bytes: data,
            chunk: Some(id),
        }) = chunk
        {
            batches.push(Chunk { id, data })?;
        }
    }
    // Nobody listens if the packer has failed, which it tells by itself.
    let _ = tell_rest.send(Bytes::copy_from_slice(chunker.rest()));
    batches.send()
}

/// Chunks on their way to the next stages.
struct Batches<'a> {
    batch: Batch,
    bytes: usize,
    flow: &'a Flow,
    packer: &'a SyncSender<Batch>,
    digester: &'a SyncSender<Batch>,
}

impl Batches<'_> {
    fn push(&mut self, chunk: Chunk) -> Result<(), Error> {
        self.bytes += chunk.data.len();
        self.batch.push(chunk);
        if self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_CHUNKS {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Error> {
        // A stage hangs up only after an error, and says which before or soon after.
        let gone = || {
            self.flow.failure().unwrap_or(Error::Interrupted {
                reason: "the pipeline stopped".to_owned(),
            })
        };
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.digester.send(batch.clone()).map_err(|_| gone())?;
        self.packer.send(batch).map_err(|_| gone())
    }
}

/// Hashes the whole blob, and tells when the stream has ended. (It ends early when the upload fails; then
/// nobody asks.)
pub(super) fn digest(
    batches: &Receiver<Batch>,
    mut hashers: Hashers,
    tell: oneshot::Sender<Hashers>,
) {
    for chunk in batches.iter().flatten() {
        hashers.update(&chunk.data);
    }
    // Nobody listens if the packer has failed, which it tells by itself.
    let _ = tell.send(hashers);
}
