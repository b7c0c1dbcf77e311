//! Looking at a directory: what is in the package, and what cannot be.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use ignore::{DirEntry, WalkBuilder, WalkParallel, WalkState};

use super::{Entry, Error, IGNORE, Kind, MANIFEST, Plan, Problems, header, links};

/// A file that was touched less long ago has no stamp: the clocks of file systems are coarse, and those of other machines
/// may be ahead.
const UNSETTLED_SECONDS: i64 = 2;

/// The most threads that look at a directory: more wait for each other.
const THREADS: usize = 4;

/// Looks at the directory `root`: every entry of the package, its order and its size.
///
/// # Errors
///
/// [`Error::Entries`] names entries that a package cannot hold, [`Error::Ignore`] a bad pattern,
/// [`Error::Read`] what the file system refused.
pub(crate) fn plan(root: &Path) -> Result<Plan, Error> {
    plan_at(root, SystemTime::now())
}

/// The same at another time.
pub(crate) fn plan_at(root: &Path, now: SystemTime) -> Result<Plan, Error> {
    let root = fs::canonicalize(root).map_err(|source| Error::Read {
        path: root.to_owned(),
        source,
    })?;
    let Walked {
        mut entries,
        mut refused,
        failed,
    } = walk(&root, now);
    if let Some(error) = failed {
        return Err(error);
    }
    // Several threads find them in any order.
    entries.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    refused.sort_unstable();
    let mut problems = Problems::default();
    for (path, why) in refused {
        problems.add(&path, why);
    }
    check_links(&root, &entries, &mut problems);
    problems.into_result()?;

    let mut plan = Plan {
        files: 0,
        tar_bytes: header::END.len() as u64,
        root,
        entries,
    };
    for entry in &plan.entries {
        plan.tar_bytes += entry.tar_bytes;
        plan.files += u64::from(matches!(entry.kind, Kind::File { .. }));
    }
    Ok(plan)
}

impl Plan {
    /// Adds what identifies the planned entries as they are now, without reading them.
    pub(crate) fn fingerprint(&self, hasher: &mut blake3::Hasher) {
        for entry in &self.entries {
            hasher.update(&header::blocks(entry));
            if matches!(entry.kind, Kind::File { .. }) {
                fingerprint(&self.root.join(&entry.path), hasher);
            }
        }
    }
}

/// Adds what identifies a file's content as it is now, without reading it.
pub(crate) fn fingerprint(path: &Path, hasher: &mut blake3::Hasher) {
    let Ok(metadata) = fs::metadata(path) else {
        // Whoever reads it will say so.
        return;
    };
    hasher.update(path.as_os_str().as_bytes());
    identify(&metadata, hasher);
}

/// Adds what changes when a file's content does.
fn identify(metadata: &Metadata, hasher: &mut blake3::Hasher) {
    for number in [
        metadata.ino(),
        metadata.len(),
        metadata.mtime().unsigned_abs(),
        metadata.mtime_nsec().unsigned_abs(),
        metadata.ctime().unsigned_abs(),
        metadata.ctime_nsec().unsigned_abs(),
    ] {
        hasher.update(&number.to_le_bytes());
    }
}

/// What the walk found at one place.
enum Found {
    Entry(Entry),
    /// What a package cannot hold, and why.
    Refused(String, &'static str),
}

/// What the walk found in all.
#[derive(Default)]
struct Walked {
    entries: Vec<Entry>,
    refused: Vec<(String, &'static str)>,
    failed: Option<Error>,
}

/// Walks the directory on a few threads: most of it is waiting for the kernel.
fn walk(root: &Path, now: SystemTime) -> Walked {
    let walked = Mutex::new(Walked::default());
    walker(root).run(|| {
        Box::new(|entry| {
            let found = entry
                .map_err(|error| unreadable(root, error))
                .and_then(|entry| judge(root, &entry, now));
            // Nothing panics under the lock.
            let mut walked = walked.lock().unwrap_or_else(PoisonError::into_inner);
            match found {
                Ok(None) => {}
                Ok(Some(Found::Entry(entry))) => walked.entries.push(entry),
                Ok(Some(Found::Refused(path, why))) => walked.refused.push((path, why)),
                Err(error) => {
                    walked.failed = Some(error);
                    return WalkState::Quit;
                }
            }
            WalkState::Continue
        })
    });
    walked.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What an entry is to the package; nothing when it has no part in it.
fn judge(root: &Path, entry: &DirEntry, now: SystemTime) -> Result<Option<Found>, Error> {
    if let Some(error) = entry.error() {
        return Err(Error::Ignore(error.clone()));
    }
    let Ok(relative) = entry.path().strip_prefix(root) else {
        return Ok(None);
    };
    if relative.as_os_str().is_empty() {
        return Ok(None);
    }
    let refused = |why| Found::Refused(relative.to_string_lossy().into_owned(), why);
    let Some(path) = relative.to_str() else {
        return Ok(Some(refused("the name is not UTF-8")));
    };
    if path == MANIFEST || path == IGNORE {
        return Ok(None);
    }
    match look(entry.path(), path, now) {
        Ok(Ok(entry)) => Ok(Some(Found::Entry(entry))),
        Ok(Err(why)) => Ok(Some(refused(why))),
        Err(source) => Err(Error::Read {
            path: entry.path().to_owned(),
            source,
        }),
    }
}

/// Every rule about what is walked, in one place: only ignore files inside the directory count.
fn walker(root: &Path) -> WalkParallel {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .add_custom_ignore_filename(IGNORE)
        .follow_links(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .threads(processors.min(THREADS))
        .build_parallel()
}

/// What an entry is, or why it has no place in a package.
fn look(full: &Path, path: &str, now: SystemTime) -> io::Result<Result<Entry, &'static str>> {
    let metadata = fs::symlink_metadata(full)?;
    let kind = match kind(full, &metadata)? {
        Ok(kind) => kind,
        Err(why) => return Ok(Err(why)),
    };
    let mut entry = Entry {
        path: path.to_owned(),
        kind,
        tar_bytes: 0,
        stamp: None,
    };
    let blocks = header::blocks(&entry);
    entry.tar_bytes = blocks.len() as u64;
    let mut stamp = blake3::Hasher::new();
    stamp.update(&blocks);
    let mut is_settled = true;
    if let Kind::File { bytes, .. } = entry.kind {
        entry.tar_bytes += bytes + header::padding(bytes) as u64;
        identify(&metadata, &mut stamp);
        is_settled = was_left_alone(&metadata, now);
    }
    entry.stamp = stamp
        .finalize()
        .as_bytes()
        .first_chunk()
        .copied()
        .filter(|_| is_settled);
    Ok(Ok(entry))
}

/// Whether a file was last touched so long ago that whatever touches it next gives it another time.
fn was_left_alone(metadata: &Metadata, now: SystemTime) -> bool {
    let Ok(now) = now.duration_since(UNIX_EPOCH) else {
        return false;
    };
    let before = i64::try_from(now.as_secs())
        .unwrap_or(i64::MAX)
        .saturating_sub(UNSETTLED_SECONDS);
    metadata.ctime() < before && metadata.mtime() < before
}

/// What an entry is, or why it has no place in a package.
fn kind(path: &Path, metadata: &Metadata) -> io::Result<Result<Kind, &'static str>> {
    let file_type = metadata.file_type();
    Ok(if file_type.is_dir() {
        Ok(Kind::Directory)
    } else if file_type.is_file() {
        Ok(Kind::File {
            bytes: metadata.len(),
            executable: metadata.permissions().mode() & 0o111 != 0,
        })
    } else if file_type.is_symlink() {
        match fs::read_link(path)?.into_os_string().into_string() {
            Ok(target) => Ok(Kind::Link { target }),
            Err(_) => Err("the symlink's target is not UTF-8"),
        }
    } else if file_type.is_socket() {
        Err("sockets cannot be packed: remove it, or name it in .cofferdamignore")
    } else if file_type.is_fifo() {
        Err("named pipes cannot be packed: remove it, or name it in .cofferdamignore")
    } else {
        Err("devices cannot be packed: remove it, or name it in .cofferdamignore")
    })
}

fn check_links(root: &Path, entries: &[Entry], problems: &mut Problems) {
    let is_link = |entry: &Entry| matches!(entry.kind, Kind::Link { .. });
    if !entries.iter().any(is_link) {
        return;
    }
    let by_path: HashMap<&str, &Kind> = entries
        .iter()
        .map(|entry| (entry.path.as_str(), &entry.kind))
        .collect();
    for entry in entries {
        if let Kind::Link { target } = &entry.kind {
            let exists = |path: &str| fs::symlink_metadata(root.join(path)).is_ok();
            if let Err(why) = links::check(&entry.path, target, &by_path, exists) {
                problems.add(&entry.path, why);
            }
        }
    }
}

/// The walk's own errors, with the path that the walk knew.
fn unreadable(root: &Path, error: ignore::Error) -> Error {
    let mut path = root.to_owned();
    let mut inner = &error;
    loop {
        match inner {
            ignore::Error::WithPath { path: at, err } => {
                path.clone_from(at);
                inner = err;
            }
            ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => {
                inner = err;
            }
            _ => break,
        }
    }
    match error.into_io_error() {
        Some(source) => Error::Read { path, source },
        None => Error::Read {
            path,
            source: io::Error::other("it cannot be walked"),
        },
    }
}
