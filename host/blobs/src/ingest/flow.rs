//! The bytes of one upload between the writer, the pipeline and those who follow it.
//!
//! What was received but is not yet in a pack is the *window*: blocks in memory, bounded by [`WINDOW_BYTES`];
//! the writer waits while it is full. The pipeline takes the blocks in order and reports which bytes are in
//! a pack. A follower that keeps up copies from the window, down to the last byte that arrived; one that
//! lags reads what is in a pack already from there. So a follower never holds anything up and never makes
//! anything grow.
//!
//! A byte's way, and where a follower finds it:
//!
//! ```text
//!     0 ........ committed ........ appended ........ received
//!      the index     `recent`: the      the window
//!      names it      open packs hold it
//! ```

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::reader::{Piece, Place};
use crate::{ChunkId, Error};

/// How many bytes may wait between the writer and the packs: room for every stage to work ahead of the
/// next one, and several times the longest chunk, without which nothing could be cut.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// How many blocks may wait, however short they are: somebody may put a blob together from chunks of one byte. It is more
/// than the stages behind have at a time, or they would wait for one another.
const WINDOW_BLOCKS: usize = 2048;

/// Small writes are gathered into blocks of this size before the pipeline takes them. (Followers see them
/// at once.)
const BLOCK_BYTES: usize = 128 * 1024;

/// A write of so many bytes is a block as it is, which spares copying it. What it is a part of may be twice as long: that
/// bounds what a window of such blocks holds on to.
const DIRECT_BYTES: usize = 32 * 1024;

/// The largest such block: the cutter's buffer has room for it beside what is left of the one before.
const MOST_DIRECT_BYTES: usize = 512 * 1024;

/// How many bytes of packed chunks a follower is told of at once.
const STEP_BYTES: u64 = 1024 * 1024;

/// A chunk that is in a pack which the index does not name yet, or that was found in one.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) id: ChunkId,
    pub(crate) bytes: u32,
    pub(crate) place: Place,
}

/// What a follower finds at its position.
#[derive(Debug)]
pub(crate) enum Step {
    /// Bytes, from memory.
    Bytes(Bytes),
    /// Chunks to read from packs.
    Pieces(Vec<Piece>),
    /// The index knows.
    Indexed,
    /// Nothing yet.
    Wait,
    /// The end of a whole blob.
    End,
    /// The upload failed.
    Failed(Error),
}

/// Bytes on their way to the pipeline.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) bytes: Bytes,
    /// Whether they are a chunk, and which.
    pub(super) chunk: Option<ChunkId>,
}

#[derive(Debug)]
enum Phase {
    /// The writer writes.
    Receiving,
    /// The writer has said that it was all.
    Finishing,
    /// The writer has said that it was all for now.
    Suspending,
    /// Every byte is in a pack and the digests are known.
    Complete,
    /// It came to nothing.
    Failed(Error),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Flow {
    state: Mutex<State>,
    /// A block is there for the pipeline.
    block: Condvar,
    /// There is room for the writer.
    room: Notify,
    /// There is something new for the followers.
    news: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    received: u64,
    appended: u64,
    committed: u64,
    /// Whole blocks of the window, and where the first one begins.
    window: VecDeque<Block>,
    window_start: u64,
    /// How many of them, counted from the back, the pipeline has not taken.
    untaken: usize,
    /// The block that is being filled, after the window's last.
    filling: BytesMut,
    /// From `committed` to `appended`.
    recent: VecDeque<Recent>,
}

impl Flow {
    /// The flow of an upload of which the index names the first `position` bytes.
    pub(crate) fn at(position: u64) -> Flow {
        Flow {
            state: Mutex::new(State {
                phase: Phase::Receiving,
                received: position,
                appended: position,
                committed: position,
                window: VecDeque::new(),
                window_start: position,
                untaken: 0,
                filling: BytesMut::new(),
                recent: VecDeque::new(),
            }),
            block: Condvar::new(),
            room: Notify::new(),
            news: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock leaves the state half changed when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes from the writer; waits while the window is full.
    pub(super) async fn write(&self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let taken = self.state().accept(&bytes)?;
            if taken == 0 {
                room.await;
                continue;
            }
            bytes = bytes.slice(taken..);
            self.block.notify_one();
            self.news.notify_waiters();
        }
        // An empty write, too, learns that the upload has failed.
        self.failure().map_or(Ok(()), Err)
    }

    /// Takes a chunk from the writer; waits while there is no room for all of it.
    pub(super) async fn write_chunk(&self, chunk: ChunkId, bytes: Bytes) -> Result<(), Error> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.state().accept_chunk(chunk, &bytes)? {
                break;
            }
            room.await;
        }
        self.block.notify_one();
        self.news.notify_waiters();
        Ok(())
    }

    /// Takes the writer's word that it was all.
    pub(super) fn finish(&self) {
        self.end(Phase::Finishing);
    }

    /// Takes the writer's word that it was all for now.
    pub(super) fn suspend(&self) {
        self.end(Phase::Suspending);
    }

    fn end(&self, phase: Phase) {
        let mut state = self.state();
        state.seal_block();
        if matches!(state.phase, Phase::Receiving) {
            state.phase = phase;
        }
        drop(state);
        self.block.notify_one();
    }

    /// Whether it was only all for now.
    pub(super) fn is_suspending(&self) -> bool {
        matches!(self.state().phase, Phase::Suspending)
    }

    /// How many bytes the writer has written.
    pub(super) fn received(&self) -> u64 {
        self.state().received
    }

    /// Ends it with an error, unless it has ended with one already.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Failed(_)) {
            state.phase = Phase::Failed(error);
            state.window = VecDeque::new();
            state.untaken = 0;
            state.filling = BytesMut::new();
            state.recent = VecDeque::new();
        }
        drop(state);
        self.block.notify_one();
        self.room.notify_waiters();
        self.news.notify_waiters();
    }

    /// Why it came to nothing, if it did.
    pub(super) fn failure(&self) -> Option<Error> {
        match &self.state().phase {
            Phase::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// The next block for the pipeline, `None` after the last. Blocks.
    pub(super) fn take_block(&self) -> Result<Option<Block>, Error> {
        let mut state = self.state();
        loop {
            if let Phase::Failed(error) = &state.phase {
                return Err(error.clone());
            }
            if state.untaken > 0 {
                let at = state.window.len() - state.untaken;
                state.untaken -= 1;
                return Ok(Some(state.window[at].clone()));
            }
            if matches!(state.phase, Phase::Finishing | Phase::Suspending) {
                return Ok(None);
            }
            state = self
                .block
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that these chunks, the next in order, are in packs.
    pub(super) fn appended(&self, chunks: impl IntoIterator<Item = Recent>) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Failed(_)) {
            return;
        }
        for chunk in chunks {
            state.appended += u64::from(chunk.bytes);
            state.recent.push_back(chunk);
        }
        while let Some(first) = state.window.front() {
            let end = state.window_start + first.bytes.len() as u64;
            if end > state.appended {
                break;
            }
            state.window_start = end;
            state.window.pop_front();
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Says that the index names everything before this byte.
    pub(super) fn committed(&self, until: u64) {
        let mut state = self.state();
        while let Some(first) = state.recent.front() {
            let end = state.committed + u64::from(first.bytes);
            if end > until {
                break;
            }
            state.committed = end;
            state.recent.pop_front();
        }
    }

    /// Says that all bytes are in packs and the digests are known: followers may see the end.
    pub(super) fn complete(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Finishing) {
            state.phase = Phase::Complete;
        }
        drop(state);
        self.news.notify_waiters();
    }

    /// What a follower finds at this byte.
    pub(crate) fn step(&self, position: u64) -> Step {
        self.state().step(position)
    }

    /// Waits until there is something other than [`Step::Wait`] at this byte.
    pub(crate) async fn arrival(&self, position: u64) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let state = self.state();
                if position < state.received
                    || matches!(state.phase, Phase::Complete | Phase::Failed(_))
                {
                    return;
                }
            }
            news.await;
        }
    }
}

impl State {
    /// Takes as many of these bytes as there is room for in the window and in one block.
    fn accept(&mut self, bytes: &Bytes) -> Result<usize, Error> {
        if let Phase::Failed(error) = &self.phase {
            return Err(error.clone());
        }
        let room = self.room();
        let direct = bytes.len().min(MOST_DIRECT_BYTES);
        if direct >= DIRECT_BYTES && direct as u64 <= room {
            self.push(bytes.slice(..direct), None);
            return Ok(direct);
        }
        let taken = bytes
            .len()
            .min(BLOCK_BYTES - self.filling.len())
            .min(usize::try_from(room).unwrap_or(usize::MAX));
        if taken == 0 {
            return Ok(0);
        }
        if self.filling.capacity() < BLOCK_BYTES {
            // Never grown afterwards: a dribble costs one allocation for each block.
            self.filling.reserve(BLOCK_BYTES - self.filling.len());
        }
        self.filling.extend_from_slice(&bytes[..taken]);
        self.received += taken as u64;
        if self.filling.len() == BLOCK_BYTES {
            self.seal_block();
        }
        Ok(taken)
    }

    /// Takes these bytes, which are a chunk, if there is room for them.
    fn accept_chunk(&mut self, chunk: ChunkId, bytes: &Bytes) -> Result<bool, Error> {
        if let Phase::Failed(error) = &self.phase {
            return Err(error.clone());
        }
        if bytes.len() as u64 > self.room() || self.window.len() >= WINDOW_BLOCKS {
            return Ok(false);
        }
        self.push(bytes.clone(), Some(chunk));
        Ok(true)
    }

    /// Takes a block as it is.
    fn push(&mut self, bytes: Bytes, chunk: Option<ChunkId>) {
        self.seal_block();
        self.received += bytes.len() as u64;
        self.window.push_back(Block { bytes, chunk });
        self.untaken += 1;
    }

    /// For how many bytes the window has room.
    fn room(&self) -> u64 {
        WINDOW_BYTES.saturating_sub(self.received - self.appended)
    }

    fn seal_block(&mut self) {
        if !self.filling.is_empty() {
            self.window.push_back(Block {
                bytes: std::mem::take(&mut self.filling).freeze(),
                chunk: None,
            });
            self.untaken += 1;
        }
    }

    fn step(&self, position: u64) -> Step {
        if let Phase::Failed(error) = &self.phase {
            return Step::Failed(error.interrupted());
        }
        if position < self.committed {
            return Step::Indexed;
        }
        if position >= self.window_start && position < self.received {
            return Step::Bytes(self.window_bytes(position));
        }
        if position < self.appended {
            return Step::Pieces(self.recent_pieces(position));
        }
        match self.phase {
            Phase::Complete => Step::End,
            _ => Step::Wait,
        }
    }

    /// The rest of the block that has this byte.
    fn window_bytes(&self, position: u64) -> Bytes {
        let mut skip =
            usize::try_from(position - self.window_start).expect("the window is a few MiB long");
        for block in &self.window {
            if skip < block.bytes.len() {
                return block.bytes.slice(skip..);
            }
            skip -= block.bytes.len();
        }
        Bytes::copy_from_slice(&self.filling[skip..])
    }

    /// A run of chunks, from the one that has this byte.
    fn recent_pieces(&self, position: u64) -> Vec<Piece> {
        let mut start = self.committed;
        let mut pieces = Vec::new();
        let mut told = 0;
        for chunk in &self.recent {
            let end = start + u64::from(chunk.bytes);
            if end > position {
                let skip = position.saturating_sub(start);
                pieces.push(Piece {
                    id: chunk.id,
                    bytes: chunk.bytes,
                    skip: u32::try_from(skip).expect("less than the chunk's length"),
                    place: chunk.place.clone(),
                });
                told += end - start;
                if told >= STEP_BYTES {
                    break;
                }
            }
            start = end;
        }
        pieces
    }
}
