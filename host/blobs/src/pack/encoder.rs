//! Compressing records where it helps.

use std::io;

use zstd::bulk::Compressor;

use super::Encoding;

/// A chunk is stored compressed if that saves at least one part in this many: less is not worth the time to
/// decompress it.
const WORTHWHILE: usize = 16;

/// Compresses records, one after the other, with one context and one buffer.
pub(crate) struct Encoder {
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
}

impl Encoder {
    /// One for this zstd level.
    pub(crate) fn new(level: i32) -> io::Result<Encoder> {
        Ok(Encoder {
            compressor: Compressor::new(level)?,
            compressed: Vec::new(),
        })
    }

    /// The bytes as they are to be stored.
    pub(crate) fn encode<'a>(&'a mut self, bytes: &'a [u8]) -> io::Result<(Encoding, &'a [u8])> {
        self.compressed.clear();
        self.compressed
            .reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        let compressed = self
            .compressor
            .compress_to_buffer(bytes, &mut self.compressed)?;
        if compressed < bytes.len() && compressed <= bytes.len() - bytes.len() / WORTHWHILE {
            Ok((Encoding::Zstd, &self.compressed))
        } else {
            Ok((Encoding::Raw, bytes))
        }
    }
}
