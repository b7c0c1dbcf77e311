//! Putting a blob together from chunks that its namespace holds and chunks that are sent.
//!
//! The whole list is [named](Assembly::name) first. A chunk that is to be taken from the store must be held by the
//! namespace, and its pack is leased in the transaction in which that was looked up; a chunk that only others hold
//! is refused as one that nobody holds. Then the bytes come out in order: those that are held are read and
//! verified, those that are not are asked for. Whoever puts the blob together writes all of them to an
//! [`Ingest`](crate::Ingest), which cuts and names what was sent as it does any other bytes, and digests the whole:
//! what the store says about a blob never rests on what a client said.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::index::Stored;
use crate::list::ChunkList;
use crate::manifest::ChunkRef;
use crate::pack::TEMPORARY;
use crate::reader::{Piece, PieceError, Place, Reader, Suspect};
use crate::store::Shared;
use crate::{
    AVERAGE_CHUNK_BYTES, BlobId, ChunkId, Digest, Error, Input, MAX_CHUNK_BYTES, Mismatch,
};

/// The most chunks in one list: 16 GiB in chunks of the least length.
pub const MAX_LISTED_CHUNKS: u64 = 1 << 20;

/// How many bytes are read ahead at once.
const AHEAD_BYTES: u64 = 1024 * 1024;

/// How many chunks are read ahead at once, however small they are.
const AHEAD_CHUNKS: usize = 64;

/// How many such runs are read at a time: decompressing is work for more than one core, and finding the next is waiting.
const READS: usize = 3;

/// What is read for [copies](Assembly::copy), whole chunks for a few bytes of each: at most so many times what the list has,
/// and so much in any case. Somebody who puts files together that were far apart reads each chunk once or twice.
const COPY_READS: u64 = 4;
const COPY_READS_BYTES: u64 = 64 * 1024 * 1024;

/// How many lines of the list are read back at once.
const PAGE: u64 = 4096;

/// A line of the list as it is kept: the id, the length, and whether it is held.
const LINE_BYTES: usize = 37;

/// What is done to the list, for messages.
const WRITING: &str = "writing a list of chunks in";
const READING: &str = "reading a list of chunks in";

/// An entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A chunk that the store has, and this namespace holds.
    Held(ChunkRef),
    /// A chunk that will be sent.
    Sent(ChunkRef),
    /// Chunks that follow one another in the list of the blob that this one [leans on](Assembly::lean_on), and are held.
    Run {
        /// How many chunks of that list come before the first.
        first: u64,
        /// How many they are.
        chunks: u64,
    },
}

/// A line of the list, as it is kept.
#[derive(Clone, Copy, Debug)]
struct Listed {
    chunk: ChunkRef,
    is_held: bool,
}

/// What comes next of the blob.
#[derive(Debug)]
pub enum Supply {
    /// A chunk that the store had.
    Held(Input),
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
    base: Option<Base>,
    /// The list, in a file without a name: a long one costs no memory, and goes with the process.
    list: Arc<File>,
    listed: u64,
    bytes: u64,
    held: u64,
    digest: blake3::Hasher,
    /// How many lines were read back.
    taken: u64,
    page: VecDeque<Listed>,
    reading: VecDeque<Reading>,
    ready: VecDeque<Input>,
}

/// A run that is being read.
#[derive(Debug)]
struct Reading {
    /// The packs that it is in.
    packs: Vec<Stored>,
    task: JoinHandle<Result<VecDeque<Input>, PieceError>>,
}

/// The blob that runs are from.
#[derive(Debug)]
struct Base {
    list: ChunkList,
    /// Reads some of its bytes.
    reader: Reader,
    /// What was read last, and where it begins in the blob.
    last: (u64, Bytes),
    /// How many bytes were read so.
    read: u64,
    /// What was read of its list and not taken, and how many chunks come before that.
    page: VecDeque<ChunkRef>,
    next: u64,
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
            base: None,
            list: Arc::new(list),
            listed: 0,
            bytes: 0,
            held: 0,
            digest: blake3::Hasher::new(),
            taken: 0,
            page: VecDeque::new(),
            reading: VecDeque::new(),
            ready: VecDeque::new(),
        })
    }

    /// Says which blob of the namespace the [runs](Named::Run) are from: the newest complete one with this BLAKE3.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeld`] if the namespace has none, whatever others have.
    pub async fn lean_on(&mut self, blake3: &Digest) -> Result<(), Error> {
        let found = self.shared.index.blob_of(&self.namespace, blake3).await?;
        let (blob, chunker) = found.ok_or(Error::NotHeld)?;
        let reader = Reader::complete(Arc::clone(&self.shared), blob.id, blob.bytes);
        self.base = Some(Base {
            reader,
            last: (0, Bytes::new()),
            read: 0,
            list: ChunkList::new(Arc::clone(&self.shared), blob, chunker),
            page: VecDeque::new(),
            next: 0,
        });
        Ok(())
    }

    /// Appends to the list.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeld`] if the namespace does not hold a chunk that the list says is held, or in another length, or
    /// it can no longer be read, and for a run that is not in the other blob's list; [`Error::List`] for a chunk
    /// without bytes or a longer one than there are, for a run that goes back, and for a list that is too long.
    pub async fn name(&mut self, entries: &[Named]) -> Result<(), Error> {
        let mut page = Vec::with_capacity(entries.len());
        for entry in entries {
            match *entry {
                Named::Held(chunk) => page.push(Listed {
                    chunk,
                    is_held: true,
                }),
                Named::Sent(chunk) => page.push(Listed {
                    chunk,
                    is_held: false,
                }),
                Named::Run { first, chunks } => {
                    self.append(std::mem::take(&mut page)).await?;
                    self.append_run(first, chunks).await?;
                }
            }
        }
        self.append(page).await
    }

    /// Appends chunks of the other blob's list.
    async fn append_run(&mut self, first: u64, chunks: u64) -> Result<(), Error> {
        if chunks == 0 {
            return Err(Error::List {
                detail: "it has a run of no chunks".to_owned(),
            });
        }
        // Before anything is read: a run may claim to be of any length.
        self.check_length(chunks)?;
        let mut left = chunks;
        while left > 0 {
            let base = self.base.as_mut().ok_or_else(|| Error::List {
                detail: "it has a run, and does not say of which package".to_owned(),
            })?;
            let run = base.take(first + (chunks - left), left).await?;
            left -= run.len() as u64;
            let held = |chunk| Listed {
                chunk,
                is_held: true,
            };
            self.append(run.into_iter().map(held).collect()).await?;
        }
        Ok(())
    }

    fn check_length(&self, more: u64) -> Result<(), Error> {
        if more > MAX_LISTED_CHUNKS - self.listed {
            return Err(Error::List {
                detail: format!("it names more than {MAX_LISTED_CHUNKS} chunks"),
            });
        }
        Ok(())
    }

    /// Appends chunks to the list.
    async fn append(&mut self, page: Vec<Listed>) -> Result<(), Error> {
        self.check_length(page.len() as u64)?;
        let mut held = Vec::new();
        let mut lines = Vec::with_capacity(page.len() * LINE_BYTES);
        for Listed { chunk, is_held } in &page {
            if chunk.bytes == 0 || chunk.bytes as usize > MAX_CHUNK_BYTES {
                return Err(Error::List {
                    detail: format!(
                        "it has a chunk of {} bytes: they have 1 to {MAX_CHUNK_BYTES}",
                        chunk.bytes
                    ),
                });
            }
            if *is_held {
                held.push(*chunk);
                self.held += u64::from(chunk.bytes);
            }
            self.bytes += u64::from(chunk.bytes);
            self.digest.update(&chunk.bytes.to_le_bytes());
            self.digest.update(chunk.id.as_bytes());
            lines.extend_from_slice(chunk.id.as_bytes());
            lines.extend_from_slice(&chunk.bytes.to_le_bytes());
            lines.push(u8::from(*is_held));
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
        self.listed += page.len() as u64;
        Ok(())
    }

    /// Appends bytes of the blob that this one [leans on](Self::lean_on), from this place of it on, to `into`. They are
    /// verified there as whatever is read is.
    ///
    /// # Errors
    ///
    /// [`Error::List`] for bytes that it does not have, and for copies from so many places that finding them costs far
    /// more than sending them; [`Error::NotHeld`] if they cannot be read any more.
    pub async fn copy(&mut self, place: u64, bytes: u32, into: &mut BytesMut) -> Result<(), Error> {
        let base = self.base.as_mut().ok_or_else(|| Error::List {
            detail: "it takes bytes from a package, and does not say from which".to_owned(),
        })?;
        let most = self.bytes.saturating_mul(COPY_READS).max(COPY_READS_BYTES);
        base.copy(place, bytes, most, into).await
    }

    /// How many bytes the chunks that were named have together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many of them are in the store already.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held
    }

    /// BLAKE3 of the list: of each chunk in order, its length in four bytes, little-endian, and its BLAKE3. Whoever sent
    /// the list tells by it that what was understood is what was meant.
    #[must_use]
    pub fn list_digest(&self) -> Digest {
        Digest::from(*self.digest.finalize().as_bytes())
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
            // The next runs are read while this one is used.
            while self.reading.len() < READS && self.start().await? {}
            if let Some(reading) = self.reading.pop_front() {
                self.ready = self.collect(reading).await?;
                continue;
            }
            // What comes next is not held.
            return Ok(match self.page.pop_front() {
                None => Supply::End,
                Some(listed) => Supply::Wanted(listed.chunk),
            });
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
            Listed {
                chunk: ChunkRef {
                    id: ChunkId::from(id),
                    bytes: u32::from_le_bytes(bytes),
                },
                is_held: rest[4] == 1,
            }
        }));
        self.taken += count;
        Ok(())
    }

    /// Reads the run of held chunks that comes next in the background, and says whether one does.
    async fn start(&mut self) -> Result<bool, Error> {
        if self.page.is_empty() {
            self.turn_page().await?;
        }
        let mut run = Vec::new();
        let mut ahead = 0;
        while let Some(listed) = self.page.pop_front_if(|listed| listed.is_held) {
            ahead += u64::from(listed.chunk.bytes);
            run.push(listed.chunk);
            if ahead >= AHEAD_BYTES || run.len() == AHEAD_CHUNKS {
                break;
            }
        }
        if run.is_empty() {
            return Ok(false);
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
        let shared = Arc::clone(&self.shared);
        let task = tokio::task::spawn_blocking(move || {
            let read = shared.packs.read(&pieces)?;
            let chunks = pieces.iter().zip(read);
            Ok(chunks
                .map(|(piece, bytes)| Input::verified(piece.id, bytes))
                .collect())
        });
        self.reading.push_back(Reading {
            packs: found.into_values().collect(),
            task,
        });
        Ok(true)
    }

    /// Waits for what is being read in the background.
    async fn collect(&self, reading: Reading) -> Result<VecDeque<Input>, Error> {
        match reading.task.await {
            Ok(Ok(chunks)) => Ok(chunks),
            Ok(Err(PieceError::Failed(error))) => Err(error),
            Ok(Err(PieceError::Wrong { suspect, error })) => {
                self.shared.quarantine(suspect, &error).await;
                Err(Error::NotHeld)
            }
            // It is leased, so no collector has taken it away.
            Ok(Err(PieceError::Gone { name, error })) => {
                if let Some(stored) = reading.packs.iter().find(|stored| stored.name == name) {
                    let suspect = Suspect::Pack { pack: stored.pack };
                    self.shared.quarantine(suspect, &error).await;
                }
                Err(Error::NotHeld)
            }
            Err(_) => Err(Error::Defect { part: "assembly" }),
        }
    }
}

impl Base {
    /// Chunks of the list from this one on: as many as are at hand, at least one, and at most `most`.
    async fn take(&mut self, first: u64, most: u64) -> Result<Vec<ChunkRef>, Error> {
        if first < self.next {
            return Err(Error::List {
                detail: "its runs go back in the other package's list".to_owned(),
            });
        }
        while self.next + self.page.len() as u64 <= first {
            self.next += self.page.len() as u64;
            let part = match self.list.next().await {
                // A list that is not whole is as good as one that is not held: what it stands for can be sent.
                Err(Error::Corrupt { .. } | Error::NotFound { .. }) | Ok(None) => {
                    return Err(Error::NotHeld);
                }
                Ok(Some(part)) => part,
                Err(error) => return Err(error),
            };
            self.page = part.into();
        }
        let passed = usize::try_from(first - self.next).expect("less than a page");
        let count = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .min(self.page.len() - passed);
        self.page.drain(..passed);
        self.next = first + count as u64;
        Ok(self.page.drain(..count).collect())
    }

    async fn copy(
        &mut self,
        place: u64,
        bytes: u32,
        most: u64,
        into: &mut BytesMut,
    ) -> Result<(), Error> {
        let end = place
            .checked_add(u64::from(bytes))
            .filter(|end| *end <= self.list.blob().bytes)
            .ok_or_else(|| Error::List {
                detail: format!("the other package has no {bytes} bytes from byte {place} on"),
            })?;
        // What the copy before this one read is read once.
        let (begin, last) = &self.last;
        let passed = place.checked_sub(*begin).map(usize::try_from);
        let rest = match passed {
            Some(Ok(passed)) if passed < last.len() => last.slice(passed..),
            _ => Bytes::new(),
        };
        let mut left = bytes as usize;
        let mut take = |piece: &[u8]| {
            let wanted = piece.len().min(left);
            into.extend_from_slice(&piece[..wanted]);
            left -= wanted;
            left
        };
        let mut from = place + rest.len() as u64;
        if take(&rest) == 0 {
            return Ok(());
        }
        self.reader.seek(from, end);
        loop {
            if self.read >= most {
                return Err(Error::List {
                    detail: format!(
                        "it takes bytes from so many places of the other package that {} bytes were read for them: send them",
                        self.read
                    ),
                });
            }
            match self.reader.next().await {
                Ok(Some(piece)) => {
                    // All of the chunk is read and verified, also what is before the place.
                    self.read += piece.len().max(AVERAGE_CHUNK_BYTES) as u64;
                    let length = piece.len() as u64;
                    self.last = (from, piece);
                    from += length;
                    if take(&self.last.1) == 0 {
                        return Ok(());
                    }
                }
                // It was removed meanwhile, or is damaged: as good as not held.
                Ok(None) | Err(Error::Corrupt { .. } | Error::NotFound { .. }) => {
                    return Err(Error::NotHeld);
                }
                Err(error) => return Err(error),
            }
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
