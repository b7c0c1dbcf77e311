//! The parser of packages in chunks: however a body arrives, its pieces or its error are the same, and no piece is
//! longer than is allowed. And the recipes of frames: the parts of one have exactly the frame's bytes.
#![no_main]

#[allow(dead_code, unreachable_pub)]
#[path = "../../host/server/src/upload/chunks.rs"]
mod chunks;

#[allow(dead_code, unreachable_pub)]
#[path = "../../host/server/src/upload/recipe.rs"]
mod recipe;

use chunks::{Chunks, MAX_FRAME, Piece};
use libfuzzer_sys::fuzz_target;

fn parse<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Piece>, String> {
    let mut parser = Chunks::new();
    let mut pieces = Vec::new();
    for part in parts {
        parser.push(part);
        while let Some(piece) = parser.next().map_err(|error| error.to_string())? {
            if let Piece::Frame { bytes, stored, .. } = &piece {
                assert!(*bytes <= MAX_FRAME && stored.len() <= *bytes as usize);
                assert!(!stored.is_empty());
            }
            pieces.push(piece);
        }
    }
    parser.finish().map_err(|error| error.to_string())?;
    Ok(pieces)
}

/// A body that is likely to get past its head.
fn with_head(chunks: u8, rest: &[u8]) -> Vec<u8> {
    let head = format!("{{\"chunker\":{{}},\"chunks\":{chunks},\"bytes\":1}}");
    let mut body = b"CFDMCHKS\x01\0\0\0".to_vec();
    body.extend(u32::try_from(head.len()).unwrap_or_default().to_le_bytes());
    body.extend(head.as_bytes());
    body.extend(rest);
    body
}

fn cook(bytes: &[u8], frame: u32) {
    if let Ok(parts) = recipe::parse(bytes.to_vec().into(), frame) {
        let lengths = parts
            .iter()
            .map(|part| part.sent.len() as u64 + u64::from(part.copied));
        assert_eq!(lengths.sum::<u64>(), u64::from(frame));
    }
}

fuzz_target!(|input: (&[u8], u8, u8, u32)| {
    let (rest, chunks, size, frame) = input;
    cook(rest, frame);
    for body in [rest.to_vec(), with_head(chunks, rest)] {
        let whole = parse(std::iter::once(&body[..]));
        let parts = parse(body.chunks(usize::from(size).max(1)));
        assert_eq!(whole.is_ok(), parts.is_ok());
        if let (Ok(whole), Ok(parts)) = (whole, parts) {
            assert_eq!(whole, parts);
        }
    }
});
