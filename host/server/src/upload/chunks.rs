//! The form in which a package is sent without the chunks that the server holds (docs/protocol.md):
//!
//! | part | bytes | what |
//! |---|---|---|
//! | magic | 8 | `CFDMCHKS` |
//! | version | 4 | 1 |
//! | head length | 4 | at most 4096 |
//! | head | | JSON: `{"chunker", "chunks", "bytes", "media_type", "base", "list"}` |
//! | list | 36 x lines | a chunk: `u32` length, and in the top bit whether it is held, then the 32-byte BLAKE3; or a run of the base's chunks: `u32` how many, with the two top bits set, then a `u64` with the place of the first and 24 zeros |
//! | frames | | `u32` bytes, `u32` stored bytes, then the stored bytes; or, with the top bit of the first number set, `u32` bytes of its [recipe](super::recipe) between the second number and the stored bytes, which are the recipe's then |
//!
//! Integers are little-endian. A frame has whole chunks, in the order of the list, of those that are sent; what is stored
//! of it is one zstd frame, or the bytes themselves when there are as many. Like the multipart parser this does no input
//! or output. What it holds is bounded by a page of the list or one frame.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;

/// The media type of the form.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.cofferdam.chunks";

/// What the form begins with.
const MAGIC: [u8; 8] = *b"CFDMCHKS";

/// The only version there is.
const VERSION: u32 = 1;

/// The longest head: its five numbers and two names take a twentieth.
const MAX_HEAD: u32 = 4096;

/// Magic, version and the head's length.
const PREFIX_BYTES: usize = 16;

/// One line of the list.
const LINE_BYTES: usize = 36;

/// The bit of a line's first number that says that the chunk is held.
const HELD: u32 = 1 << 31;

/// Together with [`HELD`], the bit that says that the line is a run. No chunk is so long.
const RUN: u32 = 1 << 30;

/// How many lines are handed out at once: one look-up, one lease.
const PAGE: usize = 1024;

/// The bit of a frame's first number that says that it has a recipe, and so a third number.
const PATCHED: u32 = 1 << 31;

/// The most bytes of a frame: four of the longest chunks, and what it costs to hold one.
pub(crate) const MAX_FRAME: u32 = 1024 * 1024;

/// Why a body is not of this form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunksError {
    #[error("it does not begin with {:?}", String::from_utf8_lossy(&MAGIC))]
    Magic,
    #[error("it is of version {0}, and only version {VERSION} is understood here")]
    Version(u32),
    #[error("its head has {0} bytes, and at most {MAX_HEAD} are read")]
    HeadTooLong(u32),
    #[error("its head is not valid: {0}")]
    Head(String),
    #[error(
        "a frame has {stored} bytes that stand for {bytes}: they have 1 to {MAX_FRAME}, compressed or not"
    )]
    Frame { bytes: u32, stored: u32 },
    #[error(
        "a frame of {bytes} bytes has a recipe of {recipe}, stored in {stored}: neither is more than the number before"
    )]
    PatchedFrame {
        bytes: u32,
        recipe: u32,
        stored: u32,
    },
    #[error("a frame's recipe is not one: {0}")]
    Recipe(&'static str),
    #[error("it goes on behind its last chunk")]
    Trailing,
    #[error("it ends early")]
    Truncated,
}

/// The head of the form.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct ListHead {
    /// What cut the package.
    pub(crate) chunker: Value,
    /// How many lines the list has: chunks, and runs of them.
    pub(crate) chunks: u64,
    /// How many bytes the package has.
    pub(crate) bytes: u64,
    /// What kind of archive it is.
    #[serde(default)]
    pub(crate) media_type: Option<String>,
    /// BLAKE3 of the project's package that runs are from.
    #[serde(default)]
    pub(crate) base: Option<String>,
    /// BLAKE3 of the list as it is meant, without runs.
    #[serde(default)]
    pub(crate) list: Option<String>,
}

/// One line of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// One chunk.
    Chunk {
        /// Its BLAKE3.
        id: [u8; 32],
        /// Its length.
        bytes: u32,
        /// Whether it is taken from what the project holds.
        held: bool,
    },
    /// Chunks of the base that follow one another there.
    Run {
        /// How many come before the first.
        first: u64,
        /// How many they are.
        chunks: u64,
    },
}

/// Something that the parser found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// The head.
    Head(ListHead),
    /// The next lines of the list, never none.
    Lines(Vec<Line>),
    /// A frame.
    Frame {
        /// How many bytes it has when it is decoded.
        bytes: u32,
        /// How many bytes its recipe has, if it is made by one.
        recipe: Option<u32>,
        /// What the recipe, or else the frame, is stored as: one zstd frame if it is shorter than that.
        stored: Bytes,
    },
}

/// The parser.
#[derive(Debug)]
pub(crate) struct Chunks {
    buffer: BytesMut,
    state: State,
    /// The bytes that are still to come in frames.
    to_come: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Prefix,
    Head {
        length: usize,
    },
    List {
        left: u64,
    },
    FrameHead,
    Frame {
        bytes: u32,
        recipe: Option<u32>,
        stored: u32,
    },
}

impl Chunks {
    /// A parser at the start of a body.
    pub(crate) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            state: State::Prefix,
            to_come: 0,
        }
    }

    /// Gives the parser the next bytes of the body, once [`next`](Self::next) has no more.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece; nothing when the parser needs more of the body.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, ChunksError> {
        loop {
            match self.state {
                State::Prefix => {
                    let begun = self.buffer.len().min(MAGIC.len());
                    if self.buffer[..begun] != MAGIC[..begun] {
                        return Err(ChunksError::Magic);
                    }
                    if self.buffer.len() < PREFIX_BYTES {
                        return Ok(None);
                    }
                    self.buffer.advance(MAGIC.len());
                    let version = self.buffer.get_u32_le();
                    if version != VERSION {
                        return Err(ChunksError::Version(version));
                    }
                    let length = self.buffer.get_u32_le();
                    if length > MAX_HEAD {
                        return Err(ChunksError::HeadTooLong(length));
                    }
                    self.state = State::Head {
                        length: length as usize,
                    };
                }
                State::Head { length } => {
                    if self.buffer.len() < length {
                        return Ok(None);
                    }
                    let text = self.buffer.split_to(length);
                    let head: ListHead = serde_json::from_slice(&text)
                        .map_err(|error| ChunksError::Head(error.to_string()))?;
                    self.state = State::List { left: head.chunks };
                    return Ok(Some(Piece::Head(head)));
                }
                State::List { left: 0 } => self.state = State::FrameHead,
                State::List { left } => {
                    let here = (self.buffer.len() / LINE_BYTES).min(PAGE) as u64;
                    let count = here.min(left);
                    // A page at a time, however the body arrives.
                    if count < left.min(PAGE as u64) {
                        return Ok(None);
                    }
                    self.state = State::List { left: left - count };
                    let lines = (0..count).map(|_| self.line()).collect();
                    return Ok(Some(Piece::Lines(lines)));
                }
                State::FrameHead => {
                    if self.to_come == 0 && !self.buffer.is_empty() {
                        return Err(ChunksError::Trailing);
                    }
                    let mut head = &self.buffer[..];
                    let (Ok(word), Ok(stored)) = (head.try_get_u32_le(), head.try_get_u32_le())
                    else {
                        return Ok(None);
                    };
                    let bytes = word & !PATCHED;
                    let fits = (1..=MAX_FRAME).contains(&bytes)
                        && (1..=bytes).contains(&stored)
                        && u64::from(bytes) <= self.to_come;
                    if !fits {
                        return Err(ChunksError::Frame { bytes, stored });
                    }
                    let mut recipe = None;
                    if word != bytes {
                        let Ok(length) = head.try_get_u32_le() else {
                            return Ok(None);
                        };
                        if !(stored..=bytes).contains(&length) {
                            return Err(ChunksError::PatchedFrame {
                                bytes,
                                recipe: length,
                                stored,
                            });
                        }
                        recipe = Some(length);
                    }
                    let rest = head.len();
                    self.buffer.advance(self.buffer.len() - rest);
                    self.state = State::Frame {
                        bytes,
                        recipe,
                        stored,
                    };
                }
                State::Frame {
                    bytes,
                    recipe,
                    stored,
                } => {
                    let stored = stored as usize;
                    if self.buffer.len() < stored {
                        // Grown once, not with every piece that arrives.
                        self.buffer.reserve(stored - self.buffer.len());
                        return Ok(None);
                    }
                    let stored = self.buffer.split_to(stored).freeze();
                    self.to_come -= u64::from(bytes);
                    self.state = State::FrameHead;
                    return Ok(Some(Piece::Frame {
                        bytes,
                        recipe,
                        stored,
                    }));
                }
            }
        }
    }

    /// Says whether the body, which has ended, was whole.
    pub(crate) fn finish(&self) -> Result<(), ChunksError> {
        if self.state == State::FrameHead && self.to_come == 0 && self.buffer.is_empty() {
            Ok(())
        } else {
            Err(ChunksError::Truncated)
        }
    }

    fn line(&mut self) -> Line {
        let word = self.buffer.get_u32_le();
        let mut id = [0; 32];
        self.buffer.copy_to_slice(&mut id);
        if word & (HELD | RUN) == HELD | RUN {
            let (first, _) = id.split_first_chunk().expect("8 of 32 bytes");
            return Line::Run {
                first: u64::from_le_bytes(*first),
                chunks: u64::from(word & !(HELD | RUN)),
            };
        }
        let (bytes, held) = (word & !HELD, word & HELD != 0);
        if !held {
            self.to_come += u64::from(bytes);
        }
        Line::Chunk { id, bytes, held }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn body(lines: &[Line], frames: &[(u32, &[u8])]) -> Vec<u8> {
        let bytes: u64 = lines
            .iter()
            .map(|line| match line {
                Line::Chunk { bytes, .. } => u64::from(*bytes),
                Line::Run { .. } => 0,
            })
            .sum();
        let head = serde_json::json!({ "chunker": {}, "chunks": lines.len(), "bytes": bytes });
        let head = head.to_string();
        let mut body = MAGIC.to_vec();
        body.extend(VERSION.to_le_bytes());
        body.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
        body.extend(head.as_bytes());
        for line in lines {
            match line {
                Line::Chunk { id, bytes, held } => {
                    let held = if *held { HELD } else { 0 };
                    body.extend((bytes | held).to_le_bytes());
                    body.extend(id);
                }
                Line::Run { first, chunks } => {
                    let chunks = u32::try_from(*chunks).unwrap();
                    body.extend((chunks | HELD | RUN).to_le_bytes());
                    body.extend(first.to_le_bytes());
                    body.extend([0; 24]);
                }
            }
        }
        for (bytes, stored) in frames {
            body.extend(bytes.to_le_bytes());
            body.extend(u32::try_from(stored.len()).unwrap().to_le_bytes());
            body.extend(*stored);
        }
        body
    }

    fn line(n: u8, bytes: u32, held: bool) -> Line {
        Line::Chunk {
            id: [n; 32],
            bytes,
            held,
        }
    }

    fn parse(body: &[u8], size: usize) -> Result<Vec<Piece>, ChunksError> {
        let mut parser = Chunks::new();
        let mut pieces = Vec::new();
        for part in body.chunks(size) {
            parser.push(part);
            while let Some(piece) = parser.next()? {
                pieces.push(piece);
            }
        }
        parser.finish().map(|()| pieces)
    }

    fn sound() -> Vec<u8> {
        let run = Line::Run {
            first: 1 << 40,
            chunks: 9,
        };
        let lines = [
            line(1, 5, false),
            line(2, 70_000, true),
            run,
            line(3, 3, false),
        ];
        body(&lines, &[(5, b"hello"), (3, b"z")])
    }

    #[test]
    fn a_frame_with_a_recipe_has_a_third_number() {
        let lines = [line(1, 1000, false), line(2, 600, false)];
        let patched = |bytes: u32, recipe: u32, stored: &[u8]| {
            let mut frame = (bytes | PATCHED).to_le_bytes().to_vec();
            frame.extend(u32::try_from(stored.len()).unwrap().to_le_bytes());
            frame.extend(recipe.to_le_bytes());
            frame.extend(stored);
            frame
        };
        let mut sound = body(&lines, &[]);
        sound.extend(patched(1600, 20, b"as it is stored"));
        for size in [1, 7, sound.len()] {
            let pieces = parse(&sound, size).unwrap();
            let expected = Piece::Frame {
                bytes: 1600,
                recipe: Some(20),
                stored: Bytes::from_static(b"as it is stored"),
            };
            assert_eq!(pieces.last(), Some(&expected));
            assert!(parse(&sound[..sound.len() - 1], size).is_err());
        }
        for (bytes, recipe) in [(1600, 14), (1600, 1601), (1601, 20), (0, 20), (14, 15)] {
            let mut bad = body(&lines, &[]);
            bad.extend(patched(bytes, recipe, b"as it is stored"));
            assert!(parse(&bad, 100).is_err(), "{bytes} {recipe}");
        }
    }

    #[test]
    fn what_is_found_does_not_depend_on_how_the_body_arrives() {
        let sound = sound();
        let whole = parse(&sound, sound.len()).unwrap();
        let [
            Piece::Head(head),
            Piece::Lines(lines),
            Piece::Frame { .. },
            last,
        ] = &whole[..]
        else {
            panic!("{whole:?}");
        };
        assert_eq!((head.chunks, head.bytes), (4, 70_008));
        assert_eq!(lines[1], line(2, 70_000, true));
        let run = Line::Run {
            first: 1 << 40,
            chunks: 9,
        };
        assert_eq!(lines[2..], [run, line(3, 3, false)]);
        let stored = Bytes::from_static(b"z");
        assert_eq!(
            *last,
            Piece::Frame {
                bytes: 3,
                recipe: None,
                stored
            }
        );
        for size in 1..40 {
            assert_eq!(parse(&sound, size).unwrap(), whole);
        }
        // A list longer than a page comes in pages.
        let many: Vec<_> = (0..2500).map(|_| line(7, 9, true)).collect();
        let pieces = parse(&body(&many, &[]), 1000).unwrap();
        assert_eq!(pieces.len(), 4);
        // A package without a byte is a package.
        assert_eq!(parse(&body(&[], &[]), 7).unwrap().len(), 1);
    }

    #[test]
    fn a_body_that_is_cut_anywhere_is_told_from_a_whole_one() {
        let body = sound();
        for length in 0..body.len() {
            let cut = parse(&body[..length], 11);
            assert_eq!(cut.unwrap_err(), ChunksError::Truncated, "{length}");
        }
    }

    #[test]
    fn what_is_not_of_the_form_is_refused_where_it_stops_being_so() {
        let sent = [line(1, 5, false)];
        let frames: [(u32, &[u8]); 5] = [
            (0, b""),
            (5, b""),
            (5, b"longer than five"),
            (6, b"beyond"),
            (MAX_FRAME + 1, b"x"),
        ];
        for frame in frames {
            let error = parse(&body(&sent, &[frame]), 9).unwrap_err();
            assert!(matches!(error, ChunksError::Frame { .. }), "{error}");
        }
        let mut trailing = sound();
        trailing.push(0);
        assert_eq!(parse(&trailing, 100).unwrap_err(), ChunksError::Trailing);
        let mut version = sound();
        version[8] = 2;
        assert_eq!(parse(&version, 3).unwrap_err(), ChunksError::Version(2));
        let mut head = sound();
        head[15] = 1;
        let error = parse(&head, 3).unwrap_err();
        assert!(matches!(error, ChunksError::HeadTooLong(_)), "{error}");
        assert_eq!(parse(b"PK", 1).unwrap_err(), ChunksError::Magic);
        let mut json = sound();
        json[16] = b'[';
        assert!(matches!(parse(&json, 5), Err(ChunksError::Head(_))));
    }
}
