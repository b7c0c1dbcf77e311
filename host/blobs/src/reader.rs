//! Reading a blob: every chunk is verified, and the end is told only after the last byte of a complete blob.

mod pieces;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::ingest::{Flow, Step};
use crate::manifest::Part;
use crate::store::Shared;
use crate::{BlobId, Digest, Error};

pub(crate) use pieces::{PackFiles, Piece, PieceError, Place, Suspect};

/// How many bytes are read ahead at once: enough that changing threads costs nothing beside it.
const AHEAD_BYTES: u64 = 1024 * 1024;

/// How many chunks are read ahead at once, however small they are.
const AHEAD_CHUNKS: usize = 64;

/// The bytes of a blob, in order, from the first.
///
/// It reads a complete blob ([`Store::reader`](crate::Store::reader)) or follows one that is still being
/// written ([`Ingest::follow`](crate::Ingest::follow)).
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    blob: BlobId,
    /// The first byte that is neither handed out nor being read.
    position: u64,
    source: Source,
    /// The part of the manifest that was used last.
    part: Option<Part>,
    reading: Option<Reading>,
    ready: VecDeque<Bytes>,
    ended: Option<Result<(), Error>>,
}

#[derive(Debug)]
enum Source {
    /// A complete blob, up to this byte.
    Complete {
        bytes: u64,
    },
    Following {
        flow: Arc<Flow>,
        idle: Duration,
    },
}

/// Chunks that are being read in the background.
#[derive(Debug)]
struct Reading {
    pieces: Arc<[Piece]>,
    task: JoinHandle<Result<VecDeque<Bytes>, PieceError>>,
    /// How it ended, when a pack was not there.
    gone: Option<(Uuid, Error)>,
}

impl Reading {
    fn start(shared: &Arc<Shared>, pieces: Arc<[Piece]>) -> Reading {
        let task = {
            let shared = Arc::clone(shared);
            let pieces = Arc::clone(&pieces);
            tokio::task::spawn_blocking(move || shared.packs.read(&pieces))
        };
        Reading {
            pieces,
            task,
            gone: None,
        }
    }
}

/// What comes next.
enum Plan {
    Bytes(Bytes),
    Pieces(Vec<Piece>),
    End,
}

impl Reader {
    pub(crate) fn complete(shared: Arc<Shared>, blob: BlobId, bytes: u64) -> Reader {
        Reader::new(shared, blob, Source::Complete { bytes })
    }

    pub(crate) fn following(shared: Arc<Shared>, blob: BlobId, flow: Arc<Flow>) -> Reader {
        let idle = shared.options.follow_idle;
        Reader::new(shared, blob, Source::Following { flow, idle })
    }

    fn new(shared: Arc<Shared>, blob: BlobId, source: Source) -> Reader {
        Reader {
            shared,
            blob,
            position: 0,
            source,
            part: None,
            reading: None,
            ready: VecDeque::new(),
            ended: None,
        }
    }

    /// Goes on from this byte of a complete blob, and reads the chunks up to this one. The last of them is handed out
    /// whole.
    pub(crate) fn seek(&mut self, from: u64, until: u64) {
        self.source = Source::Complete { bytes: until };
        self.position = from;
        self.reading = None;
        self.ready.clear();
        self.ended = None;
    }

    /// Waits at most this long for a byte of an upload that is followed. Default:
    /// [`StoreOptions::follow_idle`](crate::StoreOptions::follow_idle). Nothing changes for a complete blob.
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Reader {
        if let Source::Following { idle, .. } = &mut self.source {
            *idle = timeout;
        }
        self
    }

    /// The next bytes, never empty; `None` only after every byte of a complete blob.
    ///
    /// A blob that is followed is complete when its writer has finished and every byte is in a pack with its
    /// digests known; whether it is durable is what [`Ingest::finish`](crate::Ingest::finish) returns.
    ///
    /// May be dropped at any await and called again; no byte is lost by it.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a chunk is not what was written, [`Error::Interrupted`] if the writer of a
    /// followed blob fails or is dropped, [`Error::IdleTimeout`] if no byte of it arrived for too long,
    /// [`Error::NotFound`] if the blob was removed meanwhile. The same error is returned by every later call.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(ended) = &self.ended {
            return ended.clone().map(|()| None);
        }
        let next = self.advance().await;
        match &next {
            Ok(Some(_)) => {}
            Ok(None) => self.ended = Some(Ok(())),
            Err(error) => self.ended = Some(Err(error.clone())),
        }
        next
    }

    /// SHA-256 of the rest of the blob, and of what comes behind it.
    pub(crate) async fn sha256_with(mut self, tail: &[u8]) -> Result<Digest, Error> {
        let mut sha256 = Sha256::new();
        while let Some(bytes) = self.next().await? {
            sha256.update(&bytes);
        }
        sha256.update(tail);
        let sha256: [u8; 32] = sha256.finalize().into();
        Ok(Digest::from(sha256))
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            if self.reading.is_some() {
                self.collect().await?;
                if matches!(self.source, Source::Complete { .. })
                    && let Plan::Pieces(pieces) = self.plan().await?
                {
                    self.start(pieces);
                }
                continue;
            }
            match self.plan().await? {
                Plan::Bytes(bytes) => {
                    self.position += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Plan::Pieces(pieces) => self.start(pieces),
                Plan::End => return Ok(None),
            }
        }
    }

    /// Reads these in the background.
    fn start(&mut self, pieces: Vec<Piece>) {
        self.position += pieces
            .iter()
            .map(|piece| u64::from(piece.bytes - piece.skip))
            .sum::<u64>();
        self.reading = Some(Reading::start(&self.shared, pieces.into()));
    }

    /// Waits for what is being read in the background.
    async fn collect(&mut self) -> Result<(), Error> {
        while let Some(reading) = &mut self.reading {
            if let Some((name, error)) = &reading.gone {
                // The collector may have moved what was in it, and says so before it takes a pack away.
                let (name, error) = (*name, error.clone());
                let pieces = Arc::clone(&reading.pieces);
                let pieces = self.found_again(name, &error, &pieces).await?;
                self.reading = Some(Reading::start(&self.shared, pieces));
                continue;
            }
            match (&mut reading.task).await {
                Ok(Err(PieceError::Gone { name, error })) => reading.gone = Some((name, error)),
                Ok(Ok(bytes)) => {
                    self.reading = None;
                    self.ready = bytes;
                }
                Ok(Err(PieceError::Failed(error))) => return Err(error),
                Ok(Err(PieceError::Wrong { suspect, error })) => {
                    return Err(self.quarantine(suspect, error).await);
                }
                Err(_) => return Err(Error::Defect { part: "reader" }),
            }
        }
        Ok(())
    }

    async fn quarantine(&mut self, suspect: Suspect, error: Error) -> Error {
        // Said before the next await: a caller that stops there must not get past it.
        self.ended = Some(Err(error.clone()));
        self.shared.quarantine(suspect, &error).await;
        error
    }

    /// Where these chunks are now, of which some were in a pack that is gone; fails with `error` if the index
    /// still says that they are there.
    async fn found_again(
        &mut self,
        gone: Uuid,
        error: &Error,
        pieces: &[Piece],
    ) -> Result<Arc<[Piece]>, Error> {
        let ids: Vec<_> = pieces.iter().map(|piece| piece.id).collect();
        let found = self.shared.index.lookup(&ids).await?;
        let mut again = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let mut piece = piece.clone();
            if let Place::Packed(stored) = &mut piece.place {
                match found.get(&piece.id) {
                    Some(now) if now.name == gone => {
                        let suspect = Suspect::Pack { pack: now.pack };
                        return Err(self.quarantine(suspect, error.clone()).await);
                    }
                    Some(now) => *stored = *now,
                    None => return Err(self.removed_or(error.clone()).await),
                }
            }
            again.push(piece);
        }
        Ok(again.into())
    }

    /// Why a chunk is not there: the blob was removed meanwhile, or else `error`.
    async fn removed_or(&self, error: Error) -> Error {
        match self.shared.index.blob(self.blob).await {
            Ok(None) if matches!(self.source, Source::Complete { .. }) => {
                Error::NotFound { id: self.blob }
            }
            _ => error,
        }
    }

    async fn plan(&mut self) -> Result<Plan, Error> {
        match &self.source {
            Source::Complete { bytes } => {
                // The last chunk may go on behind the end that was asked for.
                if self.position >= *bytes {
                    return Ok(Plan::End);
                }
                self.indexed().await.map(Plan::Pieces)
            }
            Source::Following { flow, idle } => loop {
                match flow.step(self.position) {
                    Step::Bytes(bytes) => return Ok(Plan::Bytes(bytes)),
                    Step::Pieces(pieces) => return Ok(Plan::Pieces(pieces)),
                    Step::Indexed => return self.indexed().await.map(Plan::Pieces),
                    Step::End => return Ok(Plan::End),
                    Step::Failed(error) => return Err(error),
                    Step::Wait => {
                        tokio::time::timeout(*idle, flow.arrival(self.position))
                            .await
                            .map_err(|_| Error::IdleTimeout { after: *idle })?;
                    }
                }
            },
        }
    }

    /// The next run of chunks, as the index has them.
    async fn indexed(&mut self) -> Result<Vec<Piece>, Error> {
        let position = self.position;
        let covers =
            |part: &Part| (part.first_byte..part.first_byte + part.bytes()).contains(&position);
        if !self.part.as_ref().is_some_and(covers) {
            self.part = self.shared.index.part(self.blob, position).await?;
        }
        let Some(part) = &self.part else {
            return Err(self.shared.missing_part(self.blob, position).await);
        };
        let until = match self.source {
            Source::Complete { bytes } => bytes,
            Source::Following { .. } => u64::MAX,
        };
        let mut run = Vec::new();
        let mut start = part.first_byte;
        let mut ahead = 0;
        for chunk in &part.chunks {
            let end = start + u64::from(chunk.bytes);
            if start >= until {
                break;
            }
            if end > position {
                run.push((*chunk, position.saturating_sub(start)));
                ahead += end - start;
                if ahead >= AHEAD_BYTES || run.len() == AHEAD_CHUNKS {
                    break;
                }
            }
            start = end;
        }
        let ids: Vec<_> = run.iter().map(|(chunk, _)| chunk.id).collect();
        let found = self.shared.index.lookup(&ids).await?;
        let mut pieces = Vec::with_capacity(run.len());
        for (chunk, skip) in run {
            let corrupt = |detail: &str| Error::Corrupt {
                what: format!("chunk {}", chunk.id),
                place: "the index".to_owned(),
                detail: detail.to_owned(),
            };
            let Some(stored) = found.get(&chunk.id) else {
                let error = corrupt("a manifest names it and no pack has it");
                return Err(self.removed_or(error).await);
            };
            if stored.extent.bytes != chunk.bytes {
                let error = corrupt("its length is not the one in the manifest");
                let (id, pack) = (chunk.id, stored.pack);
                self.shared
                    .quarantine(Suspect::Chunk { id, pack }, &error)
                    .await;
                return Err(error);
            }
            pieces.push(Piece {
                id: chunk.id,
                bytes: chunk.bytes,
                skip: u32::try_from(skip).expect("less than the chunk's length"),
                place: Place::Packed(*stored),
            });
        }
        Ok(pieces)
    }
}
