//! Which chunks live: a set that may take a few dead chunks for living ones, and never a living one for dead.
//!
//! A Bloom filter in blocks of one cache line. What it wrongly keeps is kept until the next collection, which
//! asks with other random bits. So millions of chunks take a few bytes each, and any number takes no more than
//! [`MOST_BYTES`].

use uuid::Uuid;

use crate::ChunkId;

/// The most memory the set takes: at 16 million chunks one in 100,000 dead ones is kept, at 100 million
/// one in 30.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// How many bytes each chunk gets while there is room.
const BYTES_PER_CHUNK: u64 = 4;

/// How many bits of its block stand for a chunk: with nine random bits for each, what a word holds.
const PROBES: u32 = 7;

/// A cache line.
type Block = [u64; 8];
const BLOCK_BYTES: u64 = size_of::<Block>() as u64;

/// See the module.
#[derive(Debug)]
pub(super) struct LiveSet {
    blocks: Vec<Block>,
    seed: u64,
}

impl LiveSet {
    /// A set for about this many chunks.
    pub(super) fn sized(chunks: u64) -> LiveSet {
        let bytes = chunks.saturating_mul(BYTES_PER_CHUNK).min(MOST_BYTES);
        let blocks =
            usize::try_from(bytes.div_ceil(BLOCK_BYTES).max(1)).expect("MOST_BYTES fit in memory");
        LiveSet {
            blocks: vec![Block::default(); blocks],
            // The last of a UUID's words is random.
            seed: Uuid::now_v7().as_u64_pair().1,
        }
    }

    pub(super) fn insert(&mut self, id: &ChunkId) {
        let (block, mut probes) = self.place(id);
        let block = &mut self.blocks[block];
        for _ in 0..PROBES {
            block[(probes >> 6 & 7) as usize] |= 1 << (probes & 63);
            probes >>= 9;
        }
    }

    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        let (block, mut probes) = self.place(id);
        let block = &self.blocks[block];
        (0..PROBES).all(|_| {
            let set = block[(probes >> 6 & 7) as usize] >> (probes & 63) & 1;
            probes >>= 9;
            set == 1
        })
    }

    /// The chunk's block, and a word of bits. An id is a BLAKE3, so its words are random already; the seed makes
    /// them other ones for each set.
    fn place(&self, id: &ChunkId) -> (usize, u64) {
        let bytes = id.as_bytes();
        let word = |at: usize| {
            u64::from_le_bytes(
                bytes[at..at + 8]
                    .try_into()
                    .expect("a slice of 8 bytes is an array of 8 bytes"),
            )
        };
        let block = mixed(word(0) ^ self.seed);
        let blocks = self.blocks.len() as u128;
        let block = usize::try_from((u128::from(block) * blocks) >> 64)
            .expect("less than the number of blocks");
        (block, mixed(word(8) ^ self.seed.rotate_left(32)))
    }
}

/// The end of splitmix64: every bit of the result depends on every bit of the word.
fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(from: u32, count: u32) -> impl Iterator<Item = ChunkId> {
        (from..from + count).map(|n| ChunkId::blake3(&n.to_le_bytes()))
    }

    #[test]
    fn what_lives_is_never_taken_for_dead_and_little_that_is_dead_for_living() {
        let mut live = LiveSet::sized(100_000);
        for id in ids(0, 100_000) {
            live.insert(&id);
        }
        assert!(ids(0, 100_000).all(|id| live.contains(&id)));
        let kept = ids(1_000_000, 200_000)
            .filter(|id| live.contains(id))
            .count();
        assert!(kept < 60, "{kept} of 200,000 dead chunks are kept");
    }

    #[test]
    fn what_one_set_wrongly_keeps_the_next_one_does_not() {
        let wrong = |few: &LiveSet| {
            ids(1_000_000, 200_000)
                .filter(|id| few.contains(id))
                .collect::<std::collections::HashSet<_>>()
        };
        // Far too small, so that there is something to see.
        let mut sets = [LiveSet::sized(20_000), LiveSet::sized(20_000)];
        for live in &mut sets {
            ids(0, 100_000).for_each(|id| live.insert(&id));
            assert!(ids(0, 100_000).all(|id| live.contains(&id)));
        }
        let [first, second] = sets.map(|live| wrong(&live));
        assert!(first.len() > 1000, "{}", first.len());
        let both = first.intersection(&second).count();
        assert!(both < first.len() / 2, "{both} of {}", first.len());
    }

    #[test]
    fn memory_is_bounded_whatever_the_number_of_chunks_is() {
        let live = LiveSet::sized(u64::MAX);
        assert_eq!(live.blocks.len() as u64 * BLOCK_BYTES, MOST_BYTES);
        let mut live = LiveSet::sized(0);
        ids(0, 3).for_each(|id| live.insert(&id));
        assert!(ids(0, 3).all(|id| live.contains(&id)));
    }
}
