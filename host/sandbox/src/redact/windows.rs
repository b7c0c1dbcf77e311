//! What is looked for: every window of every form, and how it is found.

use std::ops::Range;

use zeroize::Zeroize;

use super::{LONG_WINDOW, SHORT_WINDOW, forms};

/// Bytes of the pieces that the filter knows.
const GRAM: usize = 4;

/// Bits of the filter for each piece: so that one in 64 pieces of ordinary text strikes it.
const FILTER_BITS_PER_GRAM: usize = 64;

/// The smallest filter, in bits: 2 KiB.
const FILTER_MIN_LOG2: u32 = 14;

/// The largest filter, in bits: 2 MiB, what a cache near the processor still holds.
const FILTER_MAX_LOG2: u32 = 24;

/// Windows that are collected at least before they are sorted.
const UNTIDY: usize = 4096;

/// Different bytes that a window has at least, when its secret has that many.
const VARIETY: usize = 3;

/// Every window of some secrets' forms, as numbers in their byte order: sorted, so that a window and a beginning of
/// one are found alike.
pub(super) struct Windows {
    short: Vec<u64>,
    long: Vec<u128>,
    /// Which pieces of [`GRAM`] bytes occur in any window: a bit each, by a hash.
    filter: Vec<u64>,
    filter_shift: u32,
    /// How far apart pieces are looked at: every window contains one of them.
    stride: usize,
    /// How many windows there may be before they are sorted and those that are there twice removed.
    untidy: usize,
}

impl Windows {
    pub(super) fn of<'a>(secrets: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut windows = Self {
            short: Vec::new(),
            long: Vec::new(),
            filter: Vec::new(),
            filter_shift: 0,
            stride: 0,
            untidy: UNTIDY,
        };
        for secret in secrets {
            let varied = is_varied(secret);
            forms::each(secret, |form, length| windows.add(form, length, varied));
            windows.tidy();
        }
        windows.build_filter();
        windows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    /// Adds the windows of a form; those that are nearly all one byte only when the secret is not `varied` either.
    fn add(&mut self, form: &[u8], length: usize, varied: bool) {
        for window in form.windows(length) {
            if varied && !is_varied(window) {
                continue;
            }
            if length == LONG_WINDOW {
                self.long.push(long_key(window));
            } else {
                self.short.push(short_key(window));
            }
        }
        // Most forms of most secrets are one and the same, and are not kept for long.
        if self.short.len() + self.long.len() > self.untidy {
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        self.short.sort_unstable();
        self.short.dedup();
        self.long.sort_unstable();
        self.long.dedup();
        self.untidy = 2 * (self.short.len() + self.long.len()) + UNTIDY;
    }

    fn build_filter(&mut self) {
        let per_window = LONG_WINDOW - GRAM + 1;
        let windows = self.short.len() + self.long.len();
        // Neighbouring windows share all their pieces but one.
        let wanted = windows.saturating_mul(FILTER_BITS_PER_GRAM).max(1).ilog2();
        let log2 = wanted.clamp(FILTER_MIN_LOG2, FILTER_MAX_LOG2);
        self.filter = vec![0; 1 << (log2 - 6)];
        self.filter_shift = u32::BITS - log2;
        let mut pieces = Vec::with_capacity(per_window);
        for index in 0..windows {
            pieces.clear();
            if let Some(key) = self.short.get(index) {
                let bytes = key.to_be_bytes();
                pieces.extend(bytes.windows(GRAM).map(gram));
            } else {
                let bytes = self.long[index - self.short.len()].to_be_bytes();
                let window = &bytes[bytes.len() - LONG_WINDOW..];
                pieces.extend(window.windows(GRAM).map(gram));
            }
            for piece in &pieces {
                let bit = self.bit(*piece);
                self.filter[bit / 64] |= 1 << (bit % 64);
            }
        }
        pieces.zeroize();
        let shortest = if self.short.is_empty() {
            LONG_WINDOW
        } else {
            SHORT_WINDOW
        };
        self.stride = shortest - GRAM + 1;
    }

    fn bit(&self, piece: u32) -> usize {
        // Fibonacci hashing: the high bits of a product by the golden ratio.
        (piece.wrapping_mul(0x9e37_79b1) >> self.filter_shift) as usize
    }

    /// Whether a piece may occur in a window.
    fn may_have(&self, piece: &[u8]) -> bool {
        let bit = self.bit(gram(piece));
        self.filter[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// The runs of text that windows cover, in order; runs that touch are one.
    pub(super) fn find(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(piece) = text.get(at..at + GRAM) {
            if self.may_have(piece) {
                self.look_around(text, at, &mut found);
            }
            at += self.stride;
        }
        merge(&mut found);
        found
    }

    /// Looks at every window that contains the piece at this place.
    fn look_around(&self, text: &[u8], at: usize, found: &mut Vec<Range<usize>>) {
        if !self.short.is_empty() {
            for start in at.saturating_sub(SHORT_WINDOW - GRAM)..=at {
                if let Some(window) = text.get(start..start + SHORT_WINDOW)
                    && self.short.binary_search(&short_key(window)).is_ok()
                {
                    found.push(start..start + SHORT_WINDOW);
                }
            }
        }
        if !self.long.is_empty() {
            for start in at.saturating_sub(LONG_WINDOW - GRAM)..=at {
                if let Some(window) = text.get(start..start + LONG_WINDOW)
                    && self.long.binary_search(&long_key(window)).is_ok()
                {
                    found.push(start..start + LONG_WINDOW);
                }
            }
        }
    }

    /// Where the longest end of the text begins that is the beginning of a window: from there on the text may turn
    /// out to be a secret's when more of it comes. The text's length when there is none.
    pub(super) fn undecided(&self, text: &[u8]) -> usize {
        let first = text.len().saturating_sub(LONG_WINDOW - 1);
        // No window has a line end in it.
        let first = text[first..]
            .iter()
            .rposition(|byte| matches!(byte, b'\n' | b'\r'))
            .map_or(first, |line_end| first + line_end + 1);
        (first..text.len())
            .find(|&start| self.begins_window(&text[start..]))
            .unwrap_or(text.len())
    }

    fn begins_window(&self, end: &[u8]) -> bool {
        if end.get(..GRAM).is_some_and(|piece| !self.may_have(piece)) {
            return false;
        }
        let missing = |window: usize| u32::try_from(8 * (window - end.len())).unwrap_or(u32::MAX);
        let begins_short = end.len() < SHORT_WINDOW && {
            let shift = missing(SHORT_WINDOW);
            let wanted = short_key(end) << shift;
            let at = self.short.partition_point(|window| *window < wanted);
            self.short
                .get(at)
                .is_some_and(|window| window >> shift == wanted >> shift)
        };
        begins_short || {
            let shift = missing(LONG_WINDOW);
            let wanted = long_key(end) << shift;
            let at = self.long.partition_point(|window| *window < wanted);
            self.long
                .get(at)
                .is_some_and(|window| window >> shift == wanted >> shift)
        }
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        self.short.zeroize();
        self.long.zeroize();
    }
}

fn gram(piece: &[u8]) -> u32 {
    piece
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// At most [`SHORT_WINDOW`] bytes as a number.
fn short_key(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// At most [`LONG_WINDOW`] bytes as a number.
fn long_key(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn is_varied(bytes: &[u8]) -> bool {
    let mut seen = [false; 256];
    let distinct = bytes
        .iter()
        .filter(|byte| !std::mem::replace(&mut seen[usize::from(**byte)], true));
    distinct.take(VARIETY).count() == VARIETY
}

fn merge(runs: &mut Vec<Range<usize>>) {
    if runs.len() < 2 {
        return;
    }
    runs.sort_unstable_by_key(|run| run.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(runs.len());
    for run in runs.drain(..) {
        match merged.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => merged.push(run),
        }
    }
    *runs = merged;
}
