//! A package on its way out: a directory, an archive or standard input, as one bounded stream of bytes.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
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
    /// The bytes, in order; an error is the last thing in it. Its end without an error is the package's end.
    pub(crate) parts: mpsc::Receiver<Result<Bytes, Error>>,
}

/// A package that was looked at: what it is, and how long.
///
/// It is opened as often as it has to be sent, but for standard input, which is read once.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What the bytes are.
    pub(crate) media_type: &'static str,
    /// Exact length, when it is known before the end.
    pub(crate) bytes: Option<u64>,
    /// Regular files in it, when it is packed here.
    pub(crate) files: Option<u64>,
    from: Origin,
}

#[derive(Debug)]
enum Origin {
    Directory { plan: Arc<Plan>, compress: bool },
    Archive(PathBuf),
    Once(Option<Package>),
}

/// Which bytes of a package are wanted, and what is to be said of all of them.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// These are read, and left out.
    pub(crate) skip: u64,
    /// Gets the BLAKE3 of the whole package when it was read to its end.
    pub(crate) digest: Option<oneshot::Sender<String>>,
}

impl Prepared {
    /// Looks at `source`: plans a directory, or reads the first bytes of an archive.
    ///
    /// # Errors
    ///
    /// Whatever makes the package impossible before its first byte.
    pub(crate) async fn of(source: &Source, compress: bool) -> Result<Prepared, Error> {
        if let Source::Directory(path) = source {
            let path = path.clone();
            let plan = blocking(move || Ok(pack::plan(&path)?)).await?;
            return Ok(Prepared {
                media_type: if compress {
                    "application/zstd"
                } else {
                    "application/x-tar"
                },
                bytes: (!compress).then_some(plan.tar_bytes),
                files: Some(plan.files),
                from: Origin::Directory {
                    plan: Arc::new(plan),
                    compress,
                },
            });
        }
        let package = open_archive(source, Wanted::default()).await?;
        let (media_type, bytes) = (package.media_type, package.bytes);
        let from = match source {
            // A pipe with a name is read once, as standard input is.
            Source::Archive(path) if bytes.is_some() => Origin::Archive(path.clone()),
            _ => Origin::Once(Some(package)),
        };
        Ok(Prepared {
            media_type,
            bytes,
            files: None,
            from,
        })
    }

    /// Whether it can be opened again, with the same bytes and a length that is known.
    pub(crate) fn is_repeatable(&self) -> bool {
        match &self.from {
            Origin::Directory { compress, .. } => !compress,
            Origin::Archive(_) => true,
            Origin::Once(_) => false,
        }
    }

    /// The plan of a directory that is sent as a plain tar.
    pub(crate) fn plan(&self) -> Option<&Arc<Plan>> {
        match &self.from {
            Origin::Directory { plan, compress } => Some(plan).filter(|_| !compress),
            Origin::Archive(_) | Origin::Once(_) => None,
        }
    }

    /// Something that changes whenever the package is likely to have changed: names, lengths and times of its
    /// files. Whether it really did not, its digest says in the end.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.media_type.as_bytes());
        match &self.from {
            Origin::Directory { plan, .. } => plan.fingerprint(&mut hasher),
            Origin::Archive(path) => pack::fingerprint(path, &mut hasher),
            Origin::Once(_) => {}
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Opens it. The reading thread ends when [`Package::parts`] is dropped; one that waits in a read of standard
    /// input ends with the process.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for standard input that was read already, [`Error::Read`] for what cannot be read.
    pub(crate) async fn open(&mut self, wanted: Wanted) -> Result<Package, Error> {
        let (plan, compress) = match &mut self.from {
            Origin::Directory { plan, compress } => (Arc::clone(plan), *compress),
            Origin::Archive(path) => {
                return open_archive(&Source::Archive(path.clone()), wanted).await;
            }
            Origin::Once(package) => {
                return package.take().ok_or_else(|| {
                    Error::Argument(
                        "standard input was read already and cannot be sent again".to_owned(),
                    )
                });
            }
        };
        let (sender, parts) = mpsc::channel(PARTS);
        spawn(move || send_directory(&plan, compress, wanted, sender))?;
        Ok(Package {
            media_type: self.media_type,
            bytes: self.bytes,
            parts,
        })
    }
}

async fn open_archive(source: &Source, wanted: Wanted) -> Result<Package, Error> {
    let (opened, open) = oneshot::channel();
    let (sender, parts) = mpsc::channel(PARTS);
    let source = source.clone();
    spawn(move || send_archive(&source, opened, wanted, sender))?;
    let opening = open.await.map_err(|_| Error::Read {
        what: "the package".to_owned(),
        source: io::Error::other("its reader stopped"),
    })??;
    Ok(Package {
        media_type: opening.media_type,
        bytes: opening.bytes,
        parts,
    })
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new()
        .name("package".to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|source| Error::Read {
            what: "the package (no thread could be started)".to_owned(),
            source,
        })
}

/// Does what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Read {
            what: "the package".to_owned(),
            source: io::Error::other("its reader stopped"),
        })?
}

/// What is known before the first part.
struct Opening {
    media_type: &'static str,
    bytes: Option<u64>,
}

type Opened = oneshot::Sender<Result<Opening, Error>>;
type Parts = mpsc::Sender<Result<Bytes, Error>>;

fn send_directory(plan: &Plan, compress: bool, wanted: Wanted, parts: Parts) {
    let mut sink = Sink::new(parts, wanted);
    let written = if compress {
        write_compressed(plan, &mut sink)
    } else {
        plan.write(&mut sink).map_err(Error::from)
    };
    match written {
        Ok(()) => sink.end(),
        Err(Error::Pack(pack::Error::Abandoned)) => {}
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

fn send_archive(source: &Source, opened: Opened, wanted: Wanted, parts: Parts) {
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
    };
    if opened.send(Ok(opening)).is_err() {
        return;
    }

    let mut sink = Sink::new(parts, wanted);
    let mut total = 0;
    while filled > 0 {
        total += filled as u64;
        if sink.write_all(&part[..filled]).is_err() || sink.flush().is_err() {
            return;
        }
        filled = match read(&mut reader, &mut part) {
            Ok(read) => read,
            Err(source) => {
                let _ = sink.parts.blocking_send(Err(Error::Read { what, source }));
                return;
            }
        };
    }
    if bytes.is_some_and(|bytes| bytes != total) {
        let _ = sink
            .parts
            .blocking_send(Err(Error::Pack(pack::Error::Changed {
                path: what,
                what: "changed its size",
            })));
        return;
    }
    sink.end();
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

/// Gathers small writes into parts, without the first bytes if they are not wanted.
struct Sink {
    parts: Parts,
    buffer: BytesMut,
    skip: u64,
    /// Of everything, wanted or not.
    digest: Option<(blake3::Hasher, oneshot::Sender<String>)>,
}

impl Sink {
    fn new(parts: Parts, wanted: Wanted) -> Sink {
        Sink {
            parts,
            buffer: BytesMut::with_capacity(PART),
            skip: wanted.skip,
            digest: wanted.digest.map(|digest| (blake3::Hasher::new(), digest)),
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

    /// Says what the digest of everything is, before anybody sees the end.
    fn end(self) {
        if let Some((hasher, digest)) = self.digest {
            let _ = digest.send(hasher.finalize().to_hex().to_string());
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART - self.buffer.len());
        let bytes = &bytes[..taken];
        if let Some((hasher, _)) = &mut self.digest {
            hasher.update(bytes);
        }
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(taken);
        self.skip -= skipped as u64;
        self.buffer.extend_from_slice(&bytes[skipped..]);
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
