//! Cutting a package as the server does, and asking which chunks are missing, in one pass.
//!
//! One thread reads, one cuts and names, one compresses what is missing; between them are a few megabytes, whatever
//! the package's size. So no file is read twice, and what is sent is what was named.

use std::thread;

use bytes::Bytes;
use cofferdam_blobs::{ChunkRef, Chunker, ChunkerParams, Digest};
use tokio::sync::mpsc;

use super::framed::{Framed, Framing};
use crate::api::Api;
use crate::api::upload::Sent;
use crate::exit::Failure;
use crate::package::{self, Prepared, Wanted};
use crate::project::Project;

/// Chunks are asked for when they have this many bytes. A few such batches are in memory at a time; a link with
/// 50 ms to the server and back still passes 80 MB/s of them.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How much is looked at before the rest is given up as not worth the trouble.
const TRIAL_BYTES: u64 = 64 * 1024 * 1024;

/// At least one part in so many must be held by then.
const WORTHWHILE: u64 = 8;

/// Cuts one package.
pub(super) struct Cut<'a> {
    pub(super) api: &'a Api,
    pub(super) project: &'a Project,
    /// What the server cuts with.
    pub(super) chunker: &'a ChunkerParams,
    pub(super) sent: &'a Sent,
}

/// What came of it.
pub(super) enum Outcome {
    /// What is missing, ready to be sent.
    Framed(Framed),
    /// Nearly everything is missing, the chunker is not known here, or there is no room for what is missing.
    NotWorthwhile,
    /// The server has changed its mind about the chunker.
    OtherChunker(ChunkerParams),
}

/// Why nothing came of it.
pub(super) enum Error {
    Package(package::Error),
    Failure(Failure),
}

/// Chunks that follow one another.
struct Batch(Vec<(ChunkRef, Bytes)>);

impl Cut<'_> {
    pub(super) async fn run(&self, prepared: &mut Prepared) -> Result<Outcome, Error> {
        let Some(chunker) = Chunker::new(self.chunker) else {
            return Ok(Outcome::NotWorthwhile);
        };
        let package = prepared
            .open(Wanted::default())
            .await
            .map_err(Error::Package)?;
        let media_type = package.media_type;
        let (sender, mut batches) = mpsc::channel(1);
        thread::Builder::new()
            .name("cutter".to_owned())
            .spawn(move || cut(chunker, package.parts, &sender))
            .map_err(|error| Error::Failure(Failure::Machine(error.into())))?;

        let Ok(mut framing) = Framing::new() else {
            return Ok(Outcome::NotWorthwhile);
        };
        while let Some(batch) = batches.recv().await {
            let Batch(batch) = batch.map_err(Error::Package)?;
            let ids = batch
                .iter()
                .flat_map(|(chunk, _)| *chunk.id.as_bytes())
                .collect();
            let answer = self.api.missing(self.project, ids).await;
            let Some(answer) = answer.map_err(Error::Failure)? else {
                return Ok(Outcome::NotWorthwhile);
            };
            if answer.chunker != *self.chunker {
                return Ok(Outcome::OtherChunker(answer.chunker));
            }
            let Some(missing) = answer.bits(batch.len()) else {
                return Ok(Outcome::NotWorthwhile);
            };
            let framed = tokio::task::spawn_blocking(move || {
                for ((chunk, data), missing) in batch.into_iter().zip(missing) {
                    framing.push(chunk, &data, missing)?;
                }
                Ok::<_, std::io::Error>(framing)
            });
            // A disk without room is no reason not to deploy.
            framing = match framed.await {
                Ok(Ok(framing)) => framing,
                Ok(Err(_)) => return Ok(Outcome::NotWorthwhile),
                Err(error) => return Err(Error::Failure(Failure::Machine(error.into()))),
            };
            self.sent.compared(framing.package_bytes());
            let seen = framing.package_bytes();
            if seen >= TRIAL_BYTES && framing.spared() < seen / WORTHWHILE {
                return Ok(Outcome::NotWorthwhile);
            }
        }
        if framing.spared() < framing.package_bytes() / WORTHWHILE {
            return Ok(Outcome::NotWorthwhile);
        }
        let chunker = self.chunker.clone();
        let framed = tokio::task::spawn_blocking(move || framing.finish(&chunker, media_type));
        match framed.await {
            Ok(Ok(framed)) => Ok(Outcome::Framed(framed)),
            Ok(Err(_)) => Ok(Outcome::NotWorthwhile),
            Err(error) => Err(Error::Failure(Failure::Machine(error.into()))),
        }
    }
}

/// Cuts a package and names its chunks. Blocks.
fn cut(
    mut chunker: Chunker,
    mut parts: mpsc::Receiver<Result<Bytes, package::Error>>,
    batches: &mpsc::Sender<Result<Batch, package::Error>>,
) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut last = false;
    while !last {
        match parts.blocking_recv() {
            Some(Ok(part)) => chunker.push(&part),
            Some(Err(error)) => {
                let _ = batches.blocking_send(Err(error));
                return;
            }
            None => last = true,
        }
        while let Some(data) = chunker.next(last) {
            let Ok(length) = u32::try_from(data.len()) else {
                return;
            };
            bytes += data.len();
            let chunk = ChunkRef {
                id: Digest::blake3(&data),
                bytes: length,
            };
            batch.push((chunk, data));
            if bytes >= BATCH_BYTES {
                bytes = 0;
                if batches
                    .blocking_send(Ok(Batch(std::mem::take(&mut batch))))
                    .is_err()
                {
                    return;
                }
            }
        }
    }
    if !batch.is_empty() {
        let _ = batches.blocking_send(Ok(Batch(batch)));
    }
}
