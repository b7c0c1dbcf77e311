//! A step's voice: its printed lines, progress, warnings and outputs, in the order in which it said them, and without
//! its secrets.
//!
//! Printing happens on the guest's own thread: bytes are cut into lines, and lines go into the event channel: at
//! once when the guest says little, in batches when it says much, and always when it pauses. When the channel is
//! full, events wait in a backlog; once that is a batch long, the guest may not print more.
//! It waits in the runtime of its thread rather than in the operating system, so that a deadline or a cancel
//! ends it even when nobody takes events any more.

mod flood;
pub(crate) mod lines;
mod progress;
mod voice;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream as WasiOutputStream, Pollable, StreamError, StreamResult};

use self::flood::Flood;
pub(crate) use self::flood::LINE_COST;
use self::progress::Progress;
use self::voice::Voice;
use crate::event::{OutputStream, StepEvent};
use crate::limits::Limits;
use crate::redact::Redactor;

/// Events that wait for their reader before the guest is held back.
pub(crate) const EVENT_CAPACITY: usize = 256;

/// Events that are collected before their reader is woken, when a guest says many at once: waking it for each
/// costs more than all the rest of a line.
const BATCH: usize = 64;

/// How long ago the reader was last given something for the next event to go out at once.
const BATCH_TIME: Duration = Duration::from_millis(1);

/// Bytes that a guest may print at once: bounds how many lines one call can make.
const WRITE_BYTES: usize = 16 << 10;

/// What a guest has printed, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Printed {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped_lines: u64,
    pub(crate) dropped_bytes: u64,
}

/// One step's voice. Clones are the same voice.
#[derive(Debug, Clone)]
pub(crate) struct Console(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: mpsc::Sender<StepEvent>,
    redactor: Redactor,
    state: Mutex<State>,
    /// Told when a progress report has to wait.
    progress_waits: Notify,
}

#[derive(Debug)]
struct State {
    stdout: Voice,
    stderr: Voice,
    flood: Flood,
    progress: Progress,
    backlog: VecDeque<StepEvent>,
    flushed: Option<Instant>,
    bytes: u64,
    lines: u64,
}

impl Console {
    pub(crate) fn new(
        limits: &Limits,
        redactor: Redactor,
        events: mpsc::Sender<StepEvent>,
    ) -> Self {
        let voice = || Voice::new(&redactor, limits.line_bytes);
        Self(Arc::new(Shared {
            events,
            state: Mutex::new(State {
                stdout: voice(),
                stderr: voice(),
                flood: Flood::new(limits.output_bytes),
                progress: Progress::default(),
                backlog: VecDeque::new(),
                flushed: None,
                bytes: 0,
                lines: 0,
            }),
            redactor,
            progress_waits: Notify::new(),
        }))
    }

    /// What may be said of a text.
    pub(crate) fn redacted(&self, text: String) -> String {
        self.0.redactor.text(text).into_owned()
    }

    pub(crate) fn stream(&self, stream: OutputStream) -> ConsoleStream {
        ConsoleStream {
            console: self.clone(),
            stream,
        }
    }

    /// Says a typed output. Waits while the channel is full.
    pub(crate) async fn output(&self, name: String, value: serde_json::Value) {
        let event = StepEvent::Output {
            name: self.redacted(name),
            value: self.0.redactor.value(value),
        };
        self.0.push(&mut self.0.lock(), event);
        self.drained().await;
    }

    /// Says a warning, which is limited like a line.
    pub(crate) async fn warn(&self, text: String) {
        let text = self.redacted(text);
        {
            let mut state = self.0.lock();
            if let Some(event) = state.flood.admit(StepEvent::Warning { text }) {
                self.0.push(&mut state, event);
            }
        }
        self.drained().await;
    }

    /// Says how far the guest has come, now or when it is due.
    pub(crate) async fn progress(&self, done: u64, total: Option<u64>, label: String) {
        let label = self.redacted(label);
        let event = StepEvent::Progress { done, total, label };
        {
            let mut state = self.0.lock();
            match state.progress.report(event, Instant::now()) {
                Some(event) => self.0.push(&mut state, event),
                None => self.0.progress_waits.notify_one(),
            }
        }
        self.drained().await;
    }

    /// Says progress reports that had to wait, when they are due. Never ends; runs beside the guest.
    pub(crate) async fn report_waiting_progress(&self) -> Infallible {
        loop {
            let next = self.0.lock().progress.next();
            match next {
                None => self.0.progress_waits.notified().await,
                Some(at) => {
                    tokio::time::sleep_until(at.into()).await;
                    let mut state = self.0.lock();
                    if let Some(event) = state.progress.due(Instant::now()) {
                        self.0.push(&mut state, event);
                    }
                }
            }
        }
    }

    /// Says what was still held back, when the guest has ended: unterminated lines, the last progress, how much
    /// was dropped and the last lines. Does not wait; [`Console::drained`] does.
    pub(crate) fn finish(&self) {
        let mut state = self.0.lock();
        let State { stdout, stderr, .. } = &mut *state;
        let mut rest = Vec::new();
        stdout
            .finish(|line, truncated| rest.push(self::line(OutputStream::Stdout, line, truncated)));
        stderr
            .finish(|line, truncated| rest.push(self::line(OutputStream::Stderr, line, truncated)));
        for event in rest {
            state.lines += 1;
            if let Some(event) = state.flood.admit(event) {
                self.0.push(&mut state, event);
            }
        }
        let last: Vec<_> = state.progress.finish().into_iter().collect();
        let end: Vec<_> = last.into_iter().chain(state.flood.finish()).collect();
        for event in end {
            self.0.push(&mut state, event);
        }
    }

    /// Waits until every event is in the channel, or nobody listens any more.
    pub(crate) async fn drained(&self) {
        self.shrunk_to(0).await;
    }

    /// Waits until no more than so many events wait, or nobody listens any more.
    async fn shrunk_to(&self, most: usize) {
        loop {
            if self.0.flush(&mut self.0.lock()) <= most {
                return;
            }
            let Ok(permit) = self.0.events.reserve().await else {
                self.0.lock().backlog.clear();
                return;
            };
            if let Some(event) = self.0.lock().backlog.pop_front() {
                permit.send(event);
            }
        }
    }

    /// Hands over what was collected whenever the guest pauses. Never ends; must be polled after the guest, each
    /// time that is.
    pub(crate) async fn deliver(&self) -> Infallible {
        loop {
            self.drained().await;
            let mut paused = false;
            poll_fn(|_| {
                if std::mem::replace(&mut paused, true) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    }

    pub(crate) fn printed(&self) -> Printed {
        let state = self.0.lock();
        let (dropped_lines, dropped_bytes) = state.flood.dropped();
        Printed {
            lines: state.lines - dropped_lines.min(state.lines),
            bytes: state.bytes,
            dropped_lines,
            dropped_bytes,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a panic while lines were cut; the buffers are valid at every step of that.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event behind those that wait, and hands over as many as there is room for.
    fn push(&self, state: &mut State, event: StepEvent) {
        state.backlog.push_back(event);
        self.flush(state);
    }

    /// Moves the backlog into the channel as far as it goes, and says how much is left of it.
    fn flush(&self, state: &mut State) -> usize {
        if state.backlog.is_empty() {
            return 0;
        }
        state.flushed = Some(Instant::now());
        while let Some(event) = state.backlog.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => state.backlog.clear(),
                Err(TrySendError::Full(event)) => {
                    state.backlog.push_front(event);
                    break;
                }
            }
        }
        state.backlog.len()
    }

    fn print(&self, stream: OutputStream, bytes: &[u8]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.bytes += bytes.len() as u64;
        let State {
            stdout,
            stderr,
            flood,
            backlog,
            lines,
            ..
        } = state;
        let voice = match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        };
        voice.push(bytes, |line, truncated| {
            *lines += 1;
            backlog.extend(flood.admit(self::line(stream, line, truncated)));
        });
        if state.backlog.len() >= BATCH || state.flushed.is_none_or(|at| at.elapsed() >= BATCH_TIME)
        {
            self.flush(state);
        }
    }
}

fn line(stream: OutputStream, line: &[u8], truncated: bool) -> StepEvent {
    StepEvent::Line {
        stream,
        text: lines::text(line).into_owned(),
        truncated,
    }
}

/// One of the two streams a guest prints to.
#[derive(Debug, Clone)]
pub(crate) struct ConsoleStream {
    console: Console,
    stream: OutputStream,
}

impl IsTerminal for ConsoleStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ConsoleStream {
    fn p2_stream(&self) -> Box<dyn WasiOutputStream> {
        Box::new(self.clone())
    }

    // Only WASI 0.3 asks for this, and it is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for ConsoleStream {
    async fn ready(&mut self) {
        self.console.shrunk_to(BATCH).await;
    }
}

#[async_trait]
impl WasiOutputStream for ConsoleStream {
    fn check_write(&mut self) -> StreamResult<usize> {
        let shared = &self.console.0;
        let mut state = shared.lock();
        let room = state.backlog.len() <= BATCH || shared.flush(&mut state) <= BATCH;
        Ok(if room { WRITE_BYTES } else { 0 })
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES {
            return Err(StreamError::trap(
                "more bytes were printed at once than the stream allows",
            ));
        }
        self.console.0.print(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.check_write()? == 0 {
            self.console.shrunk_to(BATCH).await;
        }
        self.write(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn console(capacity: usize) -> (Console, mpsc::Receiver<StepEvent>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (
            Console::new(&Limits::default(), Redactor::default(), sender),
            receiver,
        )
    }

    fn texts(events: &mut mpsc::Receiver<StepEvent>) -> Vec<String> {
        let mut texts = Vec::new();
        while let Ok(event) = events.try_recv() {
            let StepEvent::Line { text, .. } = event else {
                panic!("{event:?}")
            };
            texts.push(text);
        }
        texts
    }

    #[test]
    fn lines_of_both_streams_keep_their_order() {
        let (console, mut events) = console(16);
        let mut out = console.stream(OutputStream::Stdout);
        let mut err = console.stream(OutputStream::Stderr);
        out.write(Bytes::from_static(b"1\n")).unwrap();
        err.write(Bytes::from_static(b"2\n3\n")).unwrap();
        out.write(Bytes::from_static(b"4\n5")).unwrap();
        err.write(Bytes::from_static(b"6\n")).unwrap();
        console.finish();
        assert_eq!(texts(&mut events), ["1", "2", "3", "4", "6", "5"]);
    }

    #[test]
    fn a_secret_in_two_writes_is_one_mark_and_one_on_both_streams_is_two() {
        let mut secrets = crate::Secrets::default();
        secrets.insert("KEY", "0123456789abcdefghijklmnopqrstuv");
        let (sender, mut events) = mpsc::channel(16);
        let console = Console::new(&Limits::default(), Redactor::new(&secrets), sender);
        let mut out = console.stream(OutputStream::Stdout);
        let mut err = console.stream(OutputStream::Stderr);
        out.write(Bytes::from_static(b"key 0123456789")).unwrap();
        err.write(Bytes::from_static(b"0123456789abcde\n")).unwrap();
        out.write(Bytes::from_static(b"abcdefghijklmnopqrstuv.\n"))
            .unwrap();
        err.write(Bytes::from_static(b"fghijklmnopqrstuv")).unwrap();
        console.finish();
        assert_eq!(
            texts(&mut events),
            ["[redacted]", "key [redacted].", "[redacted]"]
        );
    }

    #[test]
    fn a_full_channel_holds_the_guest_back_and_loses_nothing() {
        let (console, mut events) = console(2);
        let mut out = console.stream(OutputStream::Stdout);
        let mut printed = 0;
        while out.check_write().unwrap() > 0 {
            out.write(format!("{printed}\n").into()).unwrap();
            printed += 1;
        }
        assert!(printed > BATCH && printed < 2 * BATCH, "{printed}");
        let mut seen = texts(&mut events);
        while seen.len() < printed {
            assert!(out.check_write().unwrap() > 0 || seen.len() < BATCH);
            console.0.flush(&mut console.0.lock());
            seen.extend(texts(&mut events));
        }
        assert_eq!(
            seen,
            (0..printed)
                .map(|number| number.to_string())
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_first_line_goes_out_at_once_and_a_flood_in_batches() {
        let (console, mut events) = console(1000);
        let mut out = console.stream(OutputStream::Stdout);
        out.write(Bytes::from_static(b"first\n")).unwrap();
        assert_eq!(texts(&mut events), ["first"]);
        out.write("more\n".repeat(BATCH).into()).unwrap();
        assert_eq!(texts(&mut events).len(), BATCH);
    }

    #[test]
    fn printing_to_nobody_is_printing_into_the_void() {
        let (console, events) = console(1);
        drop(events);
        let mut out = console.stream(OutputStream::Stdout);
        out.write("x\n".repeat(3 * BATCH).into()).unwrap();
        assert_eq!(out.check_write().unwrap(), WRITE_BYTES);
        assert_eq!(console.printed().lines, 3 * BATCH as u64);
    }
}
