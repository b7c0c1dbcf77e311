//! The three encoders.

use std::io::{Cursor, Write as _};

use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, FrameCompressor};

use crate::Format;
use crate::chains::Chains;
use crate::config::Quality;

/// The largest window that every brotli decoder takes: 16 MiB.
const BROTLI_WINDOW: i32 = 24;

/// One asset in one compressed form.
pub(crate) fn encode(format: Format, content: &[u8], quality: Quality) -> Vec<u8> {
    match format {
        Format::Brotli => brotli(content, quality),
        Format::Zstd => zstd(content),
        Format::Gzip => gzip(content),
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(content)
        .expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail")
}

fn brotli(content: &[u8], quality: Quality) -> Vec<u8> {
    let params = BrotliEncoderParams {
        quality: quality.level(),
        lgwin: window_bits(content.len()),
        mode: BrotliEncoderMode::BROTLI_MODE_TEXT,
        size_hint: content.len(),
        ..BrotliEncoderParams::default()
    };
    let mut encoded = Vec::new();
    brotli::BrotliCompress(&mut Cursor::new(content), &mut encoded, &params)
        .expect("reading and writing memory does not fail");
    encoded
}

/// A window no larger than the content: encoders allocate by it.
fn window_bits(len: usize) -> i32 {
    let bits = usize::BITS - len.saturating_sub(1).leading_zeros();
    i32::try_from(bits).map_or(BROTLI_WINDOW, |bits| bits.clamp(16, BROTLI_WINDOW))
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let mut compressor =
        FrameCompressor::new_with_matcher(Chains::new(content.len()), CompressionLevel::Fastest);
    compressor.set_source(content);
    compressor.set_drain(&mut encoded);
    compressor.compress();
    drop(compressor);
    encoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Read as _;

    use super::{Quality, brotli, gzip, zstd};

    /// Text that repeats itself at all distances, and noise that does not.
    fn samples() -> Vec<Vec<u8>> {
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let text: Vec<u8> = (0..40_000)
            .flat_map(|number: u32| {
                format!("<li class=\"x{}\">{number}</li>\n", number % 7).into_bytes()
            })
            .collect();
        let mixed: Vec<u8> = (0..300_000)
            .map(|at| {
                if at % 1000 < 400 {
                    noise()
                } else {
                    b"lorem ipsum "[at % 12]
                }
            })
            .collect();
        let noise: Vec<u8> = (0..200_000).map(|_| noise()).collect();
        vec![
            Vec::new(),
            b"a".to_vec(),
            b"abcabcabcabcabcabcabcabcabcabcabc".to_vec(),
            vec![0; 500_000],
            text,
            mixed,
            noise,
        ]
    }

    #[test]
    fn what_was_encoded_decodes_to_itself() {
        for sample in samples() {
            let mut decoded = Vec::new();
            flate2::read::GzDecoder::new(&gzip(&sample)[..])
                .read_to_end(&mut decoded)
                .unwrap();
            assert!(decoded == sample);

            decoded.clear();
            let encoded = brotli(&sample, Quality::try_from(9).unwrap());
            brotli::Decompressor::new(&encoded[..], 4096)
                .read_to_end(&mut decoded)
                .unwrap();
            assert!(decoded == sample);

            decoded.clear();
            let encoded = zstd(&sample);
            ruzstd::decoding::StreamingDecoder::new(&encoded[..])
                .unwrap()
                .read_to_end(&mut decoded)
                .unwrap();
            assert!(decoded == sample);
        }
    }

    #[test]
    fn zstd_finds_what_is_too_far_back_for_gzip() {
        let mut text = samples().swap_remove(4)[..60_000].to_vec();
        text.extend_from_within(..);
        let (zstd, gzip) = (zstd(&text).len(), gzip(&text).len());
        assert!(zstd < gzip * 2 / 3, "{zstd} {gzip}");
    }
}
