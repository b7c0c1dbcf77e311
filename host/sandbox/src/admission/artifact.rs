//! Mapping a compiled component into memory.

#![expect(
    unsafe_code,
    reason = "the engine cannot check that a compiled artifact is one it wrote; see below"
)]

use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Maps the compiled component at `path`.
///
/// The caller has just found the file's BLAKE3 hash to be the one that [`super::cache`] recorded beside it.
pub(super) fn load(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the engine demands bytes that it serialised itself, unchanged, and that stay unchanged while they
    // are mapped. The cache's directory belongs to our user and is closed to all others (checked when it is
    // opened), so only this program writes there. It writes an artifact under a temporary name, straight from
    // `Component::serialize`, and renames it; nothing opens a finished file for writing, and a replaced file
    // keeps its old inode for those who map it. A crash while writing leaves a temporary name, and a damaged
    // disk a hash that does not match; neither gets here. Artifacts of another engine, version or configuration
    // have another name, and are refused by the engine's own header too. Nothing from outside is ever put there.
    unsafe { Component::deserialize_file(engine, path) }
}
