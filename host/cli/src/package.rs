//! A package on its way out: a directory, an archive or standard input, as one bounded stream of bytes.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use crate::pack::{self, Plan};

/// Bytes handed over at once: large enough that a hand-over costs nothing, small enough that a few in flight
/// are no memory to speak of.
const PART: usize = 256 * 1024;

/// Parts that may wait for the network. With [`PART`] this is what a slow link can hold in memory: 1 MiB.
const PARTS: usize = 4;

/// Bytes looked at to tell an archive's format: a tar header's magic ends at byte 263.
const SNIFF: usize = 512;

/// zstd's level under `--compress`: about what a gigabit link takes from one core.
const LEVEL: i32 = 3;

/// What the user named as the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A directory, packed here.
    Directory(PathBuf),
    /// A file or a pipe with a name, sent as it is.
    Archive(PathBuf),
    /// Standard input, sent as it is.
    Stdin,
}

/// Why there is no package to send.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The argument names nothing that could be a package.
    #[error("{0}")]
    Argument(String),
    /// The directory cannot be packed.
    #[error(transparent)]
    Pack(#[from] pack::Error),
    /// An archive or standard input cannot be read.
    #[error("cannot read {what}: {source}")]
    Read { what: String, source: io::Error },
    /// An archive with nothing in it.
    #[error("{0} is empty: there is no package in it")]
    Empty(String),
}

impl Source {
    /// Reads the command line's DIR, ARCHIVE or `-`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] when there is nothing of that name, or a terminal is to be read as an archive.
    pub(crate) fn parse(argument: &str) -> Result<Source, Error> {
        if argument == "-" {
            if io::stdin().is_terminal() {
                return Err(Error::Argument(
                    "standard input is a terminal: pipe an archive into it".to_owned(),
                ));
            }
            return Ok(Source::Stdin);
        }
        let path = PathBuf::from(argument);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Ok(Source::Directory(path)),
            Ok(_) => Ok(Source::Archive(path)),
            Err(error) => Err(Error::Argument(format!(
                "cannot deploy {argument}: {}",
                crate::exit::plain(&error)
            ))),
        }
    }

    /// The name that a project gets when nobody names it: the directory's, or the archive's without its ending.
    pub(crate) fn name(&self) -> Option<String> {
        let path = match self {
            Source::Directory(path) => path.canonicalize().ok()?,
            Source::Archive(path) => path.clone(),
            Source::Stdin => return None,
        };
        let name = path.file_name()?.to_str()?.to_owned();
        if matches!(self, Source::Directory(_)) {
            return Some(name);
        }
        let stem = [
            ".tar.gz", ".tar.zst", ".tar", ".tgz", ".tzst", ".zst", ".gz", ".zip",
        ]
        .iter()
        .find_map(|ending| name.strip_suffix(ending));
        Some(stem.unwrap_or(&name).to_owned())
    }

    /// How messages call it.
    fn label(&self) -> String {
        match self {
            Source::Directory(path) | Source::Archive(path) => path.display().to_string(),
            Source::Stdin => "standard input".to_owned(),
        }
    }
}

/// A package, opened: its parts arrive on a bounded channel from a thread of their own.
#[derive(Debug)]
pub(crate) struct Package {
    /// What the bytes are, for the part's content type.
    pub(crate) media_type: &'static str,
    /// Exact length, when it is known before the end.
    pub(crate) bytes: Option<u64>,
    /// Regular files in it, when it was packed here.
    pub(crate) files: Option<u64>,
    /// The bytes, in order; an error is the last thing in it. Its end without an error is the package's end.
    pub(crate) parts: mpsc::Receiver<Result<Bytes, Error>>,
}

/// Opens `source`: plans a directory, or looks at the first bytes of an archive.
///
/// The reading thread ends when [`Package::parts`] is dropped; one that waits in a read of standard input ends
/// with the process.
///
/// # Errors
///
/// Whatever makes the package impossible before its first byte.
pub(crate) async fn open(source: Source, compress: bool) -> Result<Package, Error> {
    let (opened, open) = oneshot::channel();
    let (sender, parts) = mpsc::channel(PARTS);
    thread::Builder::new()
        .name("package".to_owned())
        .spawn(move || match source {
            Source::Directory(path) => send_directory(&path, compress, opened, sender),
            Source::Archive(_) | Source::Stdin => send_archive(&source, opened, &sender),
        })
        .map_err(|source| Error::Read {
            what: "the package (no thread could be started)".to_owned(),
            source,
        })?;
    let opening = open.await.map_err(|_| Error::Read {
        what: "the package".to_owned(),
        source: io::Error::other("its reader stopped"),
    })??;
    Ok(Package {
        media_type: opening.media_type,
        bytes: opening.bytes,
        files: opening.files,
        parts,
    })
}

/// What is known before the first part.
struct Opening {
    media_type: &'static str,
    bytes: Option<u64>,
    files: Option<u64>,
}

type Opened = oneshot::Sender<Result<Opening, Error>>;
type Parts = mpsc::Sender<Result<Bytes, Error>>;

fn send_directory(path: &Path, compress: bool, opened: Opened, parts: Parts) {
    let plan = match pack::plan(path) {
        Ok(plan) => plan,
        Err(error) => {
            let _ = opened.send(Err(error.into()));
            return;
        }
    };
    let opening = Opening {
        media_type: if compress {
            "application/zstd"
        } else {
            "application/x-tar"
        },
        bytes: (!compress).then_some(plan.tar_bytes),
        files: Some(plan.files),
    };
    if opened.send(Ok(opening)).is_err() {
        return;
    }
    let mut sink = Sink::new(parts);
    let written = if compress {
        write_compressed(&plan, &mut sink)
    } else {
        plan.write(&mut sink).map_err(Error::from)
    };
    match written {
        Ok(()) | Err(Error::Pack(pack::Error::Abandoned)) => {}
        Err(error) => {
            let _ = sink.parts.blocking_send(Err(error));
        }
    }
}

fn write_compressed(plan: &Plan, sink: &mut Sink) -> Result<(), Error> {
    let broken = |source| Error::Read {
        what: "the package (compressing it failed)".to_owned(),
        source,
    };
    let mut encoder = zstd::stream::write::Encoder::new(&mut *sink, LEVEL).map_err(broken)?;
    encoder.include_checksum(true).map_err(broken)?;
    plan.write(&mut encoder)?;
    encoder.finish().map_err(|_| pack::Error::Abandoned)?;
    sink.flush().map_err(|_| pack::Error::Abandoned.into())
}

fn send_archive(source: &Source, opened: Opened, parts: &Parts) {
    let what = source.label();
    let mut reader: Box<dyn Read> = Box::new(io::stdin());
    let mut bytes = None;
    if let Source::Archive(path) = source {
        let file = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        match file {
            Ok((metadata, file)) => {
                bytes = metadata.is_file().then_some(metadata.len());
                reader = Box::new(file);
            }
            Err(source) => {
                let _ = opened.send(Err(Error::Read { what, source }));
                return;
            }
        }
    }

    let mut part = BytesMut::zeroed(PART);
    let mut filled = 0;
    // The first part is filled as far as sniffing needs, every later one by a single read.
    while filled < SNIFF {
        match read(&mut reader, &mut part[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(source) => {
                let _ = opened.send(Err(Error::Read { what, source }));
                return;
            }
        }
    }
    if filled == 0 {
        let _ = opened.send(Err(Error::Empty(what)));
        return;
    }
    let opening = Opening {
        media_type: media_type(&part[..filled]),
        bytes,
        files: None,
    };
    if opened.send(Ok(opening)).is_err() {
        return;
    }

    let mut total = 0;
    while filled > 0 {
        part.truncate(filled);
        total += filled as u64;
        if parts.blocking_send(Ok(part.freeze())).is_err() {
            return;
        }
        part = BytesMut::zeroed(PART);
        filled = match read(&mut reader, &mut part) {
            Ok(read) => read,
            Err(source) => {
                let _ = parts.blocking_send(Err(Error::Read { what, source }));
                return;
            }
        };
    }
    if bytes.is_some_and(|bytes| bytes != total) {
        let _ = parts.blocking_send(Err(Error::Pack(pack::Error::Changed {
            path: what,
            what: "changed its size",
        })));
    }
}

fn read(reader: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The media type of an archive by its first bytes. The server looks too: an unknown one is sent as octets and
/// the pipeline's extract plugin decides.
fn media_type(start: &[u8]) -> &'static str {
    if start.get(257..262) == Some(b"ustar") {
        "application/x-tar"
    } else if start.starts_with(&[0x1f, 0x8b]) {
        "application/gzip"
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        "application/zstd"
    } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        "application/zip"
    } else {
        "application/octet-stream"
    }
}

/// Gathers small writes into parts.
struct Sink {
    parts: Parts,
    buffer: BytesMut,
}

impl Sink {
    fn new(parts: Parts) -> Sink {
        Sink {
            parts,
            buffer: BytesMut::with_capacity(PART),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PART));
        self.parts
            .blocking_send(Ok(part.freeze()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PART {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests;
