//! What a frame consists of that takes bytes from the base: those that were sent, and where the others are.
//!
//! | part | bytes | what |
//! |---|---|---|
//! | parts | 4 | how many |
//! | part | 16 x parts | `u32` how many sent bytes come next, `u32` how many of the base then, `u64` where they begin there |
//! | sent | to the end | the sent bytes of all parts |

use bytes::{Buf as _, Bytes};

use super::chunks::ChunksError;

/// The bytes of one part's numbers.
const PART_BYTES: usize = 16;

/// The fewest bytes that are taken from the base at once: a block of a tar. Fewer cost more to find than to send.
const MIN_COPIED: u32 = 512;

/// One part of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Bytes that were sent.
    pub(crate) sent: Bytes,
    /// How many bytes of the base follow them; none only at the end.
    pub(crate) copied: u32,
    /// Where those begin in the base.
    pub(crate) place: u64,
}

/// Reads the recipe of a frame of this many bytes. Its parts have exactly as many together.
///
/// # Errors
///
/// [`ChunksError::Recipe`] for anything else.
pub(crate) fn parse(mut recipe: Bytes, bytes: u32) -> Result<Vec<Part>, ChunksError> {
    let wrong = |why: &'static str| ChunksError::Recipe(why);
    let count = recipe
        .try_get_u32_le()
        .map_err(|_| wrong("it is shorter than its first number"))? as usize;
    // Nothing is made for parts that are not there.
    if count > recipe.len() / PART_BYTES {
        return Err(wrong("it has fewer parts than it says"));
    }
    let mut numbers = recipe.split_to(count * PART_BYTES);
    let mut sent = recipe;
    let mut left = bytes;
    let mut parts = Vec::with_capacity(count);
    for at in 0..count {
        let (literal, copied) = (numbers.get_u32_le(), numbers.get_u32_le());
        let place = numbers.get_u64_le();
        if copied < MIN_COPIED && (copied > 0 || at + 1 < count) {
            return Err(wrong("a part takes less than 512 bytes from the base"));
        }
        left = left
            .checked_sub(literal)
            .and_then(|left| left.checked_sub(copied))
            .ok_or_else(|| wrong("its parts have more bytes than the frame"))?;
        let length = usize::try_from(literal)
            .ok()
            .filter(|length| *length <= sent.len())
            .ok_or_else(|| wrong("it has fewer bytes than its parts"))?;
        parts.push(Part {
            sent: sent.split_to(length),
            copied,
            place,
        });
    }
    match (left, sent.is_empty()) {
        (0, true) => Ok(parts),
        (0, false) => Err(wrong("it has more bytes than its parts")),
        _ => Err(wrong("its parts have fewer bytes than the frame")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn recipe(parts: &[(u32, u32, u64)], sent: &[u8]) -> Bytes {
        let mut bytes = u32::try_from(parts.len()).unwrap().to_le_bytes().to_vec();
        for (literal, copied, place) in parts {
            bytes.extend(literal.to_le_bytes());
            bytes.extend(copied.to_le_bytes());
            bytes.extend(place.to_le_bytes());
        }
        bytes.extend(sent);
        bytes.into()
    }

    #[test]
    fn a_recipe_is_what_it_says_to_the_last_byte() {
        let parts = parse(
            recipe(&[(2, 512, 7), (0, 600, 9), (3, 0, 0)], b"abcde"),
            1117,
        )
        .unwrap();
        let told: Vec<_> = parts
            .iter()
            .map(|part| (&part.sent[..], part.copied, part.place))
            .collect();
        assert_eq!(told, [(&b"ab"[..], 512, 7), (b"", 600, 9), (b"cde", 0, 0)]);
        for (parts, sent, bytes) in [
            (&[(2, 512, 7)][..], &b"ab"[..], 513),
            (&[(2, 512, 7)], b"ab", 515),
            (&[(2, 512, 7)], b"a", 514),
            (&[(2, 512, 7)], b"abc", 514),
            (&[(2, 511, 7)], b"ab", 513),
            (&[(1, 0, 0), (1, 0, 0)], b"ab", 2),
            (&[(u32::MAX, u32::MAX, 0)], b"", u32::MAX),
            (&[], b"", 1),
        ] {
            let found = parse(recipe(parts, sent), bytes);
            assert!(matches!(found, Err(ChunksError::Recipe(_))), "{parts:?}");
        }
        // However many parts it claims to have.
        for claimed in [2, u32::MAX] {
            let mut bytes = recipe(&[(0, 512, 0)], b"").to_vec();
            bytes[..4].copy_from_slice(&claimed.to_le_bytes());
            assert!(parse(bytes.into(), 512).is_err());
        }
        for short in 0..4 {
            assert!(parse(Bytes::from(vec![0; short]), 1).is_err());
        }
    }
}
