//! Which archive this is, and the decoders before it.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::extraction::{Extraction, RatioGuard};
use crate::input::{Input, Source, skip};
use crate::refusal::{Reason, Refused};
use crate::{Error, tar, zip};

/// How much a decoder decodes at once. Twice the usual window of deflate, so that most small files are in it
/// whole and are written with one call.
const DECODED: usize = 64 * 1024;

/// What a package can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Tar,
    TarGzip,
    TarZstd,
    Zip,
}

/// Tells a package by its first bytes, which stay where they are.
pub(crate) fn sniff<S: Source>(input: &mut Input<S>) -> Result<Format, Error> {
    let head = input.peek(tar::BLOCK)?;
    match head {
        [] => Err(Refused::new(Reason::Truncated, "the package is empty").into()),
        [0x1F, 0x8B, ..] => Ok(Format::TarGzip),
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Ok(Format::TarZstd),
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Ok(Format::Zip),
        _ if tar::begins(head) => Ok(Format::Tar),
        _ => {
            let kind = match head {
                [b'B', b'Z', b'h', ..] => "it looks like bzip2; ",
                [0xFD, b'7', b'z', b'X', b'Z', ..] => "it looks like xz; ",
                [b'7', b'z', 0xBC, 0xAF, ..] => "it looks like 7z; ",
                [b'R', b'a', b'r', b'!', ..] => "it looks like RAR; ",
                [b'{' | b'<', ..] => "it looks like text; ",
                _ => "",
            };
            Err(Refused::new(
                Reason::FormatUnknown,
                format!(
                    "this is no archive that is taken ({kind}send tar, tar.gz, tar.zst or zip)"
                ),
            )
            .into())
        }
    }
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Tar => "tar",
            Format::TarGzip => "tar.gz",
            Format::TarZstd => "tar.zst",
            Format::Zip => "zip",
        }
    }

    /// Reads the whole package, to its last byte.
    pub(crate) fn extract<S: Source>(
        self,
        mut input: Input<S>,
        extraction: &mut Extraction,
        scratch: &Path,
    ) -> Result<(), Error> {
        let guard = extraction.ratio_guard();
        match self {
            Format::Tar => tar::extract(&mut input, extraction),
            Format::TarGzip => {
                let decoder = Guarded::new(MultiGzDecoder::new(input), guard);
                tar::extract(&mut BufReader::with_capacity(DECODED, decoder), extraction)
            }
            Format::TarZstd => {
                let decoder = Guarded::new(Zstd::new(input), guard);
                tar::extract(&mut BufReader::with_capacity(DECODED, decoder), extraction)
            }
            Format::Zip => zip::extract(&mut input, extraction, scratch),
        }
    }
}

/// A decoder whose output is judged against its input, and whose errors say what they mean.
struct Guarded<R> {
    decoder: R,
    guard: RatioGuard,
}

impl<R> Guarded<R> {
    fn new(decoder: R, guard: RatioGuard) -> Guarded<R> {
        Guarded { decoder, guard }
    }
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let made = self.decoder.read(buffer).map_err(of_decoder)?;
        self.guard.made(made).map_err(Refused::into_io)?;
        Ok(made)
    }
}

/// What a decoder's error means: the data, unless the input itself failed.
pub(crate) fn of_decoder(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => crate::input::truncated("its compressed data"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Refused::new(
            Reason::Corrupt,
            format!("the compressed data is damaged or followed by something else ({error})"),
        )
        .into_io(),
        _ => error,
    }
}

/// All frames of a zstd stream, one after the other.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
    /// What this frame has given so far.
    given: u64,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Zstd<R> {
        Zstd {
            source,
            decoder: FrameDecoder::new(),
            in_frame: false,
            given: 0,
        }
    }

    /// Begins the next frame; says whether there is one.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    self.given = 0;
                    return Ok(true);
                }
                Err(error) => match skippable(&error) {
                    Some(len) => skip(&mut self.source, u64::from(len), "a skippable frame")?,
                    None => return Err(corrupt(&error)),
                },
            }
        }
        Ok(false)
    }

    /// Checks what a frame says of itself: its size and its checksum, when it has them.
    fn end(&mut self) -> io::Result<()> {
        let size = self.decoder.content_size();
        let checksum = self.decoder.get_checksum_from_data();
        let wrong = if size != 0 && size != self.given {
            "a frame has another size than it says"
        } else if checksum.is_some() && checksum != self.decoder.get_calculated_checksum() {
            "a frame's checksum does not match"
        } else {
            self.in_frame = false;
            return Ok(());
        };
        Err(Refused::new(
            Reason::Corrupt,
            format!("the compressed data is damaged: {wrong}"),
        )
        .into_io())
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            if self.decoder.can_collect() > 0 {
                let read = self.decoder.read(buffer)?;
                self.given += read as u64;
                return Ok(read);
            }
            if self.decoder.is_finished() {
                self.end()?;
                continue;
            }
            self.decoder
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(|error| corrupt(&error))?;
        }
    }
}

fn skippable(error: &FrameDecoderError) -> Option<u32> {
    match error {
        FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
            length, ..
        }) => Some(*length),
        _ => None,
    }
}

/// The io error that is somewhere below a decoder's error, if it is the input's own; otherwise the data is
/// at fault.
fn corrupt(error: &FrameDecoderError) -> io::Error {
    use std::error::Error as _;

    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(below) = cause.downcast_ref::<io::Error>() {
            return match below.kind() {
                io::ErrorKind::UnexpectedEof => crate::input::truncated("its compressed data"),
                kind => io::Error::new(kind, below.to_string()),
            };
        }
        source = cause.source();
    }
    Refused::new(
        Reason::Corrupt,
        format!("the compressed data is damaged ({error})"),
    )
    .into_io()
}
