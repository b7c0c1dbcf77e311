//! The stages that only compute: finding and naming chunks, and hashing the whole.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::flow::Flow;
use crate::chunker::Chunker;
use crate::{ChunkId, Digest, Error};

/// Chunks go from stage to stage in batches of about this size: one query to the index for each.
const BATCH_BYTES: usize = 512 * 1024;

/// How many batches may wait before a stage. The window bounds the bytes; this bounds the digester's lag.
const BATCHES: usize = 4;

/// A chunk and its name.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) id: ChunkId,
    pub(super) data: Bytes,
}

/// Chunks that follow one another.
pub(super) type Batch = Vec<Chunk>;

/// The digests of a whole blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digests {
    pub(super) blake3: Digest,
    pub(super) sha256: Digest,
}

/// A channel between two stages.
pub(super) fn channel() -> (SyncSender<Batch>, Receiver<Batch>) {
    sync_channel(BATCHES)
}

/// Cuts what arrives into named chunks, for the packer and the digester.
pub(super) fn cut(
    flow: &Flow,
    packer: &SyncSender<Batch>,
    digester: &SyncSender<Batch>,
) -> Result<(), Error> {
    let mut chunker = Chunker::new();
    let mut batch = Batch::new();
    let mut batch_bytes = 0;
    let mut last = false;
    while !last {
        match flow.take_block()? {
            Some(block) => chunker.push(&block),
            None => last = true,
        }
        while let Some(data) = chunker.next(last) {
            batch_bytes += data.len();
            batch.push(Chunk {
                id: Digest::blake3(&data),
                data,
            });
            if batch_bytes >= BATCH_BYTES {
                batch_bytes = 0;
                send(flow, std::mem::take(&mut batch), packer, digester)?;
            }
        }
    }
    send(flow, batch, packer, digester)
}

fn send(
    flow: &Flow,
    batch: Batch,
    packer: &SyncSender<Batch>,
    digester: &SyncSender<Batch>,
) -> Result<(), Error> {
    // A stage hangs up only after an error, and says which before or soon after.
    let gone = || {
        flow.failure().unwrap_or(Error::Interrupted {
            reason: "the pipeline stopped".to_owned(),
        })
    };
    digester.send(batch.clone()).map_err(|_| gone())?;
    packer.send(batch).map_err(|_| gone())
}

/// Hashes the whole blob, and tells when the stream has ended. (It ends early when the upload fails; then
/// nobody asks.)
pub(super) fn digest(
    batches: &Receiver<Batch>,
    tell: oneshot::Sender<Digests>,
) -> Result<(), Error> {
    let mut blake3 = blake3::Hasher::new();
    let mut sha256 = Sha256::new();
    for chunk in batches.iter().flatten() {
        blake3.update(&chunk.data);
        sha256.update(&chunk.data);
    }
    let digests = Digests {
        blake3: Digest::from(*blake3.finalize().as_bytes()),
        sha256: Digest::from(<[u8; 32]>::from(sha256.finalize())),
    };
    // Nobody listens if the packer has failed, which it tells by itself.
    let _ = tell.send(digests);
    Ok(())
}
