//! A strict reader of zip archives.
//!
//! A zip says everything twice: in a directory at its end, and in a header before each file. Readers that
//! stream believe the headers, others the directory, so here both have to say the same, and the file has to
//! be exactly what the directory describes: entries side by side from the first byte to the directory, then
//! the directory, then its end record, then nothing.

mod directory;
mod local;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crc32fast::Hasher;
use flate2::bufread::DeflateDecoder;

use self::directory::{Member, Method};
use crate::Error;
use crate::extraction::{Entry, EntryKind, Extraction};
use crate::format::of_decoder;
use crate::input::{Input, Source, fill};
use crate::refusal::{Reason, Refused, shown};

/// The most bytes of a symbolic link's target; Linux takes no longer ones.
const LONGEST_TARGET: u64 = 4096;

/// How much of the spooled package is read at once.
const READ: usize = 64 * 1024;

/// The type bits of a Unix mode.
const TYPE: u32 = 0o170_000;

/// Keeps the package in `scratch`, because its directory comes last, and then writes what it holds.
pub(crate) fn extract<S: Source>(
    input: &mut Input<S>,
    extraction: &mut Extraction,
    scratch: &Path,
) -> Result<(), Error> {
    let path = scratch.join("package.zip");
    let (file, len) = spool(input, &path)?;
    let result = members(file, len, extraction);
    // The host discards the directory anyway; this gives the space back while the step still runs. Failing
    // to is not worth failing for.
    let _ = std::fs::remove_file(&path);
    result
}

fn spool<S: Source>(input: &mut Input<S>, path: &Path) -> Result<(File, u64), Error> {
    let disk = || Error::disk(shown(path.to_string_lossy().as_bytes()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(disk())?;
    let mut len = 0;
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            return Ok((file, len));
        }
        file.write_all(chunk).map_err(disk())?;
        let read = chunk.len();
        input.consume(read);
        len += read as u64;
    }
}

fn members(mut file: File, len: u64, extraction: &mut Extraction) -> Result<(), Error> {
    let directory = directory::read(&mut file, len)?;
    file.seek(SeekFrom::Start(0))?;
    let mut input = BufReader::with_capacity(READ, file);
    let mut at = 0;
    for (index, member) in directory.members.iter().enumerate() {
        if member.offset != at {
            return Err(layout(format!(
                "{} begins at byte {}, and what is before it ends at byte {at}",
                shown(&member.name),
                member.offset
            ))
            .into());
        }
        let end = directory
            .members
            .get(index + 1)
            .map_or(directory.offset, |next| next.offset);
        let header = local::read(&mut input, member)?;
        let data = at + header.len + member.compressed;
        let descriptor = end.checked_sub(data).ok_or_else(|| {
            layout(format!(
                "{} reaches into what follows it",
                shown(&member.name)
            ))
        })?;
        self::member(&mut input, member, extraction)?;
        if header.has_descriptor {
            local::descriptor(&mut input, member, descriptor)?;
        } else if descriptor != 0 {
            return Err(layout(format!(
                "{descriptor} bytes after {} belong to nothing",
                shown(&member.name)
            ))
            .into());
        }
        at = end;
    }
    if at != directory.offset {
        return Err(layout(format!(
            "the first {} bytes belong to nothing",
            directory.offset
        ))
        .into());
    }
    Ok(())
}

/// Writes one member, whose data is next in `input`.
fn member(
    input: &mut BufReader<File>,
    member: &Member,
    extraction: &mut Extraction,
) -> Result<(), Error> {
    let mut data = Data::new(input.take(member.compressed), member.method);
    let result = {
        let name = member.name.as_slice();
        let mode = member.mode.unwrap_or(0o644) & 0o7777;
        match kind(member)? {
            Kind::File => {
                let kind = EntryKind::File(member.size);
                extraction.entry(&Entry { name, mode, kind }, &mut data)
            }
            Kind::Directory if member.size == 0 => {
                let kind = EntryKind::Directory;
                extraction.entry(&Entry { name, mode, kind }, &mut data)
            }
            Kind::Symlink if member.size <= LONGEST_TARGET => {
                let mut target = vec![0; usize::try_from(member.size).unwrap_or(0)];
                fill(&mut data, &mut target, "a link's target").map_err(of_decoder)?;
                let kind = EntryKind::Symlink(&target);
                extraction.entry(&Entry { name, mode, kind }, &mut data)
            }
            Kind::Directory | Kind::Symlink => Err(Refused::new(
                Reason::EntryWithData,
                format!("{} is no file and has {} bytes", shown(name), member.size),
            )
            .into()),
        }
    };
    result.map_err(|error| match error {
        Error::Input(error) => Error::from(of_decoder(error)),
        error => error,
    })?;
    data.end(member)
}

enum Kind {
    File,
    Directory,
    Symlink,
}

/// What a member is: by its Unix mode when it has one, and by the slash that ends a directory's name. The
/// two have to agree.
fn kind(member: &Member) -> Result<Kind, Refused> {
    let slash = member.name.ends_with(b"/");
    let kind = match member.mode.map(|mode| mode & TYPE) {
        None | Some(0) => {
            if slash {
                Kind::Directory
            } else {
                Kind::File
            }
        }
        Some(0o100_000) => Kind::File,
        Some(0o040_000) => Kind::Directory,
        Some(0o120_000) => Kind::Symlink,
        Some(_) => {
            return Err(Refused::new(
                Reason::SpecialFile,
                format!("{} is a device, a FIFO or a socket", shown(&member.name)),
            ));
        }
    };
    let is_directory = matches!(kind, Kind::Directory);
    if is_directory != slash || (member.dos_directory && !is_directory) {
        return Err(Refused::new(
            Reason::EntryAmbiguous,
            format!(
                "{} is a directory by one of its name and its attributes, and not by the other",
                shown(&member.name)
            ),
        ));
    }
    Ok(kind)
}

/// A member's data as it is read, with its checksum.
struct Data<'i> {
    reader: Reader<'i>,
    checksum: Hasher,
    read: u64,
}

/// The bytes of the package that are one member's.
type Span<'i> = io::Take<&'i mut BufReader<File>>;

enum Reader<'i> {
    Stored(Span<'i>),
    Deflate(BufReader<DeflateDecoder<Span<'i>>>),
}

impl<'i> Data<'i> {
    fn new(span: Span<'i>, method: Method) -> Data<'i> {
        let reader = match method {
            Method::Stored => Reader::Stored(span),
            Method::Deflate => {
                Reader::Deflate(BufReader::with_capacity(READ, DeflateDecoder::new(span)))
            }
        };
        Data {
            reader,
            checksum: Hasher::new(),
            read: 0,
        }
    }

    /// After the last byte that the directory promises: there must be no more of either the data or its
    /// compressed form, and it must be the right data.
    fn end(mut self, member: &Member) -> Result<(), Error> {
        let disagrees = |what: &str| {
            Error::from(Refused::new(
                Reason::SizeDisagrees,
                format!("{} has {what} than its headers say", shown(&member.name)),
            ))
        };
        if self.read < member.size {
            return Err(disagrees("fewer bytes"));
        }
        if !self.fill_buf().map_err(of_decoder)?.is_empty() {
            return Err(disagrees("more bytes"));
        }
        let unread = match &self.reader {
            Reader::Stored(span) => span.limit(),
            Reader::Deflate(decoder) => decoder.get_ref().get_ref().limit(),
        };
        if unread > 0 {
            return Err(disagrees("fewer compressed bytes"));
        }
        if self.checksum.finalize() != member.crc {
            return Err(Refused::new(
                Reason::Corrupt,
                format!("the checksum of {} does not match", shown(&member.name)),
            )
            .into());
        }
        Ok(())
    }
}

impl Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Reader::Stored(span) => span.fill_buf(),
            Reader::Deflate(decoder) => decoder.fill_buf(),
        }
    }
}

impl BufRead for Data<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What is buffered already is given again without a read, which cannot fail.
        if let Ok(buffer) = self.reader.fill_buf() {
            self.checksum.update(&buffer[..amount]);
        }
        self.read += amount as u64;
        match &mut self.reader {
            Reader::Stored(span) => span.consume(amount),
            Reader::Deflate(decoder) => decoder.consume(amount),
        }
    }
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}

fn layout(message: String) -> Refused {
    Refused::new(Reason::ZipLayout, message)
}
