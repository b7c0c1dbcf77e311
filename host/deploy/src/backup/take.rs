//! Taking a backup, beside the server that has the directory.
//!
//! The order makes it whole. How long the event logs are is noted first, then the ledger is copied, then the index
//! of the packages, and the packs that it names get a second name, so that a collector may remove the first. What
//! the ledger names was durable before it was named; so everything after the ledger's copy has at least what the
//! ledger needs. What vanishes meanwhile, because somebody removed it, makes the whole thing start again.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use cofferdam_ledger::Ledger;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use uuid::Uuid;

use super::archive::{Archive, entries};
use super::{Backup, state};
use crate::catalog::blocking;
use crate::error::Error;

/// How often a backup starts again because something vanished under it.
const ATTEMPTS: u32 = 5;

/// The directory in which a backup is prepared; on the same file system, so that packs can be linked.
const WORK: &str = ".backup";

/// Held while a backup is taken: two would prepare in the same place.
const LOCK: &str = "backup.lock";

/// What is copied as it is, where it is there.
const SINGLE: [&str; 4] = ["FORMAT", "admin.token", "policy.toml", "secrets.key"];

/// Writes a backup of the data directory into a new file, mode 0600. A server may be running over the directory.
///
/// # Errors
///
/// [`Error::DataDirectory`] when that is none, [`Error::Conflict`] when the file is there, another backup is being
/// taken, or the directory changes faster than it can be copied; when something cannot be read or written. The file is
/// whole or not there.
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
    if fs::symlink_metadata(file).is_ok() {
        return Err(there(file));
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
            state::keep(&mut archive, &data.join("state"), &work.join("copy"))?;
            archive.finish()
        })
    })
    .await?
}

fn there(file: &Path) -> Error {
    Error::Conflict {
        message: format!(
            "{} is there already, and a backup replaces nothing: name another file, or a directory",
            file.display()
        ),
    }
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
        match renameat_with(CWD, &temporary, CWD, path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Err(there(path)),
            // A file system that cannot say so; that the name was free a moment ago has to do.
            Err(Errno::INVAL | Errno::NOSYS) => fs::rename(&temporary, path).map_err(failed())?,
            renamed => renamed.map_err(|error| failed()(error.into()))?,
        }
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
