//! The worker itself: one job, behind its walls.

mod prepare;
mod step;

use std::any::Any;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use super::walls::{self, Foundation, Needs};
use super::wire::{self, FromWorker, Job, Known};
use super::{LandlockStatus, MOST_KNOWN};
use crate::admission::{self, Component};
use crate::error::Error;
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
    step::warm_up().map_err(|error| error.to_string())?;
    let foundation = Foundation::lay()?;
    let failed = |error: io::Error| format!("it cannot talk to its host: {error}");
    let hello = FromWorker::Hello {
        version: super::VERSION.to_owned(),
    };
    say(socket, &hello).map_err(failed)?;
    let mut components = Components::default();
    loop {
        let Some((job, descriptors)) = wire::receive_job(socket).map_err(failed)? else {
            return Ok(());
        };
        match job {
            Job::Know(known) => components.learn(&sandbox, &known, descriptors),
            Job::Step(job) => {
                // Nothing of the others is left when the guest starts.
                let component = components.take(&job.digest);
                drop(components);
                let job = step::Given {
                    job: *job,
                    descriptors,
                    component,
                };
                return step::run(socket, Arc::new(sandbox), &foundation, job, probe);
            }
            Job::Compile {
                landlock,
                memory_bytes,
            } => {
                drop(components);
                let compile = |wasm: &[u8]| {
                    let compiled = sandbox.engine.precompile_component(wasm);
                    compiled.map_err(|error| FromWorker::Invalid {
                        message: format!("{error:#}"),
                    })
                };
                let needs = Needs::compilation(landlock, memory_bytes);
                return make(socket, &foundation, &needs, descriptors, compile);
            }
            Job::Adapt {
                landlock,
                memory_bytes,
            } => {
                drop(components);
                let needs = Needs::compilation(landlock, memory_bytes);
                return make(socket, &foundation, &needs, descriptors, adapt);
            }
        }
    }
}

/// Components that were mapped before a step asked for one.
#[derive(Default)]
struct Components(VecDeque<Component>);

impl Components {
    fn learn(&mut self, sandbox: &Inner, known: &Known, descriptors: Vec<OwnedFd>) {
        let Some(artifact) = descriptors.into_iter().next().map(File::from) else {
            return;
        };
        // One that cannot be used says so when a step is to run it.
        if let Ok(component) = admission::revive(sandbox, &artifact, &known.program, &known.digest)
        {
            while self.0.len() >= MOST_KNOWN {
                self.0.pop_front();
            }
            self.0.push_back(component);
        }
    }

    fn take(&mut self, digest: &str) -> Option<Component> {
        let at = self
            .0
            .iter()
            .position(|component| component.digest() == digest)?;
        self.0.remove(at)
    }
}

fn adapt(module: &[u8]) -> Result<Vec<u8>, FromWorker> {
    admission::adapt(module).map_err(|error| match error {
        Error::CoreModule { problems } => FromWorker::NoProgram { problems },
        Error::Invalid { message } => FromWorker::Invalid { message },
        other => FromWorker::Failed {
            message: other.to_string(),
        },
    })
}

/// Makes one file of another, behind the walls of a compilation.
fn make(
    socket: &UnixStream,
    foundation: &Foundation,
    needs: &Needs<'_>,
    descriptors: Vec<OwnedFd>,
    work: impl FnOnce(&[u8]) -> Result<Vec<u8>, FromWorker>,
) -> Result<(), String> {
    let Ok([given, made]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return Err("such a job comes with two descriptors".to_owned());
    };
    let status = walls::raise(foundation, needs)?;
    let failed = |error: io::Error| format!("it cannot read or write WebAssembly: {error}");
    walled(socket, status).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut given = File::from(given);
    io::Seek::rewind(&mut given).map_err(failed)?;
    given.read_to_end(&mut bytes).map_err(failed)?;
    let answer = match work(&bytes) {
        Ok(result) => {
            File::from(made).write_all(&result).map_err(failed)?;
            FromWorker::Made
        }
        Err(refusal) => refusal,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::sandbox::{Sandbox, SandboxOptions};

    #[test]
    fn the_components_that_came_last_are_there_and_no_more_than_are_of_use() {
        let cache = tempfile::tempdir().unwrap();
        let options = SandboxOptions::cached_in(cache.path().join("cache"));
        let sandbox = Sandbox::new(options).unwrap();
        let worker = Inner::for_worker().unwrap();
        let mut components = Components::default();
        let programs = ["succeed", "fail", "panic", "files"];
        let digests = programs.map(|program| {
            let component = sandbox
                .admit(cofferdam_test_guests::program(program))
                .unwrap();
            let known = Known {
                program: program.to_owned(),
                digest: component.digest().to_owned(),
            };
            let artifact = component.artifact().unwrap();
            components.learn(&worker, &known, vec![artifact.into()]);
            known.digest
        });
        // What is no component is not there, and harms nothing.
        let nothing = tempfile::tempfile().unwrap();
        let known = Known {
            program: String::new(),
            digest: "blake3:00".to_owned(),
        };
        components.learn(&worker, &known, vec![nothing.into()]);
        components.learn(&worker, &known, Vec::new());
        assert!(components.take(&known.digest).is_none());
        let there = digests.map(|digest| components.take(&digest).is_some());
        assert_eq!(there, [false, true, true, true]);
        assert_eq!(programs.len(), MOST_KNOWN + 1);
    }
}
