//! The packer: a directory becomes a plain tar stream that is the same bytes every time.
//!
//! What goes in, and how it is written:
//!
//! - entries sorted by the bytes of their path, modification time 0, owner 0, modes 0755 (directories and
//!   files with an executable bit) or 0644. Nothing else of the file system gets in, so the same tree gives the
//!   same bytes on every machine, and the server stores only chunks it has not seen;
//! - hidden files are packed, `.git` never is, at any depth;
//! - what `.gitignore` and `.cofferdamignore` files inside the directory name is left out, with
//!   gitignore's syntax and nesting. `.cofferdamignore` is the stronger one: `!dist/` there brings back what
//!   `.gitignore` leaves out. Files outside the directory (a parent's, the user's global one) play no part;
//! - `cofferdam.toml` and `.cofferdamignore` at the top speak to this program and are not packed;
//! - symlinks are kept as symlinks, if they lead to something that is packed too. A dangling one, an absolute one,
//!   one that leaves the directory, a socket, a device or a named pipe ends the packing with its name:
//!   nothing is lost in silence.
//!
//! [`plan`] looks at everything first, so the size is known and every refusal comes before a byte is sent; the
//! stream itself is made by [`crate::package`], file by file, in constant memory.

mod header;
mod links;
mod read;
mod walk;
mod write;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use read::PlanReader;
#[cfg(test)]
pub(crate) use walk::plan_at;
pub(crate) use walk::{fingerprint, plan};

/// The client's own description of a package, at its top.
pub(crate) const MANIFEST: &str = "cofferdam.toml";

/// What is left out of a package, in gitignore's syntax.
pub(crate) const IGNORE: &str = ".cofferdamignore";

/// How many refused entries one error names; the rest is counted.
const NAMED_PROBLEMS: usize = 10;

/// A directory, looked at and ready to be written as a tar stream.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The directory itself, resolved.
    root: PathBuf,
    /// Sorted by path bytes, so a directory comes before what it holds.
    entries: Vec<Entry>,
    /// Regular files among the entries.
    pub(crate) files: u64,
    /// Exact length of the tar stream.
    pub(crate) tar_bytes: u64,
}

/// One entry of the archive.
#[derive(Debug)]
struct Entry {
    /// Relative to the root, `/` between components, no slash at the end.
    path: String,
    kind: Kind,
    /// What of the archive it takes: header, content and padding.
    tar_bytes: u64,
    /// Absent for a file that was touched so lately that a later change of it might look the same.
    stamp: Option<Stamp>,
}

/// What an entry was like when it was looked at: another one, or other content, has another stamp. A digest of its
/// header, and of a file's inode number and times.
pub(crate) type Stamp = [u8; STAMP_BYTES];

/// What ends the archive behind its last entry.
pub(crate) const TAR_END_BYTES: u64 = header::END.len() as u64;

/// The bytes of a [`Stamp`].
pub(crate) const STAMP_BYTES: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Directory,
    File { bytes: u64, executable: bool },
    Link { target: String },
}

/// Why a directory cannot be packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Entries that a package cannot hold, by name.
    #[error("{}", .0)]
    Entries(Problems),
    /// An ignore file with a pattern that means nothing.
    #[error("an ignore file cannot be understood: {0}")]
    Ignore(ignore::Error),
    /// Reading a directory or a file went wrong.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file is not what it was when the directory was looked at.
    #[error("{path} {what} while it was being packed: deploy again when nothing writes to it")]
    Changed { path: String, what: &'static str },
    /// Whoever takes the bytes has stopped taking them.
    #[error("the package is no longer being read")]
    Abandoned,
}

/// The entries that were refused, the first [`NAMED_PROBLEMS`] of them in full.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    named: Vec<String>,
    more: usize,
}

impl Plan {
    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// For each entry in order: its stamp, and how many bytes of the archive it takes.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = (Option<Stamp>, u64)> {
        self.entries
            .iter()
            .map(|entry| (entry.stamp, entry.tar_bytes))
    }

    fn unreadable(&self, entry: &Entry, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::NotFound => entry.changed("went away"),
            _ => Error::Read {
                path: self.root.join(&entry.path),
                source,
            },
        }
    }
}

impl Entry {
    fn changed(&self, what: &'static str) -> Error {
        Error::Changed {
            path: self.path.clone(),
            what,
        }
    }
}

impl Problems {
    fn add(&mut self, path: &str, why: impl fmt::Display) {
        if self.named.len() < NAMED_PROBLEMS {
            self.named.push(format!("{path}: {why}"));
        } else {
            self.more += 1;
        }
    }

    fn into_result(self) -> Result<(), Error> {
        if self.named.is_empty() {
            Ok(())
        } else {
            Err(Error::Entries(self))
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let ([only], 0) = (self.named.as_slice(), self.more) {
            return write!(f, "cannot be packed: {only}");
        }
        write!(
            f,
            "{} entries cannot be packed:",
            self.named.len() + self.more
        )?;
        for problem in &self.named {
            write!(f, "\n  {problem}")?;
        }
        if self.more > 0 {
            write!(f, "\n  and {} more", self.more)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
