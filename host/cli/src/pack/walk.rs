//! Looking at a directory: what is in the package, and what cannot be.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use ignore::WalkBuilder;

use super::{Entry, Error, IGNORE, Kind, MANIFEST, Plan, Problems, header, links};

/// Looks at the directory `root`: every entry of the package, its order and its size.
///
/// # Errors
///
/// [`Error::Entries`] names entries that a package cannot hold, [`Error::Ignore`] a bad pattern,
/// [`Error::Read`] what the file system refused.
pub(crate) fn plan(root: &Path) -> Result<Plan, Error> {
    let root = fs::canonicalize(root).map_err(|source| Error::Read {
        path: root.to_owned(),
        source,
    })?;
    let mut problems = Problems::default();
    let mut entries = Vec::new();
    for found in walker(&root) {
        let found = found.map_err(|error| unreadable(&root, error))?;
        if let Some(error) = found.error() {
            return Err(Error::Ignore(error.clone()));
        }
        let Ok(relative) = found.path().strip_prefix(&root) else {
            continue;
        };
        if relative.as_os_str().is_empty() {
            continue;
        }
        let Some(path) = relative.to_str() else {
            problems.add(&relative.to_string_lossy(), "the name is not UTF-8");
            continue;
        };
        if path == MANIFEST || path == IGNORE {
            continue;
        }
        match kind(found.path()) {
            Ok(Ok(kind)) => entries.push(Entry {
                path: path.to_owned(),
                kind,
            }),
            Ok(Err(why)) => problems.add(path, why),
            Err(source) => {
                let path = found.path().to_owned();
                return Err(Error::Read { path, source });
            }
        }
    }
    entries.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    check_links(&root, &entries, &mut problems);
    problems.into_result()?;

    let mut plan = Plan {
        files: 0,
        tar_bytes: header::END.len() as u64,
        root,
        entries,
    };
    for entry in &plan.entries {
        plan.tar_bytes += header::blocks(entry).len() as u64;
        if let Kind::File { bytes, .. } = entry.kind {
            plan.files += 1;
            plan.tar_bytes += bytes + header::padding(bytes) as u64;
        }
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

/// Every rule about what is walked, in one place: only ignore files inside the directory count.
fn walker(root: &Path) -> ignore::Walk {
    WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .add_custom_ignore_filename(IGNORE)
        .follow_links(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build()
}

/// What an entry is, or why it has no place in a package.
fn kind(path: &Path) -> std::io::Result<Result<Kind, &'static str>> {
    let metadata = fs::symlink_metadata(path)?;
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
            source: std::io::Error::other("it cannot be walked"),
        },
    }
}
