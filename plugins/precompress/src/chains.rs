//! Finding matches for zstd.
//!
//! ruzstd's own match finder keeps one candidate per hash and looks 128 KiB back: its files come out larger
//! than gzip's, and a client that takes zstd takes gzip too. This one keeps chains of candidates over the
//! whole asset and looks one byte ahead before it settles for a match.

use ruzstd::encoding::{CompressionLevel, Matcher, Sequence};

/// The most that every client takes for zstd as a content encoding (RFC 9659): 8 MiB.
const LARGEST_WINDOW: usize = 8 * 1024 * 1024;

/// The largest block of the format.
const BLOCK: usize = 128 * 1024;

/// Shorter matches cost as much as what they stand for.
const SHORTEST: usize = 4;

/// Longer matches are split, so that lengths stay inside the format's codes.
const LONGEST: usize = 64 * 1024;

/// A match this long is taken without looking further.
const LONG_ENOUGH: usize = 128;

/// How many candidates are compared. More gains less than a per cent.
const CANDIDATES: usize = 64;

const HASH_BITS: u32 = 16;

/// No position.
const NONE: u32 = u32::MAX;

/// All of the asset that was committed so far, and chains through the positions whose next four bytes hash
/// alike.
#[derive(Debug)]
pub(crate) struct Chains {
    window: usize,
    data: Vec<u8>,
    /// Where the last block begins.
    block: usize,
    /// The first position that is not in a chain yet.
    linked: usize,
    heads: Vec<u32>,
    previous: Vec<u32>,
}

impl Chains {
    pub(crate) fn new(len: usize) -> Chains {
        Chains {
            window: len.next_power_of_two().clamp(1024, LARGEST_WINDOW),
            data: Vec::with_capacity(len),
            block: 0,
            linked: 0,
            heads: vec![NONE; 1 << HASH_BITS],
            previous: Vec::with_capacity(len),
        }
    }

    fn hash(&self, at: usize) -> usize {
        let bytes: [u8; SHORTEST] = self.data[at..at + SHORTEST]
            .try_into()
            .expect("the range is of that length");
        (u32::from_le_bytes(bytes).wrapping_mul(0x9E37_79B1) >> (u32::BITS - HASH_BITS)) as usize
    }

    /// Puts every position before `end` into its chain.
    fn link(&mut self, end: usize) {
        let last = self.data.len().saturating_sub(SHORTEST - 1).min(end);
        while self.linked < last {
            let hash = self.hash(self.linked);
            self.previous.push(self.heads[hash]);
            self.heads[hash] = u32::try_from(self.linked).unwrap_or(NONE);
            self.linked += 1;
        }
    }

    /// The longest match for what begins at `at`: how far back, and how long.
    fn longest(&self, at: usize) -> Option<(usize, usize)> {
        if at + SHORTEST > self.data.len() {
            return None;
        }
        let limit = (self.data.len() - at).min(LONGEST);
        let here = &self.data[at..at + limit];
        let mut best = (0, SHORTEST - 1);
        let mut candidate = self.heads[self.hash(at)];
        for _ in 0..CANDIDATES {
            let Some(from) = usize::try_from(candidate)
                .ok()
                .filter(|_| candidate != NONE)
            else {
                break;
            };
            if from >= at {
                candidate = self.previous[from];
                continue;
            }
            if at - from > self.window {
                break;
            }
            let there = &self.data[from..];
            // Where the best so far ends decides before everything is compared.
            if there.get(best.1) == here.get(best.1) {
                let len = here.iter().zip(there).take_while(|(a, b)| a == b).count();
                if len > best.1 {
                    best = (at - from, len);
                    if len >= LONG_ENOUGH.min(limit) {
                        break;
                    }
                }
            }
            candidate = self.previous[from];
        }
        (best.1 >= SHORTEST).then_some(best)
    }
}

impl Matcher for Chains {
    fn get_next_space(&mut self) -> Vec<u8> {
        vec![0; BLOCK]
    }

    fn get_last_space(&mut self) -> &[u8] {
        &self.data[self.block..]
    }

    fn commit_space(&mut self, space: Vec<u8>) {
        self.block = self.data.len();
        self.data.extend_from_slice(&space);
    }

    fn skip_matching(&mut self) {
        self.link(self.data.len());
    }

    fn start_matching(&mut self, mut handle_sequence: impl for<'a> FnMut(Sequence<'a>)) {
        let end = self.data.len();
        let mut literals = self.block;
        let mut at = self.block;
        while at < end {
            self.link(at);
            let Some((mut offset, mut len)) = self.longest(at) else {
                at += 1;
                continue;
            };
            // A longer match that begins one byte later is worth the literal.
            while len < LONG_ENOUGH && at + 1 < end {
                self.link(at + 1);
                match self.longest(at + 1) {
                    Some((later, longer)) if longer > len + 1 => {
                        (offset, len) = (later, longer);
                        at += 1;
                    }
                    _ => break,
                }
            }
            handle_sequence(Sequence::Triple {
                literals: &self.data[literals..at],
                offset,
                match_len: len,
            });
            at += len;
            literals = at;
        }
        self.link(end);
        if literals < end {
            handle_sequence(Sequence::Literals {
                literals: &self.data[literals..end],
            });
        }
    }

    fn reset(&mut self, _level: CompressionLevel) {
        self.data.clear();
        self.block = 0;
        self.linked = 0;
        self.heads.fill(NONE);
        self.previous.clear();
    }

    fn window_size(&self) -> u64 {
        self.window as u64
    }
}
