//! Putting a blob together from chunks that its namespace holds and chunks that are sent.
//!
//! The whole list is [named](Assembly::name) first. A chunk that is to be taken from the store must be held by the
//! namespace, and its pack is leased in the transaction in which that was looked up; a chunk that only others hold
//! is refused as one that nobody holds. Then the bytes come out in order: those that are held are read and
//! verified, those that are not are asked for. Whoever puts the blob together writes all of them to an
//! [`Ingest`](crate::Ingest), which cuts, names and digests them as it does any others: what the store says about
//! a blob never rests on what a client said.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::index::Stored;
use crate::manifest::ChunkRef;
use crate::pack::TEMPORARY;
use crate::reader::{Piece, PieceError, Place, Suspect};
use crate::store::Shared;
use crate::{BlobId, ChunkId, Digest, Error, MAX_CHUNK_BYTES, Mismatch};

/// The most chunks in one list: 16 GiB in chunks of the least length.
pub const MAX_LISTED_CHUNKS: u64 = 1 << 20;

/// How many bytes are read ahead at once.
const AHEAD_BYTES: u64 = 1024 * 1024;

/// How many chunks are read ahead at once, however small they are.
const AHEAD_CHUNKS: usize = 64;

/// How many lines of the list are read back at once.
const PAGE: u64 = 4096;

/// A line of the list as it is kept: the id, the length, and whether it is held.
const LINE_BYTES: usize = 37;

/// What is done to the list, for messages.
const WRITING: &str = "writing a list of chunks in";
const READING: &str = "reading a list of chunks in";

/// One chunk of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// The store has it, and this namespace holds it.
    Held(ChunkRef),
    /// It will be sent.
    Sent(ChunkRef),
}

/// What comes next of the blob.
#[derive(Debug)]
pub enum Supply {
    /// Bytes that the store had, never none.
    Held(Bytes),
    /// A chunk that has to be sent. [`ChunkRef::verify`] tells whether what was sent is it.
    Wanted(ChunkRef),
    /// The end.
    End,
}

/// A blob that is put together. Its leases end with it.
#[derive(Debug)]
pub struct Assembly {
    shared: Arc<Shared>,
    namespace: String,
    holder: BlobId,
    leased: bool,
    /// The list, in a file without a name: a long one costs no memory, and goes with the process.
    list: Arc<File>,
    listed: u64,
    bytes: u64,
    /// How many lines were read back.
    taken: u64,
    page: VecDeque<Named>,
    reading: Option<JoinHandle<Result<VecDeque<Bytes>, PieceError>>>,
    /// The packs that are being read.
    packs: Vec<Stored>,
    ready: VecDeque<Bytes>,
}

impl ChunkRef {
    /// Whether these bytes are the chunk.
    ///
    /// # Errors
    ///
    /// [`Error::ChunkMismatch`] names what the chunk should be and what it is.
    pub fn verify(&self, data: &[u8]) -> Result<(), Error> {
        let found = Digest::blake3(data);
        if found == self.id && data.len() as u64 == u64::from(self.bytes) {
            return Ok(());
        }
        Err(Error::ChunkMismatch(Box::new(Mismatch {
            expected: self.id,
            found,
            bytes: data.len(),
        })))
    }
}

impl Assembly {
    pub(crate) async fn new(shared: Arc<Shared>, namespace: String) -> Result<Assembly, Error> {
        let scratch = Arc::clone(&shared);
        let list = blocking(move || {
            let name = format!("{}.{TEMPORARY}", Uuid::now_v7());
            let path = scratch.packs_directory().join(name);
            let failed = |source| Error::io("making the list of chunks", &path, source);
            let file = scratch.disk.create(&path).map_err(failed)?;
            scratch.disk.remove(&path).map_err(failed)?;
            Ok(file)
        })
        .await?;
        Ok(Assembly {
            shared,
            namespace,
            holder: BlobId::new(),
            leased: false,
            list: Arc::new(list),
            listed: 0,
            bytes: 0,
            taken: 0,
            page: VecDeque::new(),
            reading: None,
            packs: Vec::new(),
            ready: VecDeque::new(),
        })
    }

    /// Appends chunks to the list.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeld`] if the namespace does not hold one that the list says is held, or in another length, or
    /// it can no longer be read; [`Error::List`] for a chunk without bytes or a longer one than there are, and for
    /// a list that is too long.
    pub async fn name(&mut self, chunks: &[Named]) -> Result<(), Error> {
        if self.listed + chunks.len() as u64 > MAX_LISTED_CHUNKS {
            return Err(Error::List {
                detail: format!("it names more than {MAX_LISTED_CHUNKS} chunks"),
            });
        }
        let mut held = Vec::new();
        let mut lines = Vec::with_capacity(chunks.len() * LINE_BYTES);
        for chunk in chunks {
            let (chunk, is_held) = match chunk {
                Named::Held(chunk) => (chunk, true),
                Named::Sent(chunk) => (chunk, false),
            };
            if chunk.bytes == 0 || chunk.bytes as usize > MAX_CHUNK_BYTES {
                return Err(Error::List {
                    detail: format!(
                        "it has a chunk of {} bytes: they have 1 to {MAX_CHUNK_BYTES}",
                        chunk.bytes
                    ),
                });
            }
            if is_held {
                held.push(*chunk);
            }
            self.bytes += u64::from(chunk.bytes);
            lines.extend_from_slice(chunk.id.as_bytes());
            lines.extend_from_slice(&chunk.bytes.to_le_bytes());
            lines.push(u8::from(is_held));
        }
        if !held.is_empty() {
            // Said before the leases are taken: whatever happens while they are, they are let go.
            self.leased = true;
            let index = &self.shared.index;
            if !index.claim(&self.namespace, self.holder, &held).await? {
                return Err(Error::NotHeld);
            }
        }
        let list = Arc::clone(&self.list);
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            shared
                .disk
                .append(&list, &lines)
                .map_err(|source| Error::io(WRITING, shared.packs_directory(), source))
        })
        .await?;
        self.listed += chunks.len() as u64;
        Ok(())
    }

    /// How many bytes the chunks that were named have together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What comes next, once everything was named. A chunk that is [`Supply::Wanted`] is asked for once.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeld`] if a held chunk turned out to be damaged: it is quarantined, so the next question for
    /// what is missing has it. [`Error::Io`] and [`Error::Index`] if it cannot be read.
    pub async fn next(&mut self) -> Result<Supply, Error> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Supply::Held(bytes));
            }
            if self.reading.is_some() {
                self.collect().await?;
                // The next run is read while this one is used.
                self.start().await?;
                continue;
            }
            if self.page.is_empty() {
                self.turn_page().await?;
            }
            match self.page.front() {
                None => return Ok(Supply::End),
                Some(Named::Sent(chunk)) => {
                    let chunk = *chunk;
                    self.page.pop_front();
                    return Ok(Supply::Wanted(chunk));
                }
                Some(Named::Held(_)) => self.start().await?,
            }
        }
    }

    /// Reads the next lines of the list back.
    async fn turn_page(&mut self) -> Result<(), Error> {
        let count = PAGE.min(self.listed - self.taken);
        if count == 0 {
            return Ok(());
        }
        let list = Arc::clone(&self.list);
        let shared = Arc::clone(&self.shared);
        let at = self.taken * LINE_BYTES as u64;
        let length = usize::try_from(count).expect("at most a page") * LINE_BYTES;
        let lines = blocking(move || {
            let mut lines = vec![0; length];
            shared
                .disk
                .read_at(&list, &mut lines, at)
                .map_err(|source| Error::io(READING, shared.packs_directory(), source))?;
            Ok(lines)
        })
        .await?;
        let (lines, _) = lines.as_chunks::<LINE_BYTES>();
        self.page.extend(lines.iter().map(|line| {
            let (id, rest) = line.split_at(32);
            let id: [u8; 32] = id.try_into().expect("the first 32 bytes of 37");
            let bytes: [u8; 4] = rest[..4].try_into().expect("four of the last five");
            let chunk = ChunkRef {
                id: ChunkId::from(id),
                bytes: u32::from_le_bytes(bytes),
            };
            if rest[4] == 1 {
                Named::Held(chunk)
            } else {
                Named::Sent(chunk)
            }
        }));
        self.taken += count;
        Ok(())
    }

    /// Reads the run of held chunks that comes next, if one does, in the background.
    async fn start(&mut self) -> Result<(), Error> {
        if self.page.is_empty() {
            self.turn_page().await?;
        }
        let mut run = Vec::new();
        let mut ahead = 0;
        while let Some(Named::Held(chunk)) = self.page.front() {
            ahead += u64::from(chunk.bytes);
            run.push(*chunk);
            self.page.pop_front();
            if ahead >= AHEAD_BYTES || run.len() == AHEAD_CHUNKS {
                break;
            }
        }
        if run.is_empty() {
            return Ok(());
        }
        let ids: Vec<ChunkId> = run.iter().map(|chunk| chunk.id).collect();
        let found = self.shared.index.lookup(&ids).await?;
        let pieces = run
            .into_iter()
            .map(|chunk| {
                let stored = found.get(&chunk.id);
                let stored = stored.filter(|stored| stored.extent.bytes == chunk.bytes);
                Ok(Piece {
                    id: chunk.id,
                    bytes: chunk.bytes,
                    skip: 0,
                    place: Place::Packed(*stored.ok_or(Error::NotHeld)?),
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        self.packs = found.into_values().collect();
        let shared = Arc::clone(&self.shared);
        self.reading = Some(tokio::task::spawn_blocking(move || {
            shared.packs.read(&pieces)
        }));
        Ok(())
    }

    /// Waits for what is being read in the background.
    async fn collect(&mut self) -> Result<(), Error> {
        let Some(reading) = &mut self.reading else {
            return Ok(());
        };
        let read = reading.await;
        self.reading = None;
        match read {
            Ok(Ok(bytes)) => {
                self.ready = bytes;
                Ok(())
            }
            Ok(Err(PieceError::Failed(error))) => Err(error),
            Ok(Err(PieceError::Wrong { suspect, error })) => {
                self.shared.quarantine(suspect, &error).await;
                Err(Error::NotHeld)
            }
            // It is leased, so no collector has taken it away.
            Ok(Err(PieceError::Gone { name, error })) => {
                if let Some(stored) = self.packs.iter().find(|stored| stored.name == name) {
                    let suspect = Suspect::Pack { pack: stored.pack };
                    self.shared.quarantine(suspect, &error).await;
                }
                Err(Error::NotHeld)
            }
            Err(_) => Err(Error::Defect { part: "assembly" }),
        }
    }
}

impl Drop for Assembly {
    fn drop(&mut self) {
        if !self.leased {
            return;
        }
        // Without a runtime the process is about to end, and the next start forgets these leases.
        if let Ok(runtime) = Handle::try_current() {
            let (shared, holder) = (Arc::clone(&self.shared), self.holder);
            runtime.spawn(async move {
                if let Err(error) = shared.index.forget_upload(holder).await {
                    tracing::warn!(%error, "the leases of an upload stay until the next start");
                }
            });
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Defect { part: "assembly" })?
}
