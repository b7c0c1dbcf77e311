//! What is looked for: every window of every form, and how it is found.

use std::ops::Range;

use zeroize::Zeroize;

use super::forms::Shape;
use super::{LONG_WINDOW, SHORT_WINDOW, forms};

/// Bytes of the pieces that the filter knows.
const GRAM: usize = 4;

/// Bits of the filter for each piece: so that one in 64 pieces of ordinary text strikes it.
const FILTER_BITS_PER_GRAM: usize = 64;

/// The smallest filter, in bits: 2 KiB.
const FILTER_MIN_LOG2: u32 = 14;

/// The largest filter, in bits: 2 MiB, what a cache near the processor still holds.
const FILTER_MAX_LOG2: u32 = 24;

/// Windows that are collected at least before they are sorted: 32 MiB of them.
const UNTIDY: usize = 2 << 20;

/// The bits of a long window's number.
const LONG_MASK: u128 = (1 << (8 * LONG_WINDOW)) - 1;

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
            forms::each(secret, |shape| windows.add(shape, varied));
            windows.tidy();
        }
        windows.build_filter();
        windows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    /// Adds the new windows of a form; those that are nearly all one byte only when the secret, which is not `varied`, has
    /// no others.
    fn add(&mut self, shape: &Shape<'_>, varied: bool) {
        let Shape { form, window, new } = *shape;
        let is_long = window == LONG_WINDOW;
        let (mut short, mut long) = (0_u64, 0_u128);
        let mut variety = Variety::default();
        let mut last_new = None;
        for (at, &byte) in form.iter().enumerate() {
            if is_long {
                long = (long << 8 | u128::from(byte)) & LONG_MASK;
            } else {
                short = short << 8 | u64::from(byte);
            }
            variety.see(byte, at);
            if new.is_none_or(|new| new[at]) {
                last_new = Some(at);
            }
            let Some(start) = (at + 1).checked_sub(window) else {
                continue;
            };
            let is_new = last_new.is_some_and(|last| last >= start);
            if !is_new || (varied && !variety.is_varied_since(start)) {
                continue;
            }
            if is_long {
                self.long.push(long);
            } else {
                self.short.push(short);
            }
        }
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

/// How far back three different bytes go, as bytes are seen one after the other.
#[derive(Default)]
struct Variety {
    latest: Option<u8>,
    /// The byte before it that is another, and where it was last.
    second: Option<(u8, usize)>,
    /// Where a byte was last that is neither.
    third: Option<usize>,
}

impl Variety {
    fn see(&mut self, byte: u8, at: usize) {
        let Some(latest) = self.latest.replace(byte) else {
            return;
        };
        if latest == byte {
            return;
        }
        // What was last is now the second, and was here just before.
        let before = self.second.replace((latest, at - 1));
        if let Some((second, last)) = before
            && second != byte
        {
            self.third = Some(last);
        }
    }

    fn is_varied_since(&self, start: usize) -> bool {
        self.third.is_some_and(|third| third >= start)
    }
}

/// Whether a secret has a window of three different bytes, by which it is found.
fn is_varied(secret: &[u8]) -> bool {
    forms::lines(secret).any(|line| {
        let Some(window) = forms::line_window(secret, line) else {
            return false;
        };
        let mut variety = Variety::default();
        line.iter().enumerate().any(|(at, &byte)| {
            variety.see(byte, at);
            (at + 1)
                .checked_sub(window)
                .is_some_and(|start| variety.is_varied_since(start))
        })
    })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn of_forms_that_are_nearly_the_same_only_the_differences_are_collected() {
        let mut number = 1_u64;
        let secret: Vec<u8> = std::iter::repeat_with(|| {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            number.to_le_bytes()[3]
        })
        .take(16 << 10)
        .collect();
        let mut windows = Windows {
            short: Vec::new(),
            long: Vec::new(),
            filter: Vec::new(),
            filter_shift: 0,
            stride: 0,
            untidy: usize::MAX,
        };
        let mut all = 0;
        forms::each(&secret, |shape| {
            all += shape.form.len();
            windows.add(shape, true);
        });
        let collected = windows.long.len() + windows.short.len();
        windows.tidy();
        let distinct = windows.long.len() + windows.short.len();
        assert!(
            collected < distinct + distinct / 2 && collected < all / 2,
            "{all} {collected} {distinct}"
        );
    }

    #[test]
    fn variety_is_that_of_the_bytes_of_each_window() {
        let mut number = 12_345_u32;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Runs of few different bytes.
            b"aaaabbbc"[(number >> 28) as usize % 8] + u8::from(number >> 20 & 63 == 0)
        })
        .take(20_000)
        .collect();
        let mut variety = Variety::default();
        let mut varied = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            variety.see(byte, at);
            for length in [1, 3, 8, 12] {
                let Some(start) = (at + 1).checked_sub(length) else {
                    continue;
                };
                let different: BTreeSet<u8> = bytes[start..=at].iter().copied().collect();
                let is = different.len() >= 3;
                assert_eq!(variety.is_varied_since(start), is, "{at} {length}");
                varied += usize::from(is);
            }
        }
        assert!(varied > 1000 && varied < 70_000, "{varied}");
    }
}
