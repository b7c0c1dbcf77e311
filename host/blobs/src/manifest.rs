//! Manifests: which chunks, in which order, make a blob.
//!
//! A manifest is stored in parts, in the packs and in the index alike, each part as these bytes (integers
//! little-endian) under their BLAKE3:
//!
//! | field | bytes | what |
//! |---|---|---|
//! | version | 1 | 1 |
//! | blob | 16 | the blob's UUID |
//! | first chunk | 8 | how many chunks the earlier parts name |
//! | first byte | 8 | how many bytes these have |
//! | count | 4 | how many chunks this part names |
//! | chunks | 36 x count | 32-byte BLAKE3, `u32` length |
//!
//! Parts are written as the upload goes, so an upload of any size holds one of them in memory.

mod chain;

use serde::{Deserialize, Serialize};

pub(crate) use chain::chain;

use crate::pack::MAX_RECORD_BYTES;
use crate::{BlobId, BlobInfo, ChunkId, ChunkerParams, Digest};

/// How many chunks one part names at most: 256 MiB of a blob in 147 kB.
pub(crate) const PART_CHUNKS: usize = 4096;

/// No blob is longer: 2^50 bytes take longer to send than anybody waits.
const MAX_BYTES: u64 = 1 << 50;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 37;
const CHUNK_BYTES: usize = 36;

/// The whole chunk list of a complete blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What is known about the blob.
    pub blob: BlobInfo,
    /// What cut it.
    pub chunker: ChunkerParams,
    /// Its chunks, in order. Their lengths add up to the blob's.
    pub chunks: Vec<ChunkRef>,
}

/// One chunk of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// BLAKE3 of the chunk.
    pub id: ChunkId,
    /// Its length, uncompressed.
    pub bytes: u32,
}

/// What a pack records about a blob that is complete: a JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) info: BlobInfo,
    pub(crate) chunker: ChunkerParams,
}

/// A run of a blob's chunk list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) blob: BlobId,
    pub(crate) first_chunk: u64,
    pub(crate) first_byte: u64,
    pub(crate) chunks: Vec<ChunkRef>,
}

/// A part as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct EncodedPart {
    pub(crate) first_byte: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) checksum: Digest,
}

impl Part {
    pub(crate) fn new(blob: BlobId) -> Part {
        Part {
            blob,
            first_chunk: 0,
            first_byte: 0,
            chunks: Vec::new(),
        }
    }

    /// How many bytes of the blob it covers.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }

    /// The part that comes after this one, still empty.
    pub(crate) fn following(&self) -> Part {
        Part {
            blob: self.blob,
            first_chunk: self.first_chunk + self.chunks.len() as u64,
            first_byte: self.first_byte + self.bytes(),
            chunks: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> EncodedPart {
        let mut data = Vec::with_capacity(HEAD_BYTES + self.chunks.len() * CHUNK_BYTES);
        data.push(VERSION);
        data.extend_from_slice(self.blob.as_bytes());
        data.extend_from_slice(&self.first_chunk.to_le_bytes());
        data.extend_from_slice(&self.first_byte.to_le_bytes());
        let count = u32::try_from(self.chunks.len()).expect("a part names at most PART_CHUNKS");
        data.extend_from_slice(&count.to_le_bytes());
        for chunk in &self.chunks {
            data.extend_from_slice(chunk.id.as_bytes());
            data.extend_from_slice(&chunk.bytes.to_le_bytes());
        }
        EncodedPart {
            first_byte: self.first_byte,
            checksum: Digest::blake3(&data),
            data,
        }
    }

    /// How many bytes a part takes that seems to begin here; `None` if none does. There is no digest to hold it to, so
    /// every field has to make sense.
    pub(crate) fn measure(bytes: &[u8]) -> Option<usize> {
        let (head, list) = bytes.split_at_checked(HEAD_BYTES)?;
        // A blob's id is a UUIDv7.
        if head[0] != VERSION || head[7] >> 4 != 7 || head[9] >> 6 != 2 {
            return None;
        }
        let first_chunk = u64::from_le_bytes(array_at(head, 17));
        let first_byte = u64::from_le_bytes(array_at(head, 25));
        let count = usize::try_from(u32_at(head, 33)).ok()?;
        if !(1..=PART_CHUNKS).contains(&count) || first_byte > MAX_BYTES || first_chunk > first_byte
        {
            return None;
        }
        let (list, _) = list.split_at_checked(count * CHUNK_BYTES)?;
        let (chunks, _) = list.as_chunks::<CHUNK_BYTES>();
        let sensible =
            |chunk: &[u8; CHUNK_BYTES]| (1..=MAX_RECORD_BYTES).contains(&u32_at(chunk, 32));
        chunks
            .iter()
            .all(sensible)
            .then_some(HEAD_BYTES + list.len())
    }

    /// Reads a part that was stored under this checksum. `Err` says what is wrong with it.
    pub(crate) fn decode(data: &[u8], checksum: &[u8]) -> Result<Part, &'static str> {
        if Digest::blake3(data).as_bytes() != checksum {
            return Err("its checksum is wrong");
        }
        let (head, list) = data.split_at_checked(HEAD_BYTES).ok_or("it is too short")?;
        if head[0] != VERSION {
            return Err("it has a version that is not known here");
        }
        let (chunks, rest) = list.as_chunks::<CHUNK_BYTES>();
        if !rest.is_empty() || chunks.len() as u64 != u64::from(u32_at(head, 33)) {
            return Err("its length does not fit its count");
        }
        Ok(Part {
            blob: BlobId::from_bytes(array_at(head, 1)),
            first_chunk: u64::from_le_bytes(array_at(head, 17)),
            first_byte: u64::from_le_bytes(array_at(head, 25)),
            chunks: chunks
                .iter()
                .map(|chunk| ChunkRef {
                    id: Digest::from(array_at(chunk, 0)),
                    bytes: u32_at(chunk, 32),
                })
                .collect(),
        })
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

    use super::*;

    #[test]
    fn a_part_is_read_back_as_it_was_written_and_never_when_it_was_changed() {
        let mut part = Part::new(BlobId::new());
        part.first_chunk = 3;
        part.first_byte = 1 << 40;
        for n in 0..5_u8 {
            part.chunks.push(ChunkRef {
                id: Digest::blake3(&[n]),
                bytes: 70_000 + u32::from(n),
            });
        }
        let stored = part.encode();
        let checksum = stored.checksum.as_bytes();
        assert_eq!(Part::decode(&stored.data, checksum).unwrap(), part);
        assert_eq!(part.following().first_chunk, 8);
        assert_eq!(part.following().first_byte, (1 << 40) + 350_010);
        // Where it ends is found without its checksum, whatever follows.
        let followed = [&stored.data[..], b"something else"].concat();
        assert_eq!(Part::measure(&followed), Some(stored.data.len()));
        for at in 0..stored.data.len() {
            assert_eq!(Part::measure(&stored.data[..at]), None);
            let mut data = stored.data.clone();
            data[at] ^= 1;
            assert!(Part::decode(&data, checksum).is_err());
        }
        // A right checksum over a wrong shape is refused as well.
        for length in 0..stored.data.len() {
            let data = &stored.data[..length];
            assert!(Part::decode(data, Digest::blake3(data).as_bytes()).is_err());
        }
    }
}
