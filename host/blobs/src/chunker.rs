//! Content-defined cutting: where one chunk ends and the next begins depends on the bytes alone, so an edit
//! moves few cuts.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{self, Normalization};
use serde::{Deserialize, Serialize};

/// No chunk but the last of a blob is shorter, or one that is followed by a chunk which the store had.
pub const MIN_CHUNK_BYTES: usize = 16 * 1024;
/// What the cutter aims at: small enough that an edit costs little, large enough that a 4 GiB blob has
/// 65,000 chunks and not a million.
pub const AVERAGE_CHUNK_BYTES: usize = 64 * 1024;
/// No chunk is longer.
pub const MAX_CHUNK_BYTES: usize = 256 * 1024;

/// Room for a few chunks, so that what is carried over to the next buffer is a small share of it.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Buffers that are kept until nobody has a chunk of them any more: what is in flight behind the cutter, and one more. Fresh
/// memory costs the system a page at a time, a tenth of all that writing a blob costs.
const SPENT_BUFFERS: usize = 6;

/// What cut a blob. Two blobs share chunks only if these agree, so every manifest records them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParams {
    /// The algorithm.
    pub name: String,
    /// Goes up when the same parameters cut the same bytes elsewhere (a test pins the cuts).
    pub version: u32,
    /// Least bytes of a chunk that is not the last.
    pub min: u32,
    /// Average that is aimed at.
    pub average: u32,
    /// Most bytes of a chunk.
    pub max: u32,
    /// `FastCDC`'s normalisation level.
    pub normalization: u32,
}

/// The algorithm of [`ChunkerParams::name`].
const NAME: &str = "fastcdc-2020";

/// See [`ChunkerParams::version`].
const VERSION: u32 = 1;

/// The longest chunk that [`Chunker::new`] agrees to: a client that cuts for a server has to hold a few of them.
const MAX_SUPPORTED_CHUNK: u32 = 4 * 1024 * 1024;

impl Default for ChunkerParams {
    /// What this version cuts with.
    fn default() -> ChunkerParams {
        ChunkerParams {
            name: NAME.to_owned(),
            version: VERSION,
            min: 16 * 1024,
            average: 64 * 1024,
            max: 256 * 1024,
            normalization: Normalization::Level1.bits(),
        }
    }
}

/// Cuts a stream that comes in blocks of any size. Every byte is scanned once: a cut is looked for only
/// when a whole longest chunk, or the end of the stream, is at hand.
#[derive(Debug)]
pub struct Chunker {
    buffer: BytesMut,
    /// Buffers before it, oldest first.
    spent: VecDeque<BytesMut>,
    min: usize,
    average: usize,
    max: usize,
    mask_short: u64,
    mask_long: u64,
}

impl Chunker {
    /// A chunker that cuts as these say, at the start of a stream; `None` if they name an algorithm, a version or
    /// sizes that are not known here.
    #[must_use]
    pub fn new(params: &ChunkerParams) -> Option<Chunker> {
        let level = match params.normalization {
            0 => Normalization::Level0,
            1 => Normalization::Level1,
            2 => Normalization::Level2,
            3 => Normalization::Level3,
            _ => return None,
        };
        let (min, average, max) = (params.min, params.average, params.max);
        // What fastcdc asserts, and an order without which a cut could be longer than `max`.
        let sizes = (64..=1024 * 1024).contains(&min)
            && (256..=4 * 1024 * 1024).contains(&average)
            && (1024..=MAX_SUPPORTED_CHUNK).contains(&max)
            && min <= average
            && average <= max
            && [min, average, max].iter().all(|size| size % 2 == 0);
        if params.name != NAME || params.version != VERSION || !sizes {
            return None;
        }
        let (mask_short, mask_long) = v2020::select_masks(average as usize, level);
        Some(Chunker {
            buffer: BytesMut::new(),
            spent: VecDeque::new(),
            min: min as usize,
            average: average as usize,
            max: max as usize,
            mask_short,
            mask_long,
        })
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, block: &[u8]) {
        let free = self.buffer.capacity() - self.buffer.len();
        if free < block.len() {
            let mut next = self.room_for(BUFFER_BYTES.max(self.buffer.len() + block.len()));
            next.extend_from_slice(&self.buffer);
            let mut spent = std::mem::replace(&mut self.buffer, next);
            if self.spent.len() < SPENT_BUFFERS && spent.capacity() > 0 {
                spent.clear();
                self.spent.push_back(spent);
            }
        }
        self.buffer.extend_from_slice(block);
    }

    /// An empty buffer: the oldest that is spent, if nobody has a chunk of it any more.
    fn room_for(&mut self, bytes: usize) -> BytesMut {
        if let Some(oldest) = self.spent.front_mut()
            && oldest.try_reclaim(bytes)
            && let Some(free) = self.spent.pop_front()
        {
            return free;
        }
        BytesMut::with_capacity(bytes)
    }

    /// The next chunk, if its end is certain. `last` says that no more bytes will come.
    pub fn next(&mut self, last: bool) -> Option<Bytes> {
        if self.buffer.is_empty() || (self.buffer.len() < self.max && !last) {
            return None;
        }
        let (_, cut) = v2020::cut(
            &self.buffer,
            self.min,
            self.average,
            self.max,
            self.mask_short,
            self.mask_long,
            self.mask_short << 1,
            self.mask_long << 1,
        );
        Some(self.buffer.split_to(cut).freeze())
    }

    /// What was pushed and makes no whole chunk yet: less than the longest chunk, once [`next`](Chunker::next) has
    /// nothing more.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

    use super::*;
    use crate::testing::noise;

    fn cuts(data: &[u8], block: usize) -> Vec<usize> {
        let mut chunker = Chunker::new(&ChunkerParams::default()).unwrap();
        let mut lengths = Vec::new();
        for block in data.chunks(block) {
            chunker.push(block);
            lengths.extend(std::iter::from_fn(|| chunker.next(false)).map(|chunk| chunk.len()));
        }
        lengths.extend(std::iter::from_fn(|| chunker.next(true)).map(|chunk| chunk.len()));
        lengths
    }

    #[test]
    fn the_cuts_do_not_depend_on_how_the_bytes_arrive() {
        let data = noise(1, 3_000_001);
        let whole = cuts(&data, data.len());
        assert_eq!(whole.iter().sum::<usize>(), data.len());
        for block in [1_000, 65_536, 100_003] {
            assert_eq!(cuts(&data, block), whole);
        }
        for &length in &whole[..whole.len() - 1] {
            assert!((MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&length));
        }
    }

    #[test]
    fn a_buffer_is_used_again_when_its_chunks_are_gone_and_no_sooner() {
        let data = noise(3, 20 << 20);
        let mut chunker = Chunker::new(&ChunkerParams::default()).unwrap();
        let mut places = std::collections::HashSet::new();
        let (mut held, mut length) = (VecDeque::new(), 0);
        for block in data.chunks(64 << 10) {
            chunker.push(block);
            while let Some(chunk) = chunker.next(false) {
                assert!(chunk == data[length..length + chunk.len()]);
                places.insert(chunk.as_ptr() as usize >> 20);
                length += chunk.len();
                held.push_back((length - chunk.len(), chunk));
                // As the stages behind the cutter do: what is in flight is let go in order.
                if held.len() > 40 {
                    let (at, chunk) = held.pop_front().unwrap();
                    assert!(chunk == data[at..at + chunk.len()]);
                }
            }
        }
        assert!(places.len() <= 2 * SPENT_BUFFERS, "{}", places.len());
        // Somebody who lets nothing go costs new buffers, and no more.
        assert!(chunker.spent.len() <= SPENT_BUFFERS);
    }

    #[test]
    fn a_chunker_that_is_not_known_here_is_not_guessed_at() {
        let known = ChunkerParams::default();
        assert!(Chunker::new(&known).is_some());
        type Change = fn(&mut ChunkerParams);
        let changes: [Change; 9] = [
            |params| params.name = "fastcdc-2016".to_owned(),
            |params| params.version = 2,
            |params| params.normalization = 4,
            |params| params.min = 0,
            |params| params.min = params.average + 2,
            |params| params.max = params.average - 2,
            |params| params.max = u32::MAX - 1,
            |params| params.average += 1,
            |params| (params.min, params.average, params.max) = (2, 2, 2),
        ];
        for change in changes {
            let mut params = known.clone();
            change(&mut params);
            assert!(Chunker::new(&params).is_none(), "{params:?}");
        }
    }

    #[test]
    fn version_one_cuts_here_for_ever() {
        // If this fails, the crate changed its cuts: raise `ChunkerParams::version`, or nothing dedups.
        let lengths = cuts(&noise(7, 1_000_000), 1_000_000);
        assert_eq!(lengths, PINNED);
        assert_eq!(cuts(&vec![0; 600_000], 600_000), [262_144, 262_144, 75_712]);
    }

    const PINNED: &[usize] = &[
        31171, 38807, 128_500, 79518, 159_009, 45867, 78194, 29481, 23786, 64711, 113_199, 119_548,
        75947, 12262,
    ];
}
