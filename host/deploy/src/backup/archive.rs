//! The archive of a backup, as it is written.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Backup;
use super::manifest::{FORMAT, HEAD, Head, Item, MANIFEST};
use crate::error::Error;
use crate::record::Time;

/// The level of compression: packs are compressed already, the rest is small.
const LEVEL: i32 = 1;

/// The archive that is being written.
pub(super) struct Archive<'a> {
    tar: tar::Builder<zstd::stream::Encoder<'static, &'a mut File>>,
    manifest: Vec<u8>,
    backup: Backup,
}

fn unwritten(source: io::Error) -> Error {
    Error::io("write the backup")(source)
}

impl<'a> Archive<'a> {
    pub(super) fn begin(out: &'a mut File) -> Result<Self, Error> {
        let encoder = zstd::stream::Encoder::new(out, LEVEL).map_err(unwritten)?;
        let mut this = Self {
            tar: tar::Builder::new(encoder),
            manifest: Vec::new(),
            backup: Backup::default(),
        };
        let head = Head {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: Time::now().to_string(),
        };
        let head = serde_json::to_vec(&head).expect("it has only a number and strings");
        this.text(HEAD, &head)?;
        Ok(this)
    }

    fn text(&mut self, name: &str, text: &[u8]) -> Result<(), Error> {
        let mut header = header(tar::EntryType::Regular, 0o600, text.len() as u64);
        self.tar
            .append_data(&mut header, name, text)
            .map_err(unwritten)
    }

    fn note(&mut self, item: &Item) {
        serde_json::to_writer(&mut self.manifest, item).expect("a vector takes what is written");
        self.manifest.push(b'\n');
        self.backup.entries += 1;
    }

    /// A file, or its first `most` bytes.
    pub(super) fn file(
        &mut self,
        path: &Path,
        name: &Path,
        most: Option<u64>,
    ) -> Result<(), Error> {
        let failed = || Error::io(format!("read {}", path.display()));
        let file = File::open(path).map_err(failed())?;
        let metadata = file.metadata().map_err(failed())?;
        let bytes = most.unwrap_or(u64::MAX).min(metadata.len());
        self.beginning(file, bytes, metadata.permissions().mode(), name, failed())
    }

    /// The first `bytes` bytes of a file. It has at least as many, and may grow meanwhile.
    pub(super) fn beginning(
        &mut self,
        file: File,
        bytes: u64,
        mode: u32,
        name: &Path,
        failed: impl FnOnce(io::Error) -> Error,
    ) -> Result<(), Error> {
        let mut header = header(tar::EntryType::Regular, mode & 0o777, bytes);
        let mut hashed = Hashed {
            inner: file.take(bytes),
            hasher: blake3::Hasher::new(),
        };
        self.tar
            .append_data(&mut header, name, &mut hashed)
            .map_err(failed)?;
        let blake3 = hashed.hasher.finalize().to_hex().to_string();
        let path = text_of(name)?;
        self.note(&Item::File {
            path,
            bytes,
            blake3,
        });
        self.backup.bytes += bytes;
        Ok(())
    }

    /// The event logs: of deployments that had ended all of it, of the others what there was before.
    pub(super) fn events(
        &mut self,
        events: &Path,
        lengths: &HashMap<PathBuf, u64>,
        unfinished: &[Uuid],
    ) -> Result<(), Error> {
        for path in entries(events)? {
            let name = path.file_name().unwrap_or_default();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let running = id
                .and_then(|id| Uuid::try_parse(id).ok())
                .is_some_and(|id| unfinished.contains(&id));
            let most = if running {
                let length = lengths.get(&path).copied().unwrap_or_default();
                Some(lines_within(&path, length)?)
            } else {
                None
            };
            match self.file(&path, &Path::new("events").join(name), most) {
                // A marker goes when its log is complete, and a log with its deployment.
                Err(Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !running => {}
                added => added?,
            }
        }
        Ok(())
    }

    /// Admitted components; what was compiled from them is made again.
    pub(super) fn plugins(&mut self, plugins: &Path) -> Result<(), Error> {
        for path in entries(plugins)? {
            if path
                .extension()
                .is_some_and(|extension| extension == "wasm")
            {
                let name = path.file_name().unwrap_or_default();
                self.file(&path, &Path::new("plugins").join(name), None)?;
            }
        }
        Ok(())
    }

    /// A directory, without what is in it.
    pub(super) fn directory(&mut self, name: &Path, mode: u32) -> Result<(), Error> {
        let mut header = header(tar::EntryType::Directory, mode & 0o777, 0);
        self.tar
            .append_data(&mut header, name, io::empty())
            .map_err(unwritten)?;
        self.note(&Item::Directory {
            path: text_of(name)?,
        });
        Ok(())
    }

    pub(super) fn link(&mut self, name: &Path, target: &Path) -> Result<(), Error> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.tar
            .append_link(&mut header, name, target)
            .map_err(unwritten)?;
        self.note(&Item::Link {
            path: text_of(name)?,
            target: text_of(target)?,
        });
        Ok(())
    }

    /// Notes that something is left out.
    pub(super) fn skip(&mut self) {
        self.backup.skipped += 1;
    }

    /// What is in a directory of which nothing changes, without following links.
    pub(super) fn tree(&mut self, directory: &Path, name: &Path) -> Result<(), Error> {
        for path in entries(directory)? {
            let failed = || Error::io(format!("read {}", path.display()));
            let name = name.join(path.file_name().unwrap_or_default());
            let metadata = fs::symlink_metadata(&path).map_err(failed())?;
            let mode = metadata.permissions().mode();
            if metadata.is_dir() {
                self.directory(&name, mode)?;
                self.tree(&path, &name)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(failed())?;
                self.link(&name, &target)?;
            } else {
                self.file(&path, &name, None)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Backup, Error> {
        let manifest = std::mem::take(&mut self.manifest);
        self.text(MANIFEST, &manifest)?;
        let encoder = self.tar.into_inner().map_err(unwritten)?;
        let out = encoder.finish().map_err(unwritten)?;
        out.flush().map_err(unwritten)?;
        Ok(self.backup)
    }
}

fn header(kind: tar::EntryType, mode: u32, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_mtime(0);
    header
}

/// A path as the manifest writes it. Releases may have names that are no text.
fn text_of(path: &Path) -> Result<String, Error> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::DataDirectory {
            message: format!(
                "{} has a name that is not UTF-8, which a backup cannot hold: deploy that release with another name",
                path.display()
            ),
        }),
    }
}

/// What a directory holds, sorted; nothing when it is not there.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = || Error::io(format!("read {}", directory.display()));
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed())?,
    };
    let paths = listed.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(failed())?;
    paths.sort();
    Ok(paths)
}

/// How many of the first `length` bytes of a log are whole lines, up to what would end it.
fn lines_within(path: &Path, length: u64) -> Result<u64, Error> {
    let failed = || Error::io(format!("read {}", path.display()));
    let file = File::open(path).map_err(failed())?;
    let mut lines = BufReader::new(file.take(length));
    let (mut whole, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).map_err(failed())?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok(whole);
        }
        whole += read as u64;
    }
}

/// A reader that hashes what is read.
struct Hashed<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
