//! Compressing records where it helps.

use std::io;

use zstd::bulk::Compressor;

use super::Encoding;

/// A chunk is stored compressed if that saves at least one part in this many: less is not worth the time to
/// decompress it.
const WORTHWHILE: usize = 16;

/// Of a chunk that is longer than three of these and follows one that did not shrink, the first and the middle one are tried
/// alone: bytes that were compressed or encrypted before are told by that at a quarter of the time.
const PROBE_BYTES: usize = 8 * 1024;

/// Compresses records, one after the other, with one context and one buffer.
pub(crate) struct Encoder {
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
    /// Whether the last record did not shrink: then the next one is not likely to.
    doubtful: bool,
}

impl Encoder {
    /// One for this zstd level.
    pub(crate) fn new(level: i32) -> io::Result<Encoder> {
        Ok(Encoder {
            compressor: Compressor::new(level)?,
            compressed: Vec::new(),
            doubtful: true,
        })
    }

    /// The bytes as they are to be stored.
    pub(crate) fn encode<'a>(&'a mut self, bytes: &'a [u8]) -> io::Result<(Encoding, &'a [u8])> {
        let middle = bytes.len() / 2;
        let long = bytes.len() > 3 * PROBE_BYTES;
        let hopeless = self.doubtful
            && long
            && !self.shrinks(&bytes[..PROBE_BYTES])?
            && !self.shrinks(&bytes[middle..middle + PROBE_BYTES])?;
        self.doubtful = hopeless || !self.shrinks(bytes)?;
        Ok(if self.doubtful {
            (Encoding::Raw, bytes)
        } else {
            (Encoding::Zstd, &self.compressed)
        })
    }

    /// Compresses these bytes, and says whether that is worth it.
    fn shrinks(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.compressed.clear();
        self.compressed
            .reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        let compressed = self
            .compressor
            .compress_to_buffer(bytes, &mut self.compressed)?;
        Ok(compressed < bytes.len() && compressed <= bytes.len() - bytes.len() / WORTHWHILE)
    }
}
