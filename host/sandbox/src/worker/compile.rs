//! A compilation in a worker, seen from the host.
//!
//! A compiler is a large program that reads what strangers wrote, and some inputs make it slow or hungry. In a worker
//! it has no files, no network, bounded memory and a deadline.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::fs::MemfdFlags;

use super::pool::{self, ATTEMPTS, Pool};
use super::process::Process;
use super::wire::{self, FromWorker, Job, Said};
use crate::error::Error;

/// How long a compilation may take: a componentized Python takes seconds, in a build for debugging a minute.
const DEADLINE: Duration = Duration::from_secs(180);

/// Compiles `wasm` in a worker, into the empty file `artifact`. Blocks the thread.
pub(crate) fn compile(pool: &Pool, wasm: &[u8], artifact: &File) -> Result<(), Error> {
    let mut process = ready(pool)?;
    let said = converse(&process, pool, wasm, artifact);
    // It is dropped, and so killed, whatever it said.
    match said {
        Ok(FromWorker::Compiled) => Ok(()),
        Ok(FromWorker::Invalid { message }) => Err(Error::Invalid { message }),
        Ok(FromWorker::Failed { message }) => Err(Error::host(message)),
        Ok(other) => Err(Error::worker(format!(
            "it said {other:?} when it was to compile"
        ))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Invalid {
            message: format!(
                "it takes longer to compile than the {} seconds allowed",
                DEADLINE.as_secs()
            ),
        }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Invalid {
            message: format!(
                "the compiler gave up on it ({}): it needs more than {} MiB of memory or too much processor time",
                process.fate(),
                super::walls::COMPILE_MEMORY_BYTES >> 20
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
            Err(error) if tries < ATTEMPTS => {
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
    wasm: &[u8],
    artifact: &File,
) -> io::Result<FromWorker> {
    let input = rustix::fs::memfd_create("component", MemfdFlags::CLOEXEC)?;
    let mut input = File::from(input);
    input.write_all(wasm)?;
    let job = Job::Compile {
        landlock: pool.landlock(),
    };
    let mut frame = Vec::new();
    wire::put(&mut frame, &job)?;
    let sent = wire::begin_job(&process.socket, &frame, &[input.as_fd(), artifact.as_fd()])?;
    (&process.socket).write_all(&frame[sent..])?;
    process.socket.set_read_timeout(Some(DEADLINE))?;
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
