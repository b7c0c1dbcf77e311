//! From a staging directory to an immutable, digested, durable release.
//!
//! In this order, once the last step's store is gone: [`inspect`] walks the tree by descriptors, following
//! no link, refuses what a release may not hold, makes the rest uniform and digests it; [`make_durable`]
//! brings it to the disk; [`publish`] renames it to its place and makes the renaming durable. What is not
//! to be is put out of sight by [`discard`] and removed by [`empty_trash`].
//!
//! A release holds directories, regular files and symbolic links that stay inside it, and nothing else.
//! Directories have mode 0755, files 0755 if their owner may execute them and 0644 otherwise; nothing is
//! setuid, setgid or sticky; no file has a second name, here or elsewhere; there are no extended
//! attributes but the system's own labels; names are UTF-8.
//!
//! - `walk`: the walk, and its limits
//! - `normalise`: modes, attributes, and a fresh inode for a file with several names
//! - `link`: whether a symbolic link stays inside
//! - `listing`: the list of a tree's files, kept beside it
//! - `digest`: the tree's digest, whose format is fixed there
//! - `durable`: syncing, and the renaming
//! - `trash`: removing trees of any shape

mod digest;
mod durable;
mod link;
mod listing;
mod normalise;
#[cfg(test)]
mod tests;
mod trash;
mod walk;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use durable::{make_durable, publish, replace, sync_tree};
pub use listing::{Listed, ListedKind, Listing, Pair, Pairs};
pub(crate) use trash::children;
pub use trash::{discard, empty_trash};
pub(crate) use walk::{DEPTH, READ};
pub use walk::{digest_of, inspect, inspect_listed};

/// What a frozen tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// `blake3:` and 64 hexadecimal digits: the same for trees with the same paths, contents, executable
    /// bits and links, whatever their times and owners.
    pub digest: String,
    /// How many regular files.
    pub files: u64,
    /// How many bytes they hold.
    pub bytes: u64,
    /// How many directories, not counting the root.
    pub directories: u64,
    /// How many symbolic links.
    pub links: u64,
}

/// Why a tree cannot be frozen. Paths are relative to its root, and escaped where a terminal would stumble.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// Something that is no file, directory or link.
    #[error("{path} is a {what}; a release holds files, directories and links")]
    Special {
        /// Where it is.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A symbolic link leads out of the release.
    #[error("the link {path} leads out of the release, to {target}")]
    Escape {
        /// Where the link is.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A symbolic link that leads back to itself, or through too many others.
    #[error(
        "the link {path} to {target} cannot be resolved: it loops, or leads through too many links"
    )]
    Loop {
        /// Where the link is.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A name or a link's target that is not UTF-8.
    #[error("{path} is not UTF-8; name it in UTF-8")]
    NotUtf8 {
        /// The path, or the link and its target, with the odd bytes escaped.
        path: String,
    },
    /// Directories within directories within directories.
    #[error("{path} is more than {limit} directories deep")]
    TooDeep {
        /// The first that is too deep.
        path: String,
        /// How deep is allowed.
        limit: usize,
    },
    /// A path that is too long to be used by ordinary programs.
    #[error("{path}… is longer than the {limit} bytes that a path may have")]
    TooLong {
        /// How the path begins.
        path: String,
        /// How long is allowed.
        limit: usize,
    },
    /// More files, directories and links than a release may have.
    #[error("the release has more than {limit} files, directories and links")]
    TooMany {
        /// How many are allowed.
        limit: u64,
    },
    /// Files with several names, each of which becomes a file of its own, take too much room.
    #[error(
        "{path} has several names, and giving each a copy of its own takes more than {limit} bytes"
    )]
    TooMuchShared {
        /// The first file that is too much.
        path: String,
        /// How many bytes may be copied.
        limit: u64,
    },
    /// Somebody changes the tree while it is frozen.
    #[error("{path} changed while it was read")]
    Changed {
        /// What changed.
        path: String,
    },
    /// There is something at the release's place.
    #[error("{} exists already", path.display())]
    Exists {
        /// The release's place.
        path: PathBuf,
    },
    /// The host could not do it.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl FreezeError {
    /// Whether the tree is at fault, rather than the host.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            FreezeError::Io { .. } | FreezeError::Changed { .. } | FreezeError::Exists { .. }
        )
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, FreezeError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// A failure of the host's, with a path inside the tree.
    fn inside<E: Into<io::Error>>(
        action: &'static str,
        path: &str,
    ) -> impl FnOnce(E) -> FreezeError {
        let path = shown(path);
        move |source| FreezeError::Io {
            action,
            path,
            source: source.into(),
        }
    }

    /// A failure of the host's, with a path of the host's.
    pub(crate) fn outside<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> FreezeError {
        let path = path.display().to_string();
        move |source| FreezeError::Io {
            action,
            path,
            source: source.into(),
        }
    }
}

/// A path of a guest's making, as a person may see it.
fn shown(path: &str) -> String {
    if path.is_empty() {
        return "the release's root".to_owned();
    }
    path.escape_debug().to_string()
}
