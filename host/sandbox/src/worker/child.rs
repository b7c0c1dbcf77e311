//! The worker itself: one job, behind its walls.

mod prepare;
mod step;

use std::any::Any;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use super::walls::{self, Needs};
use super::wire::{self, FromWorker, Job};
use super::{Landlock, LandlockStatus};
use crate::sandbox::Inner;

/// What runs behind the walls in the place of a hostile host function: only the tests of the walls give one.
type Probe = Box<dyn FnOnce() + Send>;

/// Is a worker, and returns when its job is done. To be called first of all in the program that
/// [`WorkerOptions`](super::WorkerOptions) names: before any thread is started and any file opened.
#[must_use]
pub fn main() -> ExitCode {
    run(None)
}

/// The same, with a function that is called behind the walls before the guest: for testing them.
#[doc(hidden)]
#[must_use]
pub fn main_with_probe(probe: impl FnOnce() + Send + 'static) -> ExitCode {
    run(Some(Box::new(probe)))
}

fn run(probe: Option<Probe>) -> ExitCode {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let socket = UnixStream::from(socket);
    let served = catch_unwind(AssertUnwindSafe(|| serve(&socket, probe)))
        .unwrap_or_else(|panic| Err(format!("a bug of the host: {}", panic_text(&*panic))));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // The host may be gone; then nobody wants to know.
            let _ = say(&socket, &FromWorker::Failed { message });
            ExitCode::FAILURE
        }
    }
}

fn serve(socket: &UnixStream, probe: Option<Probe>) -> Result<(), String> {
    prepare::process(socket).map_err(|error| format!("it cannot prepare itself: {error}"))?;
    let sandbox = Inner::for_worker().map_err(|error| error.to_string())?;
    let failed = |error: io::Error| format!("it cannot talk to its host: {error}");
    let hello = FromWorker::Hello {
        version: super::VERSION.to_owned(),
    };
    say(socket, &hello).map_err(failed)?;
    let Some((job, descriptors)) = wire::receive_job(socket).map_err(failed)? else {
        return Ok(());
    };
    match job {
        Job::Step(job) => step::run(socket, Arc::new(sandbox), *job, descriptors, probe),
        Job::Compile { landlock } => compile(socket, &sandbox, landlock, descriptors),
    }
}

fn compile(
    socket: &UnixStream,
    sandbox: &Inner,
    landlock: Landlock,
    descriptors: Vec<OwnedFd>,
) -> Result<(), String> {
    let Ok([wasm, artifact]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return Err("a compilation comes with two descriptors".to_owned());
    };
    let status = walls::raise(&Needs::compilation(landlock))?;
    let failed = |error: io::Error| format!("it cannot read or write a component: {error}");
    walled(socket, status).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut wasm = File::from(wasm);
    io::Seek::rewind(&mut wasm).map_err(failed)?;
    wasm.read_to_end(&mut bytes).map_err(failed)?;
    let answer = match sandbox.engine.precompile_component(&bytes) {
        Ok(compiled) => {
            File::from(artifact).write_all(&compiled).map_err(failed)?;
            FromWorker::Compiled
        }
        Err(error) => FromWorker::Invalid {
            message: format!("{error:#}"),
        },
    };
    say(socket, &answer).map_err(failed)
}

fn walled(socket: &UnixStream, landlock: LandlockStatus) -> io::Result<()> {
    say(socket, &FromWorker::Walled { landlock })
}

fn say(mut socket: &UnixStream, message: &FromWorker) -> io::Result<()> {
    let mut frame = Vec::new();
    wire::put(&mut frame, message)?;
    socket.write_all(&frame)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
}
