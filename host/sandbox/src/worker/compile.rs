//! A compilation in a worker, seen from the host; and the adaptation of a module that comes before some.
//!
//! A compiler is a large program that reads what strangers wrote, and some inputs make it slow or hungry. So is what
//! makes components of modules. In a worker they have no files, no network, bounded memory and a deadline.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;

use rustix::fs::MemfdFlags;

use super::pool::{self, Pool};
use super::process::Process;
use super::wire::{self, FromWorker, Job, Said};
use crate::error::Error;

/// Compiles `wasm` in a worker, into the empty file `artifact`. Blocks the thread.
pub(crate) fn compile(pool: &Pool, wasm: &[u8], artifact: &File) -> Result<(), Error> {
    let job = Job::Compile {
        landlock: pool.landlock(),
        memory_bytes: pool.compile_memory_bytes(),
    };
    make(pool, &job, wasm, artifact)
}

/// Makes a component of a module for WASI preview 1, of at most `limit` bytes, in a worker. Blocks the thread.
pub(crate) fn adapt(pool: &Pool, module: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    let failed = |error: io::Error| Error::host(format!("no file for an adapted module: {error}"));
    let file = rustix::fs::memfd_create("adapted", MemfdFlags::CLOEXEC);
    let mut file = File::from(file.map_err(|error| failed(error.into()))?);
    let job = Job::Adapt {
        landlock: pool.landlock(),
        memory_bytes: pool.compile_memory_bytes(),
    };
    make(pool, &job, module, &file)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes > limit {
        return Err(Error::TooLarge { bytes, limit });
    }
    let mut component = Vec::with_capacity(bytes);
    file.rewind().map_err(failed)?;
    file.take(bytes as u64)
        .read_to_end(&mut component)
        .map_err(failed)?;
    Ok(component)
}

fn make(pool: &Pool, job: &Job, given: &[u8], made: &File) -> Result<(), Error> {
    let mut process = ready(pool)?;
    let said = converse(&process, pool, job, given, made);
    // It is dropped, and so killed, whatever it said.
    match said {
        Ok(FromWorker::Made) => Ok(()),
        Ok(FromWorker::Invalid { message }) => Err(Error::Invalid { message }),
        Ok(FromWorker::NoProgram { problems }) => Err(Error::CoreModule { problems }),
        Ok(FromWorker::Failed { message }) => Err(Error::host(message)),
        Ok(other) => Err(Error::worker(format!(
            "it said {other:?} when it was to compile"
        ))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Invalid {
            message: format!(
                "it takes longer to compile than the {} seconds allowed",
                pool.compile_deadline().as_secs_f32()
            ),
        }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Invalid {
            message: format!(
                "the compiler gave up on it ({}): it needs more than {} MiB of memory or too much processor time",
                process.fate(),
                pool.compile_memory_bytes() >> 20
            ),
        }),
        Err(error) => Err(Error::worker(format!(
            "a component cannot be given to it: {error}"
        ))),
    }
}

/// A worker that greeted.
fn ready(pool: &Pool) -> Result<Process, Error> {
    let mut tries = 1;
    loop {
        let process = pool.take_blocking()?;
        match process.hello_blocking() {
            Ok(()) => return Ok(process),
            Err(error) if tries < pool.attempts() => {
                tracing::warn!(%error, "an idle worker process is of no use; the next is taken");
                tries += 1;
            }
            Err(error) => return Err(Error::worker(format!("it does not greet: {error}"))),
        }
    }
}

fn converse(
    process: &Process,
    pool: &Pool,
    job: &Job,
    given: &[u8],
    made: &File,
) -> io::Result<FromWorker> {
    let input = rustix::fs::memfd_create("component", MemfdFlags::CLOEXEC)?;
    let mut input = File::from(input);
    input.write_all(given)?;
    let mut frame = Vec::new();
    wire::put(&mut frame, job)?;
    let sent = wire::begin_job(&process.socket, &frame, &[input.as_fd(), made.as_fd()])?;
    (&process.socket).write_all(&frame[sent..])?;
    process
        .socket
        .set_read_timeout(Some(pool.compile_deadline()))?;
    loop {
        match wire::receive_said(&process.socket)? {
            Said::Message(FromWorker::Walled { .. }) => {}
            Said::Message(message) => return Ok(message),
            Said::Event(event) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    pool::unexpected(&event),
                ));
            }
        }
    }
}
