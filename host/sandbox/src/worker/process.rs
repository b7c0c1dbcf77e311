//! One worker process, as its host holds it.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::pool::{HELLO, check_hello};
use super::wire;

/// How often a worker that is just ending is looked at without a pause, and then the pause.
const QUICK_LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(1);

/// How long whoever lets go of a worker waits for it to die. One that takes longer is left to the kernel, which keeps
/// it from everything else.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the kernel offers of a process that was started.
pub(super) trait Handle: fmt::Debug + Send + Sync {
    /// Its number.
    fn id(&self) -> u32;

    /// Sends SIGKILL.
    fn kill(&mut self) -> io::Result<()>;

    /// How it ended, if it has.
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>>;
}

impl Handle for Child {
    fn id(&self) -> u32 {
        Child::id(self)
    }

    fn kill(&mut self) -> io::Result<()> {
        Child::kill(self)
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        Child::try_wait(self)
    }
}

/// A worker. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Box<dyn Handle>,
    pub(super) socket: UnixStream,
}

impl Process {
    /// A process that was just started, and the host's end of its socket.
    pub(super) fn new(child: impl Handle + 'static, socket: UnixStream) -> Self {
        Self {
            child: Box::new(child),
            socket,
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first word, and checks that this is a worker of this very version. Blocks.
    pub(super) fn hello_blocking(&self) -> io::Result<()> {
        self.socket.set_read_timeout(Some(HELLO))?;
        let said = wire::receive_said(&self.socket)?;
        check_hello(&said)
    }

    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// How the worker ended, once its end of the socket is closed, which is the last but one thing that a process
    /// does; `None` when that takes longer than `limit`.
    pub(super) async fn status(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        for tries in 0.. {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if start.elapsed() > limit {
                break;
            }
            if tries < QUICK_LOOKS {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(None)
    }

    /// The same, blocking the thread, for one that dies at once.
    fn status_blocking(&mut self) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || start.elapsed() > FAREWELL {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
    }

    /// How the worker ended, for a person. It is gone, or just about to be.
    pub(super) fn fate(&mut self) -> String {
        ended(self.status_blocking().ok().flatten())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is gone already, or it is idle and dies at once: a worker with a job is ended before it is dropped,
        // and one that does not die is left to a task that waits for it.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = self.child.id();
        match self.child.kill().and_then(|()| self.status_blocking()) {
            Ok(Some(_)) => {}
            Ok(None) => tracing::warn!(pid, "a worker process was killed and does not die"),
            Err(error) => tracing::warn!(%error, pid, "a worker process could not be ended"),
        }
    }
}

/// How a worker ended, for a person.
pub(super) fn ended(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return "it does not die".to_owned();
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) if signal == Signal::SYS.as_raw() => {
            "the kernel killed it for a system call that no worker makes".to_owned()
        }
        (Some(signal), _) if signal == Signal::XCPU.as_raw() => {
            "the kernel killed it for its processor time".to_owned()
        }
        (Some(signal), _) => format!("it was killed by signal {signal}"),
        (None, Some(code)) => format!("it exited with code {code}"),
        (None, None) => "it ended".to_owned(),
    }
}
