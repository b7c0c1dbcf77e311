//! The extract step that ships: a package's bytes on stdin become the release's directory.
//!
//! It takes tar, tar.gz, tar.zst and zip, told apart by their first bytes, and it is strict: where two
//! archive readers could disagree about what an archive holds, the archive is refused, because that
//! disagreement is how files are smuggled past a check. Every refusal has a [`Reason`] with a stable word,
//! and a message that names the entry.
//!
//! # What becomes of an entry
//!
//! | entry | result |
//! |---|---|
//! | regular file | a file; executable when any of its three execute bits is set |
//! | directory | a directory |
//! | symbolic link | the same link, if its target is relative, begins with all of its `..` and stays inside |
//! | hard link | a copy of the file it names, which must come earlier in the same archive |
//! | device, FIFO, socket, sparse file, anything unknown | the package is refused |
//!
//! Owners, times, extended attributes and all other mode bits (setuid, setgid, sticky, read-only) are not
//! carried over: a release knows files, executables, directories and links. Special bits are counted in a
//! warning. Two entries whose names differ only in case or in Unicode normalisation are refused, and so is
//! a second entry for the same file; a directory may be named again.
//!
//! # Layout
//!
//! - `config`: what a pipeline may set
//! - `refusal`, `error`: why a package is not taken, and what else can go wrong
//! - `input`: the package's bytes, without a copy
//! - `format`: which archive this is, and the decoders before it
//! - `tar`, `zip`: one parser each, which hand entries to
//! - `extraction`: the rules for all entries, on top of
//! - `name`: one entry's name, judged once
//! - `tree`: what has been written so far, and through which directories
//! - `place`: the file system, by raw WASI descriptors or, natively, by paths
//! - `watch`: what a person sees

mod config;
mod error;
mod extraction;
mod format;
pub mod input;
mod name;
mod place;
mod refusal;
mod tar;
mod tree;
mod watch;
mod zip;

pub use config::Config;
pub use error::Error;
pub use extraction::Summary;
pub use input::{Input, Source};
pub use refusal::{Reason, Refused};

use std::path::Path;

use extraction::Extraction;

/// Reads a whole package and writes what it holds into `release`. A zip is kept in `scratch` meanwhile,
/// because its directory is at its end.
///
/// # Errors
///
/// [`Error::Refused`] for a package that is not taken; the others are not the package's fault. What was
/// written before the error stays: the host discards a failed step's directory.
pub fn unpack<S: Source>(
    config: &Config,
    mut input: Input<S>,
    release: &Path,
    scratch: &Path,
) -> Result<Summary, Error> {
    let format = format::sniff(&mut input)?;
    let mut extraction = Extraction::new(config, place::Directory::root(release)?, input.taken());
    format.extract(input, &mut extraction, scratch)?;
    Ok(extraction.finish(format.name()))
}
