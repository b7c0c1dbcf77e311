//! A manifest from the parts that packs have of it.
//!
//! There may be more parts than it takes. An append that dies between the naming of a pack and the commit that makes
//! it known leaves parts that nobody was told of; the next one begins before them and writes its own.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::{EncodedPart, Part};
use crate::BlobInfo;

/// Those of these parts that follow one another from the blob's first byte to its last; `None` if there is no such
/// row of them. Of two that begin at the same place and lead to the end, the one that is later in the list: what an
/// append wrote counts more than what one before it wrote there, because that was never told to anybody.
pub(crate) fn chain(
    info: &BlobInfo,
    parts: Vec<(Part, EncodedPart)>,
) -> Option<Vec<(Part, EncodedPart)>> {
    let end = (info.bytes, info.chunks);
    let mut order: Vec<usize> = (0..parts.len())
        .filter(|n| !parts[*n].0.chunks.is_empty())
        .collect();
    // From the last byte to the first, and of equals the later one last, so that it replaces the others.
    order.sort_by_key(|n| Reverse(parts[*n].0.first_byte));
    let mut leading: HashMap<(u64, u64), usize> = HashMap::new();
    for n in order {
        let (place, next) = (place(&parts[n].0), place(&parts[n].0.following()));
        if next == end || leading.contains_key(&next) {
            leading.insert(place, n);
        }
    }
    let mut parts: Vec<_> = parts.into_iter().map(Some).collect();
    let mut chain = Vec::new();
    let mut at = (0, 0);
    while at != end {
        let taken = parts[*leading.get(&at)?].take()?;
        at = place(&taken.0.following());
        chain.push(taken);
    }
    Some(chain)
}

/// Where a part begins: at which byte, and at which chunk.
fn place(part: &Part) -> (u64, u64) {
    (part.first_byte, part.first_chunk)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

    use super::*;
    use crate::manifest::ChunkRef;
    use crate::{BlobId, Digest};

    /// A part of so many chunks of 10 bytes, which `writer` wrote.
    fn part(writer: u8, first_chunk: u64, chunks: u64) -> (Part, EncodedPart) {
        let part = Part {
            blob: BlobId::from_bytes([7; 16]),
            first_chunk,
            first_byte: first_chunk * 10,
            chunks: (0..chunks)
                .map(|n| ChunkRef {
                    id: Digest::blake3(&[writer, u8::try_from(n).unwrap()]),
                    bytes: 10,
                })
                .collect(),
        };
        let encoded = part.encode();
        (part, encoded)
    }

    fn info(chunks: u64) -> BlobInfo {
        BlobInfo {
            id: BlobId::from_bytes([7; 16]),
            namespace: "blog".to_owned(),
            bytes: chunks * 10,
            stored_bytes: chunks * 10,
            chunks,
            blake3: Digest::blake3(b""),
            sha256: Some(Digest::blake3(b"")),
            created_at: 0,
        }
    }

    /// Which parts make a blob of so many chunks, by their places in the list.
    fn chosen(chunks: u64, parts: &[(Part, EncodedPart)]) -> Option<Vec<usize>> {
        let chain = chain(&info(chunks), parts.to_vec())?;
        let find = |one: &(Part, EncodedPart)| {
            let same = |other: &(Part, EncodedPart)| other.0 == one.0;
            parts.iter().position(same).unwrap()
        };
        Some(chain.iter().map(find).collect())
    }

    #[test]
    fn parts_in_any_order_make_one_row_and_a_gap_makes_none() {
        let parts = [part(1, 5, 3), part(1, 0, 2), part(1, 2, 3)];
        assert_eq!(chosen(8, &parts), Some(vec![1, 2, 0]));
        assert_eq!(chosen(9, &parts), None);
        assert_eq!(chosen(7, &parts), None);
        assert_eq!(chosen(8, &parts[..2]), None);
        assert_eq!(chosen(0, &[]), Some(vec![]));
        // One without a chunk leads nowhere.
        assert_eq!(chosen(2, &[part(1, 0, 0), part(1, 0, 2)]), Some(vec![1]));
    }

    #[test]
    fn what_an_append_that_died_has_left_does_not_come_between() {
        // The first writer had 0..4 and lost it; the second wrote 0..3 and 3..8, the third went on behind.
        let parts = [
            part(1, 0, 4),
            part(1, 4, 1),
            part(2, 0, 3),
            part(2, 3, 5),
            part(3, 8, 1),
        ];
        assert_eq!(chosen(9, &parts), Some(vec![2, 3, 4]));
        // What leads to the end counts more than what is later.
        let parts = [part(1, 0, 4), part(1, 4, 4), part(2, 0, 3)];
        assert_eq!(chosen(8, &parts), Some(vec![0, 1]));
        // Of two that do, the later.
        let parts = [part(1, 0, 4), part(2, 0, 4), part(1, 4, 4)];
        assert_eq!(chosen(8, &parts), Some(vec![1, 2]));
    }
}
