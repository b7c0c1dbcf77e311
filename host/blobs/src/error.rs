//! What can go wrong in a store of blobs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::{BlobId, ChunkId, Digest};

/// What went wrong. Cheap to clone: the same failure is told to the writer and to every reader it ends.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk, or a quota on it, is full. The store goes on working; free some space and send again.
    #[error("no space left while {action} {}: free some space, then send it again", path.display())]
    StorageFull {
        /// What was being done, as a participle.
        action: &'static str,
        /// The file or directory it was done to.
        path: PathBuf,
    },
    /// The namespace holds as much as it may.
    #[error(
        "{namespace} holds {used} of the {quota} bytes that it may, and this needs more: remove blobs of it, or raise its quota"
    )]
    QuotaExceeded {
        /// Which.
        namespace: String,
        /// How many bytes it holds, running uploads included.
        used: u64,
        /// How many it may.
        quota: u64,
    },
    /// What is free on the disk is kept free.
    #[error(
        "{free} bytes are free for {} and {floor} have to stay free: free some space, then send it again",
        path.display()
    )]
    FloorReached {
        /// The store's directory.
        path: PathBuf,
        /// How many bytes are free.
        free: u64,
        /// How many have to stay free.
        floor: u64,
    },
    /// The file system refused.
    #[error("{action} {} failed: {source}{}", path.display(), what_to_do(source))]
    Io {
        /// What was being done, as a participle.
        action: &'static str,
        /// The file or directory it was done to.
        path: PathBuf,
        /// What the file system said.
        source: Arc<io::Error>,
    },
    /// The index (an `SQLite` file) refused.
    #[error("the chunk index {} failed while {action}: {source}{}", path.display(), what_to_do_with_index(source))]
    Index {
        /// What was being done, as a participle.
        action: &'static str,
        /// The index file.
        path: PathBuf,
        /// What `SQLite` said.
        source: Arc<sqlx::Error>,
    },
    /// The index on disk is not one that this version can use.
    #[error("the chunk index {} cannot be used by this version: {detail}", path.display())]
    Format {
        /// The index file.
        path: PathBuf,
        /// What is different.
        detail: String,
    },
    /// The `SQLite` that was linked can corrupt a write-ahead log.
    #[error(
        "SQLite {found} is too old: {minimum} or later is needed, because earlier ones can corrupt a write-ahead log"
    )]
    SqliteTooOld {
        /// The version that was linked.
        found: String,
        /// The least version that will do.
        minimum: &'static str,
    },
    /// Another process, or another store in this one, has the directory.
    #[error("the store {} is in use by another process", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// A namespace is 1 to 255 bytes.
    #[error(
        "a namespace of {bytes} bytes: it must have 1 to {} bytes",
        crate::MAX_NAMESPACE_BYTES
    )]
    Namespace {
        /// How long it was.
        bytes: usize,
    },
    /// No blob of this id is complete in this store.
    #[error("there is no blob {id}")]
    NotFound {
        /// The id that was asked for.
        id: BlobId,
    },
    /// A list of chunks leans on one that its namespace does not hold. Nothing tells apart one that nobody has, one
    /// that others have and one that was removed.
    #[error(
        "the list leans on a chunk that is not held: ask again which are missing, and send those"
    )]
    NotHeld,
    /// A list of chunks makes no sense.
    #[error("the list of chunks is not valid: {detail}")]
    List {
        /// What is wrong with it.
        detail: String,
    },
    /// A chunk that was sent is not the one that the list names.
    #[error("{0}")]
    ChunkMismatch(Box<Mismatch>),
    /// What was read is not what was written.
    #[error("{what} in {place} is corrupt: {detail}")]
    Corrupt {
        /// The chunk, or the part of a manifest.
        what: String,
        /// The pack's file name, or the index.
        place: String,
        /// How it is wrong.
        detail: String,
    },
    /// The blob was never finished; what was read of it so far is not the whole of it.
    #[error("the blob was not completed: {reason}")]
    Interrupted {
        /// Why.
        reason: String,
    },
    /// A reader that follows an upload saw no new byte for too long.
    #[error("no byte arrived for {} ms", after.as_millis())]
    IdleTimeout {
        /// How long it waited.
        after: Duration,
    },
    /// A part of the store itself broke. A defect: please report it.
    #[error("the store's {part} stopped without a word: this is a defect")]
    Defect {
        /// Which part.
        part: &'static str,
    },
}

/// What an operator does about it, where that is known.
fn what_to_do(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            ": see why the file system became read-only, and mount it for writing again"
        }
        io::ErrorKind::PermissionDenied => {
            ": give the user that runs this the right to write there again"
        }
        _ => "",
    }
}

/// The same for the index, by the low byte of `SQLite`'s codes (<https://www.sqlite.org/rescode.html>).
fn what_to_do_with_index(source: &sqlx::Error) -> &'static str {
    match sqlite_code(source).map(|code| code & 0xff) {
        // PERM, READONLY, CANTOPEN.
        Some(3 | 8 | 14) => {
            ": see whether the file system became read-only, and whether the user that runs this may write there"
        }
        // IOERR.
        Some(10) => ": see what the kernel says of the disk",
        // CORRUPT, NOTADB.
        Some(11 | 26) => ": `cofferdam store reindex` makes it anew from the packs",
        _ => "",
    }
}

fn sqlite_code(source: &sqlx::Error) -> Option<i32> {
    source.as_database_error()?.code()?.parse().ok()
}

/// What a chunk should be, and what it is.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "a chunk was sent whose {bytes} bytes have the digest {found}, and the list says {expected}"
)]
pub struct Mismatch {
    /// The digest in the list.
    pub expected: ChunkId,
    /// The digest of what was sent.
    pub found: Digest,
    /// How many bytes were sent.
    pub bytes: usize,
}

impl Error {
    /// Says what was done to `path` when the file system refused.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Error {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Error::StorageFull { action, path },
            _ => Error::Io {
                action,
                path,
                source: Arc::new(source),
            },
        }
    }

    /// Says what was done to the index at `path` when `SQLite` refused.
    pub(crate) fn index(action: &'static str, path: &Path, source: sqlx::Error) -> Error {
        /// `SQLITE_FULL`, the low byte of its extended codes too.
        const FULL: i32 = 13;
        /// `SQLITE_IOERR_SHMSIZE`: the file beside the log could not grow, which is a full disk too.
        const NO_ROOM_TO_SHARE: i32 = 4874;
        let code = sqlite_code(&source);
        if code.is_some_and(|code| code & 0xff == FULL || code == NO_ROOM_TO_SHARE) {
            return Error::StorageFull {
                action,
                path: path.to_path_buf(),
            };
        }
        Error::Index {
            action,
            path: path.to_path_buf(),
            source: Arc::new(source),
        }
    }

    /// What a reader is told about a writer that failed with this.
    pub(crate) fn interrupted(&self) -> Error {
        match self {
            Error::Interrupted { .. } => self.clone(),
            other => Error::Interrupted {
                reason: other.to_string(),
            },
        }
    }
}
