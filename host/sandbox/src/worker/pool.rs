//! Workers started ahead of demand, by a thread of their own: a worker is killed when the thread that started it
//! ends, so that thread lives as long as the pool.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::process::Process;
use super::wire::{self, FromWorker, Job, Known, Said};
use super::{Landlock, MOST_KNOWN, WorkerOptions};
use crate::admission::Component;
use crate::error::Error;
use crate::event::StepEvent;

/// How long a worker that was taken has the processors to itself before the next one is started: what a small deployment
/// takes from there to its end. Starting one is work for some milliseconds, and nobody waits for it while others are idle.
const REST: Duration = Duration::from_millis(25);

/// How long the thread waits before it tries again to start a worker.
const RETRY: Duration = Duration::from_secs(1);

/// How long a worker may take from its start to its first word, when somebody waits for it.
pub(super) const HELLO: Duration = Duration::from_secs(30);

/// Workers that may die before their first word before a job gives up, beside all that were idle: whatever killed those did
/// so before there was a job.
const ATTEMPTS: usize = 3;

/// Workers that wait for jobs. Clones are the same pool.
#[derive(Debug, Clone)]
pub(crate) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: WorkerOptions,
    state: Mutex<State>,
    /// Told when a worker was taken or came.
    changed: Condvar,
    /// The same, for those who wait in a task.
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    idle: VecDeque<Process>,
    /// The components that were used last, which every idle worker is told of. The latest is the last.
    known: VecDeque<(Known, File)>,
    /// When a worker was last taken.
    taken: Option<Instant>,
    /// Jobs that wait for a worker.
    waiting: usize,
    /// Why no worker could be started, the last time that was tried.
    failure: Option<String>,
    closed: bool,
}

/// How the pool of workers stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerFigures {
    /// Workers that wait for a job.
    pub idle: u64,
    /// Jobs that wait for a worker.
    pub waiting: u64,
}

impl Pool {
    /// Starts the thread, and it the first workers.
    pub(crate) fn start(options: WorkerOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            options,
            state: Mutex::default(),
            changed: Condvar::new(),
            came: Notify::new(),
        });
        let keeping = Arc::clone(&shared);
        thread::Builder::new()
            .name("cofferdam-workers".to_owned())
            .spawn(move || keep(&keeping))?;
        Ok(Self(shared))
    }

    /// A pool of these alone, which starts no others.
    #[cfg(test)]
    pub(super) fn of(processes: impl IntoIterator<Item = Process>) -> Self {
        let state = State {
            idle: processes.into_iter().collect(),
            ..State::default()
        };
        Self(Arc::new(Shared {
            options: WorkerOptions::program("/nonexistent", [] as [&str; 0]),
            state: Mutex::new(state),
            changed: Condvar::new(),
            came: Notify::new(),
        }))
    }

    pub(super) fn landlock(&self) -> Landlock {
        self.0.options.landlock
    }

    /// How many workers a job tries.
    pub(super) fn attempts(&self) -> usize {
        ATTEMPTS + self.0.options.spare
    }

    pub(super) fn compile_memory_bytes(&self) -> u64 {
        self.0.options.compile_memory_bytes
    }

    pub(super) fn compile_deadline(&self) -> Duration {
        self.0.options.compile_deadline
    }

    /// How many workers wait for a job, and how many jobs for a worker.
    pub(crate) fn figures(&self) -> WorkerFigures {
        let state = self.0.lock();
        WorkerFigures {
            idle: state.idle.len() as u64,
            waiting: state.waiting as u64,
        }
    }

    /// Notes that a component is used, so that it is mapped before a step needs it again.
    pub(super) fn know(&self, component: &Component, artifact: &File) {
        let digest = component.digest();
        let mut state = self.0.lock();
        if let Some(at) = state
            .known
            .iter()
            .position(|(known, _)| known.digest == digest)
        {
            if let Some(known) = state.known.remove(at) {
                state.known.push_back(known);
            }
            return;
        }
        let Ok(artifact) = artifact.try_clone() else {
            return;
        };
        let known = Known {
            program: component.program().to_owned(),
            digest: digest.to_owned(),
        };
        for process in &state.idle {
            tell(process, &known, &artifact);
        }
        while state.known.len() >= MOST_KNOWN {
            state.known.pop_front();
        }
        state.known.push_back((known, artifact));
    }

    /// The next worker, as soon as there is one.
    pub(super) async fn take(&self) -> Result<Process, Error> {
        let waiting = Waiting::begin(&self.0);
        loop {
            let came = self.0.came.notified();
            if let Some(taken) = waiting.look() {
                return taken;
            }
            came.await;
        }
    }

    /// The same, blocking the thread.
    pub(super) fn take_blocking(&self) -> Result<Process, Error> {
        let waiting = Waiting::begin(&self.0);
        loop {
            if let Some(taken) = waiting.look() {
                return taken;
            }
            let state = self.0.lock();
            if state.idle.is_empty() && state.failure.is_none() && !state.closed {
                drop(
                    self.0
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner),
                );
            }
        }
    }

    /// Ends the thread and every idle worker.
    pub(crate) fn close(&self) {
        let idle = {
            let mut state = self.0.lock();
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        self.0.tell();
        drop(idle);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.notify_all();
        self.came.notify_waiters();
    }
}

/// A job that waits for a worker.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let mut state = shared.lock();
        state.waiting += 1;
        // An old failure says nothing about now.
        state.failure = None;
        drop(state);
        shared.changed.notify_all();
        Self(shared)
    }

    fn look(&self) -> Option<Result<Process, Error>> {
        let mut state = self.0.lock();
        if let Some(process) = state.idle.pop_front() {
            state.taken = Some(Instant::now());
            drop(state);
            // For the thread, which starts the next.
            self.0.changed.notify_all();
            return Some(Ok(process));
        }
        if state.closed {
            return Some(Err(Error::worker("the sandbox is closed")));
        }
        let message = state.failure.clone()?;
        Some(Err(Error::worker(format!(
            "none can be started: {message}"
        ))))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting = state.waiting.saturating_sub(1);
    }
}

impl State {
    /// How long the next worker is not started yet: one that was just taken has the processors to itself for a moment,
    /// as long as another is there for whoever comes.
    fn rest(&self) -> Option<Duration> {
        if self.idle.is_empty() || self.waiting > 0 {
            return None;
        }
        REST.checked_sub(self.taken?.elapsed())
            .filter(|rest| !rest.is_zero())
    }
}

/// Keeps as many workers idle as there should be, until the pool is closed.
fn keep(shared: &Shared) {
    loop {
        {
            let mut state = shared.lock();
            loop {
                if state.closed {
                    return;
                }
                state = if state.idle.len() >= shared.options.spare.max(state.waiting.min(1)) {
                    shared
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner)
                } else if let Some(rest) = state.rest() {
                    let waited = shared.changed.wait_timeout(state, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                } else {
                    break;
                };
            }
        }
        match spawn(&shared.options) {
            Ok(process) => {
                let mut state = shared.lock();
                state.failure = None;
                if state.closed {
                    return;
                }
                for (known, artifact) in &state.known {
                    tell(&process, known, artifact);
                }
                state.idle.push_back(process);
                drop(state);
                shared.tell();
            }
            Err(error) => {
                let program = shared.options.program.display();
                let message = format!("{program}: {error}");
                tracing::error!(%error, %program, "a worker process cannot be started");
                let mut state = shared.lock();
                state.failure = Some(message);
                shared.tell();
                if !state.closed {
                    let waited = shared.changed.wait_timeout(state, RETRY);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }
}

/// Tells an idle worker of a component. One that is gone is found out when it is to work.
fn tell(process: &Process, known: &Known, artifact: &File) {
    let mut frame = Vec::new();
    let told = wire::put(&mut frame, &Job::Know(known.clone()))
        .and_then(|()| wire::offer_job(&process.socket, &frame, &[artifact.as_fd()]));
    if let Err(error) = told {
        tracing::debug!(%error, pid = process.id(), "an idle worker process cannot be told of a component");
    }
}

fn spawn(options: &WorkerOptions) -> io::Result<Process> {
    let (socket, theirs) = UnixStream::pair()?;
    let child = Command::new(&options.program)
        .args(&options.arguments)
        .env_clear()
        // Its few threads share one heap: another for each would be mapped and faulted in while a step waits.
        .env("MALLOC_ARENA_MAX", "1")
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A terminal's interrupt is for the host, which lets its steps finish.
        .process_group(0)
        .spawn()?;
    Ok(Process::new(child, socket))
}

/// What is wrong with an event from a worker that runs no guest.
pub(super) fn unexpected(event: &StepEvent) -> String {
    format!("it said {event:?}, and runs no guest")
}

/// Whether this is the first word of a worker of this very version.
pub(super) fn check_hello(said: &Said) -> io::Result<()> {
    match said {
        Said::Message(FromWorker::Hello { version }) if version == crate::worker::VERSION => Ok(()),
        Said::Message(FromWorker::Hello { version }) => Err(io::Error::other(format!(
            "the worker program is version {version} and this is {}",
            crate::worker::VERSION
        ))),
        other => Err(io::Error::other(format!(
            "the worker began with {other:?} instead of a greeting"
        ))),
    }
}
