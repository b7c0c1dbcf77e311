//! Taking a backup, beside the server that has the directory.
//!
//! The order makes it whole. How long the event logs are is noted first, then the ledger is copied, then the index
//! of the packages, and the packs that it names get a second name, so that a collector may remove the first. What
//! the ledger names was durable before it was named; so everything after the ledger's copy has at least what the
//! ledger needs. What vanishes meanwhile, because somebody removed it, makes the whole thing start again.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cofferdam_ledger::Ledger;
use uuid::Uuid;

use super::Backup;
use super::manifest::{FORMAT, HEAD, Head, Item, MANIFEST};
use crate::catalog::blocking;
use crate::error::Error;
use crate::record::Time;

/// How often a backup starts again because something vanished under it.
const ATTEMPTS: u32 = 5;

/// The directory in which a backup is prepared; on the same file system, so that packs can be linked.
const WORK: &str = ".backup";

/// Held while a backup is taken: two would prepare in the same place.
const LOCK: &str = "backup.lock";

/// The level of compression: packs are compressed already, the rest is small.
const LEVEL: i32 = 1;

/// What is copied as it is, where it is there.
const SINGLE: [&str; 4] = ["FORMAT", "admin.token", "policy.toml", "secrets.key"];

/// Writes a backup of the data directory into a new file, mode 0600. A server may be running over the directory.
///
/// # Errors
///
/// [`Error::DataDirectory`] when that is none, [`Error::Conflict`] when another backup is being taken or the directory
/// changes faster than it can be copied; when something cannot be read or written. The file is whole or not there.
pub async fn take(data: &Path, file: &Path) -> Result<Backup, Error> {
    let ledger = data.join("ledger.db");
    if !data.join("FORMAT").is_file() || !ledger.is_file() {
        return Err(Error::DataDirectory {
            message: format!(
                "{} is not a data directory: name one with --data",
                data.display()
            ),
        });
    }
    let lock = lock(data)?;
    let work = data.join(WORK);
    let mut attempt = 1;
    let taken = loop {
        match once(data, &work, file).await {
            // Removed by the server between being named and being read.
            Err(Error::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            Err(Error::Io { source, action }) if source.kind() == io::ErrorKind::NotFound => {
                break Err(Error::Conflict {
                    message: format!(
                        "{ATTEMPTS} times something was removed while it was copied (the last: cannot {action}); \
                         try again when less happens"
                    ),
                });
            }
            taken => break taken,
        }
    };
    remove(&work)?;
    drop(lock);
    taken
}

async fn once(data: &Path, work: &Path, file: &Path) -> Result<Backup, Error> {
    remove(work)?;
    let make = Error::io(format!("make {}", work.display()));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(work)
        .map_err(make)?;
    let lengths = event_lengths(&data.join("events"))?;
    let ledger = work.join("ledger.db");
    cofferdam_ledger::snapshot(&data.join("ledger.db"), &ledger).await?;
    let unfinished = unfinished(&ledger).await?;
    let index = work.join("index.db");
    let copy = cofferdam_blobs::copy_index(&data.join("blobs"), &index).await?;
    let (data, work, file) = (data.to_owned(), work.to_owned(), file.to_owned());
    blocking(move || {
        let packs = work.join("packs");
        fs::create_dir(&packs).map_err(Error::io(format!("make {}", packs.display())))?;
        let mut linked = Vec::new();
        for (at, pack) in copy.packs.iter().enumerate() {
            let (from, to) = (data.join("blobs").join(pack), packs.join(at.to_string()));
            fs::hard_link(&from, &to).map_err(Error::io(format!("link {}", from.display())))?;
            linked.push((to, Path::new("blobs").join(pack)));
        }
        whole(&file, |out| {
            let mut archive = Archive::begin(out)?;
            for name in SINGLE {
                let path = data.join(name);
                if path.exists() {
                    archive.file(&path, Path::new(name), None)?;
                }
            }
            archive.file(&ledger, Path::new("ledger.db"), None)?;
            archive.file(&index, &Path::new("blobs").join(&copy.index), None)?;
            for (path, name) in &linked {
                archive.file(path, name, None)?;
            }
            archive.events(&data.join("events"), &lengths, &unfinished)?;
            archive.plugins(&data.join("plugins"))?;
            archive.tree(&data.join("releases"), Path::new("releases"))?;
            archive.finish()
        })
    })
    .await?
}

fn lock(data: &Path) -> Result<File, Error> {
    let path = data.join(LOCK);
    let failed = Error::io(format!("open {}", path.display()));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    file.try_lock().map_err(|_| Error::Conflict {
        message: format!("another backup of {} is being taken", data.display()),
    })?;
    Ok(file)
}

fn remove(work: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", work.display()))(error))
        }
        _ => Ok(()),
    }
}

/// How long each event log is now.
fn event_lengths(events: &Path) -> Result<HashMap<PathBuf, u64>, Error> {
    let mut lengths = HashMap::new();
    for path in entries(events)? {
        // A log that goes away meanwhile is a log that is not copied.
        if let Ok(metadata) = fs::metadata(&path) {
            lengths.insert(path, metadata.len());
        }
    }
    Ok(lengths)
}

/// The deployments that had not ended when the ledger was copied.
async fn unfinished(ledger: &Path) -> Result<Vec<Uuid>, Error> {
    let ledger = Ledger::open(ledger).await?;
    let rows = ledger.unfinished().await;
    // Back into one file, without a log beside it.
    ledger.close().await;
    Ok(rows?.iter().map(|row| row.id).collect())
}

/// Writes a file that is whole or not there.
fn whole<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T, Error>) -> Result<T, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", Uuid::now_v7().simple()));
    let failed = || Error::io(format!("write {}", path.display()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(|error| match error.kind() {
            // Not to be taken for something that vanished.
            io::ErrorKind::NotFound => Error::DataDirectory {
                message: format!(
                    "cannot write {}: its directory does not exist",
                    path.display()
                ),
            },
            _ => failed()(error),
        })?;
    let written = write(&mut file).and_then(|written| {
        file.sync_all().map_err(failed())?;
        fs::rename(&temporary, path).map_err(failed())?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(failed())?;
        Ok(written)
    });
    if written.is_err() {
        // It is of no use; that it may not go away changes nothing about the error.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// What a directory holds, sorted; nothing when it is not there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
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

/// The archive that is being written.
struct Archive<'a> {
    tar: tar::Builder<zstd::stream::Encoder<'static, &'a mut File>>,
    manifest: Vec<u8>,
    backup: Backup,
}

fn unwritten(source: io::Error) -> Error {
    Error::io("write the backup")(source)
}

impl<'a> Archive<'a> {
    fn begin(out: &'a mut File) -> Result<Self, Error> {
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
    fn file(&mut self, path: &Path, name: &Path, most: Option<u64>) -> Result<(), Error> {
        let failed = || Error::io(format!("read {}", path.display()));
        let file = File::open(path).map_err(failed())?;
        let metadata = file.metadata().map_err(failed())?;
        // A log may grow while it is copied: it is as long as it was when it was opened.
        let bytes = most.unwrap_or(u64::MAX).min(metadata.len());
        let mode = metadata.permissions().mode() & 0o777;
        let mut header = header(tar::EntryType::Regular, mode, bytes);
        let mut hashed = Hashed {
            inner: file.take(bytes),
            hasher: blake3::Hasher::new(),
        };
        self.tar
            .append_data(&mut header, name, &mut hashed)
            .map_err(failed())?;
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
    fn events(
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
    fn plugins(&mut self, plugins: &Path) -> Result<(), Error> {
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

    /// A directory with everything in it, without following links.
    fn tree(&mut self, directory: &Path, name: &Path) -> Result<(), Error> {
        for path in entries(directory)? {
            let failed = || Error::io(format!("read {}", path.display()));
            let name = name.join(path.file_name().unwrap_or_default());
            let metadata = fs::symlink_metadata(&path).map_err(failed())?;
            let mode = metadata.permissions().mode() & 0o777;
            if metadata.is_dir() {
                let mut header = header(tar::EntryType::Directory, mode, 0);
                self.tar
                    .append_data(&mut header, &name, io::empty())
                    .map_err(unwritten)?;
                self.note(&Item::Directory {
                    path: text_of(&name)?,
                });
                self.tree(&path, &name)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(failed())?;
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                self.tar
                    .append_link(&mut header, &name, &target)
                    .map_err(unwritten)?;
                self.note(&Item::Link {
                    path: text_of(&name)?,
                    target: text_of(&target)?,
                });
            } else {
                self.file(&path, &name, None)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Backup, Error> {
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
