//! Writing a blob.
//!
//! An upload runs on three threads of its own, because what they do is work and not waiting:
//!
//! ```text
//! writer -> window -> cutter -> packer -> pack -> sealer -> index
//!                         \--> digester --/
//! ```
//!
//! - the *cutter* finds the chunks and names them (`FastCDC`, BLAKE3), but for those that the store has read itself;
//! - the *digester* hashes the whole blob (BLAKE3, and SHA-256 if somebody wants to compare it);
//! - the *packer* asks the index which chunks it has, compresses the others and appends them to a pack;
//! - a full pack is sealed on a thread that lives only for it, while the next one is filled: synced, named,
//!   and told to the index. At most one is being sealed, so the disk slows the upload and not the memory.
//!
//! Between them are bounded channels of batches. What one upload holds in memory, whatever its size: the
//! window (4 MiB), the same bytes again as chunks, a pack's table (at most 16,384 entries) and at most
//! 1 MiB of manifest. See [`flow`] for the window and for how an upload is followed.
//!
//! An upload that comes in pieces passes through one such pipeline for each piece. A piece that is
//! [suspended](Ingest::suspend) seals the pack it has begun; the next one begins behind the last whole chunk.

mod cutter;
mod flow;
mod input;
mod packer;

use std::sync::Arc;
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, oneshot};

pub(crate) use cutter::Hashers;
pub(crate) use flow::{Flow, Step};
pub use input::Input;

use crate::quota::Charge;
use crate::store::Shared;
use crate::upload::UploadRow;
use crate::{BlobId, BlobInfo, Error, Reader};

/// A blob that is being written. Dropped before [`finish`](Ingest::finish) has returned, it comes to nothing.
#[derive(Debug)]
pub struct Ingest {
    shared: Arc<Shared>,
    id: BlobId,
    flow: Arc<Flow>,
    /// Absent where everything was charged before.
    charge: Option<Arc<Charge>>,
    /// Whether what is durable of it stays: only the packer knows how much that is.
    in_pieces: bool,
    outcome: oneshot::Receiver<Result<Packed, Error>>,
    finished: bool,
}

/// What a pipeline came to.
#[derive(Debug)]
enum Packed {
    /// The blob is complete.
    Whole(BlobInfo),
    /// So many bytes of it are durable.
    Suspended(u64),
}

/// Which digests of the whole are computed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digests {
    /// BLAKE3.
    Blake3,
    /// BLAKE3 and SHA-256.
    WithSha256,
}

/// What an upload that comes in pieces goes on from.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) row: UploadRow,
    /// The digests of what the index names of it, if they are known.
    pub(crate) hashers: Option<Hashers>,
    /// Nobody else goes on with it until this is dropped.
    pub(crate) lock: OwnedMutexGuard<()>,
}

impl Ingest {
    /// Starts the pipeline. The permit, and the lock of what is resumed, are held until its last thread is gone.
    pub(crate) fn start(
        shared: Arc<Shared>,
        namespace: String,
        charge: Arc<Charge>,
        permit: OwnedSemaphorePermit,
        digests: Digests,
        resume: Option<Resume>,
    ) -> Result<Ingest, Error> {
        let with_sha256 = digests == Digests::WithSha256;
        let (row, known, lock) = match resume {
            Some(Resume { row, hashers, lock }) => (Some(row), hashers, Some(lock)),
            None => (None, Some(Hashers::new(with_sha256)), None),
        };
        let id = row.as_ref().map_or_else(BlobId::new, |row| row.upload.id);
        let begin = row.as_ref().map_or(0, |row| row.bytes);
        let flow = Arc::new(Flow::at(begin));
        let (tell, outcome) = oneshot::channel();
        let (to_packer, batches) = cutter::channel();
        let (to_digester, copies) = cutter::channel();
        let (tell_digests, digests) = oneshot::channel();
        let (tell_rest, rest) = oneshot::channel();

        let ingest = Ingest {
            shared: Arc::clone(&shared),
            id,
            flow: Arc::clone(&flow),
            charge: Some(Arc::clone(&charge)),
            in_pieces: row.is_some(),
            outcome,
            finished: false,
        };
        let stage = Stage::new(&flow, "cutter");
        let handle = Handle::current();
        spawn(&shared, "blob-cutter", {
            let flow = Arc::clone(&flow);
            move || stage.end(cutter::cut(&flow, &to_packer, &to_digester, tell_rest))
        })?;
        let stage = Stage::new(&flow, "digester");
        spawn(&shared, "blob-digester", {
            let (shared, handle) = (Arc::clone(&shared), handle.clone());
            move || {
                stage.end(
                    match known {
                        Some(hashers) => Ok(hashers),
                        None => handle.block_on(hash_again(shared, id, begin)),
                    }
                    .map(|hashers| cutter::digest(&copies, hashers, tell_digests)),
                );
            }
        })?;
        let stage = Stage::new(&flow, "packer");
        spawn(&shared.clone(), "blob-packer", move || {
            let _held = (permit, lock);
            let row = row.as_ref();
            let packer = packer::Packer::new(shared, flow, id, namespace, charge, row, handle);
            let packed = packer.run(&batches, digests, rest);
            stage.end(packed.as_ref().map(drop).map_err(Error::clone));
            // Nobody listens if the upload was given up.
            let _ = tell.send(packed);
        })?;
        Ok(ingest)
    }

    /// What has been written already: everything of a complete blob.
    pub(crate) fn complete(shared: Arc<Shared>, info: BlobInfo) -> Ingest {
        let flow = Arc::new(Flow::at(info.bytes));
        flow.finish();
        flow.complete();
        let (tell, outcome) = oneshot::channel();
        let id = info.id;
        // The receiver is right here.
        let _ = tell.send(Ok(Packed::Whole(info)));
        Ingest {
            shared,
            id,
            flow,
            charge: None,
            in_pieces: false,
            outcome,
            finished: false,
        }
    }

    /// The blob's name, once it is complete.
    #[must_use]
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// How many bytes were written.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.flow.received()
    }

    /// Appends bytes. Waits while the pipeline is behind; who follows the blob sees them at once.
    ///
    /// If this is dropped while it waits, a part of the bytes may have been taken:
    /// [`received`](Ingest::received) says how many.
    ///
    /// # Errors
    ///
    /// Whatever ended the upload: [`Error::QuotaExceeded`], [`Error::FloorReached`], [`Error::StorageFull`],
    /// [`Error::Io`], [`Error::Index`].
    pub async fn write(&mut self, input: impl Into<Input>) -> Result<(), Error> {
        let input = input.into();
        // Before they are taken, so that a quota is never exceeded.
        let end = self.received() + input.len() as u64;
        let charged = self
            .charge
            .as_ref()
            .map_or(Ok(()), |charge| charge.up_to(end));
        if let Err(error) = charged {
            self.flow.fail(error.clone());
            return Err(error);
        }
        let (bytes, chunk) = input.into_parts();
        match chunk {
            None => self.flow.write(bytes).await,
            Some(chunk) => self.flow.write_chunk(chunk, bytes).await,
        }
    }

    /// Reads the blob from its first byte while it is being written. Any number of readers may follow, from
    /// any time on, each at its own pace; none slows the upload down.
    #[must_use]
    pub fn follow(&self) -> Reader {
        Reader::following(Arc::clone(&self.shared), self.id, Arc::clone(&self.flow))
    }

    /// Says that it was all, and waits until the blob is durable.
    ///
    /// # Errors
    ///
    /// Whatever ended the upload; then there is no blob.
    pub async fn finish(mut self) -> Result<BlobInfo, Error> {
        self.flow.finish();
        match self.outcome().await? {
            Packed::Whole(info) => Ok(info),
            Packed::Suspended(_) => Err(Error::Defect { part: "packer" }),
        }
    }

    /// Says that it was all for now, waits until everything that was written is durable, and returns how many bytes
    /// the blob has. For one that [`Store::append`](crate::Store::append) began; any other comes to nothing.
    ///
    /// # Errors
    ///
    /// Whatever ended the upload; then what was in a sealed pack is all that is durable.
    pub async fn suspend(mut self) -> Result<u64, Error> {
        self.flow.suspend();
        match self.outcome().await? {
            Packed::Suspended(bytes) => Ok(bytes),
            Packed::Whole(_) => Err(Error::Defect { part: "packer" }),
        }
    }

    async fn outcome(&mut self) -> Result<Packed, Error> {
        let outcome = (&mut self.outcome).await;
        self.finished = true;
        outcome.unwrap_or_else(|_| {
            Err(self
                .flow
                .failure()
                .unwrap_or(Error::Defect { part: "packer" }))
        })
    }
}

/// The digests of the first `bytes` bytes of an upload, from what is stored.
async fn hash_again(shared: Arc<Shared>, id: BlobId, bytes: u64) -> Result<Hashers, Error> {
    let mut hashers = Hashers::new(false);
    let mut reader = Reader::complete(shared, id, bytes);
    while let Some(bytes) = reader.next().await? {
        hashers.update(&bytes);
    }
    Ok(hashers)
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.finished {
            if let Some(charge) = self.charge.as_ref().filter(|_| !self.in_pieces) {
                charge.give_back();
            }
            self.flow.fail(Error::Interrupted {
                reason: "its writer stopped before the end".to_owned(),
            });
        }
    }
}

/// A thread of the pipeline. If it ends with an error, or panics, the upload fails with it.
struct Stage {
    flow: Arc<Flow>,
    name: &'static str,
    ended: bool,
}

impl Stage {
    fn new(flow: &Arc<Flow>, name: &'static str) -> Stage {
        Stage {
            flow: Arc::clone(flow),
            name,
            ended: false,
        }
    }

    fn end(mut self, result: Result<(), Error>) {
        self.ended = true;
        if let Err(error) = result {
            self.flow.fail(error);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.ended {
            self.flow.fail(Error::Defect { part: self.name });
        }
    }
}

fn spawn(
    shared: &Shared,
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<(), Error> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|source| Error::io("starting a thread for", &shared.directory, source))
}

#[cfg(test)]
mod tests;
