//! Mapping a compiled component into memory.

#![expect(
    unsafe_code,
    reason = "the engine cannot check that a compiled artifact is one it wrote; see below"
)]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Maps the compiled component at `path`.
///
/// The caller has just found the file's BLAKE3 hash to be the one that [`super::cache`] recorded beside it, or has
/// just had it written by a compilation.
pub(super) fn load(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the engine demands bytes that it serialised itself, unchanged, and that stay unchanged while they
    // are mapped. The cache's directory belongs to our user and is closed to all others (checked when it is
    // opened), so only this program writes there. It writes an artifact under a temporary name, straight from
    // `Component::serialize`, and renames it; nothing opens a finished file for writing, and a replaced file
    // keeps its old inode for those who map it. A crash while writing leaves a temporary name, and a damaged
    // disk a hash that does not match; neither gets here. Artifacts of another engine, version or configuration
    // have another name, and are refused by the engine's own header too. Nothing from outside is ever put there.
    // Without a cache the file has no name and only this process and its workers hold it. Where workers compile, the
    // bytes are those that a worker wrote which had nothing but the WebAssembly and this file: whoever takes such a
    // worker over by what it compiles can choose them, which docs/security.md weighs.
    unsafe { Component::deserialize_file(engine, path) }
}

/// Maps the compiled component in an open file that nobody writes any more.
///
/// The caller has it from [`super::compiling`], or as a worker from its host, which has it from there.
pub(super) fn load_open(engine: &Engine, file: &File) -> wasmtime::Result<Component> {
    // The engine opens components by their path only.
    load(
        engine,
        Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())),
    )
}
