//! The file system.
//!
//! In a step, raw WASI descriptors: a file is made relative to its directory's descriptor, written with
//! plain writes and closed, which is three calls into the host for a small one (open, write, drop); through
//! `std` it would be at least seven, and every open would walk the path again. Natively, for tests, paths.

#[cfg(target_os = "wasi")]
mod wasi;
#[cfg(target_os = "wasi")]
pub(crate) use wasi::{Directory, File, Reading};

#[cfg(not(target_os = "wasi"))]
mod native;
#[cfg(not(target_os = "wasi"))]
pub(crate) use native::{Directory, File, Reading};
