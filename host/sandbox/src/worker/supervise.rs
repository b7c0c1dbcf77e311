//! A step in a worker, seen from the host.

mod feed;
mod link;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::feed::Feed;
use self::link::Link;
use super::pool::{self, Pool};
use super::process::{self, Process};
use super::wire::{FromWorker, Job, Said, StepJob, ToWorker};
use crate::additions::LABEL_BYTES;
use crate::admission::Component;
use crate::console::{EVENT_CAPACITY, LINE_COST};
use crate::control::{Clock, Control, Stop, millis};
use crate::error::Error;
use crate::event::StepEvent;
use crate::limits::Limits;
use crate::net;
use crate::outcome::{Outcome, Receipt, Verdict};
use crate::sandbox::Inner;
use crate::spec::{Preopen, Stdin, StepSpec};
use crate::step::{Step, stopped};

/// How long a worker may take to stop its guest and say so before it is killed: several ticks of the engine.
const STOP_GRACE: Duration = Duration::from_millis(50);

/// How long after its deadline a guest may still run before its worker is killed. The worker itself keeps the
/// deadline to the tick; this is for one that is caught in a call into the kernel.
const OVERDUE: Duration = Duration::from_millis(80);

/// How long a killed worker may take to die before it counts as stuck.
const STUCK: Duration = Duration::from_secs(2);

/// Bytes of events beyond the grants that a worker may send before it is taken for one that lies: the marks of cut
/// and dropped lines, and rounding.
const EVENT_SLACK: u64 = 1 << 20;

/// Progress reports in a second that a worker may send; an honest one sends ten.
const PROGRESS_RATE: u64 = 100;

/// Starts a step in a worker.
pub(crate) fn start(
    sandbox: Arc<Inner>,
    pool: Pool,
    component: &Component,
    spec: StepSpec,
    preopens: Vec<Preopen>,
    stdin: Stdin,
) -> Result<Step, Error> {
    let runtime = Handle::try_current().map_err(|_| {
        Error::specification("a step in a worker process is started within a tokio runtime")
    })?;
    let artifact = component.artifact()?;
    pool.know(component, &artifact);
    let (net, broker) = net::open(&spec)?.unzip();
    let control = Arc::new(Control::default());
    let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
    let (done, outcome) = oneshot::channel();
    let job = StepJob {
        landlock: pool.landlock(),
        program: component.program().to_owned(),
        digest: component.digest().to_owned(),
        secrets: spec.secrets.clone(),
        preopens: preopens
            .iter()
            .map(|preopen| (preopen.guest_path.clone(), preopen.access))
            .collect(),
        input: matches!(stdin, Stdin::Channel(_)),
        net: net.is_some(),
        spec,
    };
    let step = Supervised {
        sandbox,
        pool,
        job,
        artifact,
        preopens,
        net,
        control: Arc::clone(&control),
    };
    runtime.spawn(step.supervise(stdin, events, done));
    Ok(Step::new(
        receiver,
        outcome,
        control,
        component.clone(),
        broker,
    ))
}

/// A step that is to run in a worker.
struct Supervised {
    sandbox: Arc<Inner>,
    pool: Pool,
    job: StepJob,
    artifact: File,
    preopens: Vec<Preopen>,
    /// The guest's end of its network.
    net: Option<UnixStream>,
    control: Arc<Control>,
}

/// A worker that runs the step.
struct Taken {
    process: Process,
    link: Link,
    /// Where the step's input goes, when it has one.
    input: Option<UnixStream>,
}

/// How the conversation with a worker ended.
enum End {
    /// The worker said how the step ended.
    Done(Box<Outcome>),
    /// The worker could not do its job.
    Failed(String),
    /// The worker did not stop by itself.
    Stopped(Stop),
    /// The worker said what no worker says.
    Lied(String),
    /// The worker went away without a word.
    Gone,
}

impl Supervised {
    async fn supervise(
        self,
        stdin: Stdin,
        events: mpsc::Sender<StepEvent>,
        done: oneshot::Sender<Result<Outcome, Error>>,
    ) {
        let slot = tokio::select! {
            biased;
            stop = self.control.wait() => Err(stop),
            slot = self.sandbox.step_slots.acquire() => Ok(slot),
        };
        let taken = match &slot {
            Ok(Ok(_)) => self.take(matches!(stdin, Stdin::Channel(_))).await,
            Ok(Err(_)) => Err(Error::host("the sandbox is closed")),
            Err(stop) => Ok(Err(*stop)),
        };
        // Nobody may listen any more: then nobody wants to know.
        let Taken {
            mut process,
            mut link,
            input,
        } = match taken {
            Ok(Ok(taken)) => taken,
            Ok(Err(stop)) => {
                let heard = Meter::new(&self.job.spec.limits);
                let _ = done.send(Ok(self.killed(stop, Duration::ZERO, &heard)));
                return;
            }
            Err(error) => {
                let _ = done.send(Err(error));
                return;
            }
        };
        let watch = Watch::start();
        let mut meter = Meter::new(&self.job.spec.limits);
        let feed = match (stdin, input) {
            (Stdin::Channel(channel), Some(socket)) => {
                Feed::start(channel, socket, Arc::clone(&watch.source)).map(Some)
            }
            _ => Ok(None),
        };
        let end = match feed {
            Ok(feed) => {
                let end = self.converse(&mut link, &events, &watch, &mut meter).await;
                drop(feed);
                end
            }
            Err(error) => End::Failed(format!("its input cannot be sent: {error}")),
        };
        let wall = watch.used();

        // Whatever the worker said: its guest's code is gone when its process is.
        let result = match finish(&mut process, &mut link).await {
            Ok(Some(status)) => self.result(end, status, wall, &meter),
            Ok(None) => Err(Error::Stuck { pid: process.id() }),
            Err(error) => Err(Error::worker(format!("it cannot be waited for: {error}"))),
        };
        let stuck = matches!(result, Err(Error::Stuck { .. }));
        drop(events);
        let _ = done.send(result);
        if stuck {
            let pid = process.id();
            tracing::error!(
                pid,
                "a step's process was killed and does not die; its place stays taken until it does"
            );
            link.closed().await;
            while let Ok(None) = process.status(STUCK).await {}
            tracing::info!(pid, "the stuck process is gone");
        }
    }

    /// A worker that has the job and its walls up, or why the step was stopped before there was one.
    async fn take(&self, input: bool) -> Result<Result<Taken, Stop>, Error> {
        let mut tries = 1;
        loop {
            let process = tokio::select! {
                biased;
                stop = self.control.wait() => return Ok(Err(stop)),
                process = self.pool.take() => process?,
            };
            let handed = tokio::select! {
                biased;
                stop = self.control.wait() => return Ok(Err(stop)),
                handed = self.hand_over(&process, input) => handed,
            };
            match handed {
                Ok(Ok((link, input))) => {
                    return Ok(Ok(Taken {
                        process,
                        link,
                        input,
                    }));
                }
                Ok(Err(message)) => return Err(Error::worker(message)),
                // It is gone before its walls were up: no guest's code ran in it.
                Err(error) if tries < self.pool.attempts() => {
                    tracing::warn!(%error, "a worker process is of no use; the next is taken");
                    tries += 1;
                }
                Err(error) => return Err(Error::worker(error.to_string())),
            }
        }
    }

    /// Gives the job to a worker and waits until its walls are up, or it says why it cannot do it.
    async fn hand_over(
        &self,
        process: &Process,
        input: bool,
    ) -> io::Result<Result<(Link, Option<UnixStream>), String>> {
        let mut link = Link::new(&process.socket)?;
        let (ours, theirs) = match input {
            false => (None, None),
            true => {
                let (ours, theirs) = UnixStream::pair()?;
                (Some(ours), Some(OwnedFd::from(theirs)))
            }
        };
        let begun = tokio::time::timeout(pool::HELLO, self.begin(&mut link, theirs.as_ref()))
            .await
            .map_err(|_| io::Error::other("the worker does not begin"))??;
        Ok(begun.map(|()| (link, ours)))
    }

    async fn begin(
        &self,
        link: &mut Link,
        input: Option<&OwnedFd>,
    ) -> io::Result<Result<(), String>> {
        let ended = || io::Error::other("the worker ended before it began");
        let hello = link.next().await?.ok_or_else(ended)?;
        if let Said::Message(FromWorker::Failed { message }) = hello {
            return Ok(Err(message));
        }
        pool::check_hello(&hello)?;
        let mut descriptors = vec![self.artifact.as_fd()];
        let directories = self.preopens.iter();
        descriptors.extend(directories.map(|preopen| preopen.directory.as_fd()));
        descriptors.extend(input.map(|input| input.as_fd()));
        descriptors.extend(self.net.iter().map(std::os::fd::AsFd::as_fd));
        link.send_job(&Job::Step(Box::new(self.job.clone())), &descriptors)
            .await?;
        match link.next().await?.ok_or_else(ended)? {
            Said::Message(FromWorker::Walled { landlock }) => {
                tracing::trace!(%landlock, "a worker's walls are up");
                Ok(Ok(()))
            }
            Said::Message(FromWorker::Failed { message }) => Ok(Err(message)),
            other => Ok(Err(format!("it said {other:?} before its walls were up"))),
        }
    }

    /// Listens until the worker has nothing more to say.
    async fn converse(
        &self,
        link: &mut Link,
        events: &mpsc::Sender<StepEvent>,
        watch: &Watch,
        meter: &mut Meter,
    ) -> End {
        let limits = &self.job.spec.limits;
        let mut waiting = VecDeque::new();
        let mut stopping: Option<(Stop, Instant)> = None;
        loop {
            let deadline = Duration::from_millis(limits.wall_ms).saturating_add(OVERDUE);
            tokio::select! {
                biased;
                stop = self.control.wait(), if stopping.is_none() => {
                    stopping = Some((stop, Instant::now() + STOP_GRACE));
                    // A worker that is gone has been told.
                    let _ = link.send(&ToWorker::Cancel).await;
                }
                () = until(stopping.map(|(_, at)| at)) => {
                    let stop = stopping.map_or(Stop::Cancelled, |(stop, _)| stop);
                    return End::Stopped(stop);
                }
                () = watch.exceeds(deadline), if stopping.is_none() => {
                    self.control.stop(Stop::TimedOut);
                    return End::Stopped(Stop::TimedOut);
                }
                permit = events.reserve(), if !waiting.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = waiting.pop_front() {
                            permit.send(event);
                        }
                        deliver(&mut waiting, events);
                        if waiting.is_empty() {
                            watch.reader.resume();
                        }
                    }
                    Err(_) => {
                        waiting.clear();
                        watch.reader.resume();
                    }
                },
                said = link.next(), if waiting.is_empty() => {
                    match said {
                        Ok(Some(Said::Event(event))) => {
                            if let Err(message) = meter.admit(&event) {
                                return End::Lied(message);
                            }
                            waiting.push_back(event);
                            while let Some(event) = link.buffered_event() {
                                if let Err(message) = meter.admit(&event) {
                                    return End::Lied(message);
                                }
                                waiting.push_back(event);
                            }
                            deliver(&mut waiting, events);
                            if stopping.is_some() {
                                // A stopped step's last words go as far as somebody takes them.
                                waiting.clear();
                            }
                            if !waiting.is_empty() {
                                watch.reader.pause();
                            }
                        }
                        Ok(Some(Said::Message(FromWorker::Done(outcome)))) => return End::Done(outcome),
                        Ok(Some(Said::Message(FromWorker::Failed { message }))) => return End::Failed(message),
                        Ok(Some(Said::Message(other))) => {
                            return End::Lied(format!("it said {other:?} while it ran a step"));
                        }
                        Ok(None) => return End::Gone,
                        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                            return End::Lied(error.to_string());
                        }
                        Err(_) => return End::Gone,
                    }
                }
            }
        }
    }

    /// What a conversation's end means, once the process is gone.
    fn result(
        &self,
        end: End,
        status: ExitStatus,
        wall: Duration,
        heard: &Meter,
    ) -> Result<Outcome, Error> {
        match end {
            End::Done(outcome) => Ok(*outcome),
            End::Failed(message) => Err(Error::host(message)),
            End::Stopped(stop) => Ok(self.killed(stop, wall, heard)),
            End::Lied(message) => {
                tracing::error!(
                    message,
                    "a worker broke the rules and was killed: its guest may have left the sandbox's first wall"
                );
                Err(Error::worker(format!(
                    "it broke the rules between worker and host and was killed: {message}"
                )))
            }
            End::Gone => self.lost(status, wall, heard),
        }
    }

    /// A worker that went away without a word.
    fn lost(&self, status: ExitStatus, wall: Duration, heard: &Meter) -> Result<Outcome, Error> {
        let verdict = match status.signal().and_then(Signal::from_named_raw) {
            Some(Signal::SYS) => {
                tracing::error!(
                    "a worker made a forbidden system call and was killed: its guest may have left the sandbox's first wall"
                );
                Verdict::Trapped {
                    message: process::ended(Some(status)),
                }
            }
            Some(Signal::XCPU) => stopped(Stop::CpuExceeded, &self.job.spec.limits),
            Some(Signal::XFSZ) => Verdict::DiskExceeded {
                message: format!(
                    "a file was to become larger than the {} bytes granted",
                    self.job.spec.limits.disk_bytes
                ),
            },
            _ => {
                let how = process::ended(Some(status));
                return Err(Error::worker(format!(
                    "{how} while it ran the step; nothing of the step runs any more"
                )));
            }
        };
        Ok(self.outcome(verdict, wall, heard))
    }

    fn killed(&self, stop: Stop, wall: Duration, heard: &Meter) -> Outcome {
        self.outcome(stopped(stop, &self.job.spec.limits), wall, heard)
    }

    /// What is known of a step whose worker could not say it: its time, and what was heard of it.
    fn outcome(&self, verdict: Verdict, wall: Duration, heard: &Meter) -> Outcome {
        Outcome {
            verdict,
            receipt: Receipt {
                wall_ms: millis(wall),
                lines: heard.lines,
                output_bytes: heard.line_bytes,
                granted: self.job.spec.limits.clone(),
                ..Receipt::default()
            },
            input_error: None,
            host_disk_full: false,
        }
    }
}

/// Kills a worker and waits until it is gone: its exit status, or `None` when it does not die.
async fn finish(process: &mut Process, link: &mut Link) -> io::Result<Option<ExitStatus>> {
    process.kill()?;
    match tokio::time::timeout(STUCK, link.closed()).await {
        Ok(()) => process.status(STUCK).await,
        Err(_) => Ok(None),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Hands over as many events as there is room for. Those for nobody are gone.
fn deliver(waiting: &mut VecDeque<StepEvent>, events: &mpsc::Sender<StepEvent>) {
    while let Some(event) = waiting.pop_front() {
        match events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => waiting.clear(),
            Err(TrySendError::Full(event)) => {
                waiting.push_front(event);
                return;
            }
        }
    }
}

/// The step's time as the host sees it: without waiting for the package's next bytes, and without waiting for
/// whoever takes the events. Never more than what the worker counts.
struct Watch {
    source: Arc<Clock>,
    reader: Clock,
}

impl Watch {
    fn start() -> Self {
        Self {
            source: Arc::new(Clock::start()),
            reader: Clock::start(),
        }
    }

    fn used(&self) -> Duration {
        self.source.used().saturating_sub(self.reader.paused())
    }

    async fn exceeds(&self, limit: Duration) {
        loop {
            let used = self.used();
            if used > limit {
                return;
            }
            tokio::time::sleep((limit - used).max(Duration::from_millis(1))).await;
        }
    }
}

/// Counts what a worker says against what its guest was granted. A worker keeps the same limits itself: one that exceeds
/// them is not what it was.
struct Meter {
    bytes: u64,
    outputs: u64,
    started: Instant,
    reports: u64,
    has_dropped: bool,
    /// Lines heard, and their bytes.
    lines: u64,
    line_bytes: u64,
}

impl Meter {
    fn new(limits: &Limits) -> Self {
        Self {
            bytes: limits
                .output_bytes
                .saturating_mul(2)
                .saturating_add(limits.outputs_bytes.saturating_mul(2))
                .saturating_add(limits.line_bytes.saturating_mul(4))
                .saturating_add(EVENT_SLACK),
            outputs: limits.outputs,
            started: Instant::now(),
            reports: 0,
            has_dropped: false,
            lines: 0,
            line_bytes: 0,
        }
    }

    fn admit(&mut self, event: &StepEvent) -> Result<(), String> {
        let bytes = match event {
            StepEvent::Line { text, .. } => {
                self.lines += 1;
                self.line_bytes += text.len() as u64 + 1;
                LINE_COST + text.len() as u64
            }
            StepEvent::Warning { text } => LINE_COST + text.len() as u64,
            StepEvent::Output { name, value } => {
                self.outputs = self
                    .outputs
                    .checked_sub(1)
                    .ok_or("it sent more outputs than its guest may have")?;
                (name.len() + value.to_string().len()) as u64
            }
            StepEvent::Dropped { .. } => {
                if std::mem::replace(&mut self.has_dropped, true) {
                    return Err("it dropped lines more than once".to_owned());
                }
                0
            }
            StepEvent::Progress { label, .. } => {
                self.reports += 1;
                let allowed = (self.started.elapsed().as_secs() + 1) * PROGRESS_RATE;
                if self.reports > allowed {
                    return Err("it reported progress far too often".to_owned());
                }
                // A label is cut and then redacted once more, which may add a mark's brackets.
                if label.len() > 2 * LABEL_BYTES {
                    return Err("it reported progress at far too great length".to_owned());
                }
                0
            }
        };
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .ok_or("it sent more output than its guest may have")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
