//! From WebAssembly to machine code, unless that was done before.

use std::fs::File;
use std::io::Write as _;

use rustix::fs::MemfdFlags;
use wasmtime::component::Component as Compiled;

use super::artifact;
use crate::engine;
use crate::error::Error;
use crate::sandbox::Inner;
use crate::worker;

/// The compiled component, and its file where workers are to have it.
pub(super) fn compiled(
    sandbox: &Inner,
    digest: &blake3::Hash,
    wasm: &[u8],
) -> Result<(Compiled, Option<File>), Error> {
    let engine = &sandbox.engine;
    if let Some(cache) = &sandbox.cache
        && let Some((compiled, file)) = cache.load(engine, digest)
    {
        return Ok((compiled, Some(file)));
    }
    let failed = |error: std::io::Error| {
        Error::host(format!("a compiled component cannot be written: {error}"))
    };
    // What cannot be cached is compiled all the same.
    let place = sandbox.cache.as_ref().and_then(|cache| {
        cache
            .writer()
            .inspect_err(|error| tracing::warn!(%error, "compiled components are not cached"))
            .ok()
    });
    let mut file = match &place {
        Some(place) => place.reopen().map_err(failed)?,
        None => rustix::fs::memfd_create("compiled", MemfdFlags::CLOEXEC)
            .map_err(|error| failed(error.into()))?
            .into(),
    };
    let compiled = match &sandbox.workers {
        Some(workers) => {
            worker::compile(workers, wasm, &file)?;
            artifact::load_open(engine, &file).map_err(|error| unusable(&file, &error))?
        }
        None => {
            let compiled = Compiled::from_binary(engine, wasm).map_err(|error| Error::Invalid {
                message: format!("{error:#}"),
            })?;
            if place.is_none() {
                return Ok((compiled, None));
            }
            let bytes = compiled
                .serialize()
                .map_err(|error| Error::host(format!("{error:#}")))?;
            if let Err(error) = file.write_all(&bytes) {
                tracing::warn!(%error, "a compiled component is not cached");
                return Ok((compiled, None));
            }
            compiled
        }
    };
    if let (Some(cache), Some(place)) = (&sandbox.cache, place) {
        cache.keep(place, digest);
    }
    Ok((compiled, Some(file)))
}

/// Why what a worker compiled cannot be used: it is more than this engine's pool of instances has room for, which the
/// worker's own engine knows nothing of, and so the component's fault; or the host's.
fn unusable(file: &File, error: &wasmtime::Error) -> Error {
    let message = format!("{error:#}");
    let sound = engine::engine_for_one()
        .is_ok_and(|unlimited| artifact::load_open(&unlimited, file).is_ok());
    if sound {
        Error::Invalid { message }
    } else {
        Error::host(format!("what a worker compiled cannot be used: {message}"))
    }
}
