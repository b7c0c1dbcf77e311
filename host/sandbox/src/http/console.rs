//! What a service prints: into the host's log, line by line.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream as WasiOutputStream, Pollable, StreamError, StreamResult};

use crate::console::lines::{self, LineBuffer};
use crate::event::OutputStream;
use crate::limits::ServiceLimits;
use crate::redact::{RedactedStream, Redactor};

/// Bytes that a guest may print at once.
const WRITE_BYTES: usize = 16 << 10;

/// What one request prints. Standard output is logged as information, standard error as detail.
#[derive(Debug, Clone)]
pub(super) struct ServiceConsole(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    service: String,
    stdout: Stream,
    stderr: Stream,
    budget: Budget,
}

/// One stream on its way into lines: without secrets before it is cut.
#[derive(Debug)]
struct Stream {
    redacted: RedactedStream,
    lines: LineBuffer,
}

impl Stream {
    fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let Self { redacted, lines } = self;
        redacted.push(bytes, |bytes| lines.push(bytes, |text, _| line(text)));
    }

    fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        let Self { redacted, lines } = self;
        redacted.finish(|bytes| lines.push(bytes, |text, _| line(text)));
        lines.finish(|text, _| line(text));
    }
}

#[derive(Debug)]
struct Budget {
    left: u64,
    dropped: u64,
}

impl ServiceConsole {
    pub(super) fn new(service: String, limits: &ServiceLimits, redactor: &Redactor) -> Self {
        let stream = || Stream {
            redacted: redactor.stream(),
            lines: LineBuffer::new(limits.line_bytes),
        };
        Self(Arc::new(Mutex::new(State {
            service,
            stdout: stream(),
            stderr: stream(),
            budget: Budget {
                left: limits.output_bytes,
                dropped: 0,
            },
        })))
    }

    pub(super) fn stream(&self, stream: OutputStream) -> ServiceStream {
        ServiceStream {
            console: self.clone(),
            stream,
        }
    }
}

impl State {
    fn print(&mut self, stream: OutputStream, bytes: &[u8]) {
        let State {
            service,
            stdout,
            stderr,
            budget,
        } = self;
        match stream {
            OutputStream::Stdout => stdout.push(bytes, |line| budget.log(service, stream, line)),
            OutputStream::Stderr => stderr.push(bytes, |line| budget.log(service, stream, line)),
        }
    }
}

impl Budget {
    fn log(&mut self, service: &str, stream: OutputStream, line: &[u8]) {
        // A line costs at least one byte, or empty ones would be free.
        let cost = line.len() as u64 + 1;
        if cost > self.left {
            self.left = 0;
            self.dropped += 1;
            return;
        }
        self.left -= cost;
        let text = lines::text(line);
        match stream {
            OutputStream::Stdout => tracing::info!(service, "{text}"),
            OutputStream::Stderr => tracing::debug!(service, "{text}"),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let State {
            service,
            stdout,
            stderr,
            budget,
        } = self;
        stdout.finish(|line| budget.log(service, OutputStream::Stdout, line));
        stderr.finish(|line| budget.log(service, OutputStream::Stderr, line));
        if budget.dropped > 0 {
            tracing::debug!(
                service,
                lines = budget.dropped,
                "a request printed more than is logged"
            );
        }
    }
}

/// One of the two streams a service prints to.
#[derive(Debug, Clone)]
pub(super) struct ServiceStream {
    console: ServiceConsole,
    stream: OutputStream,
}

impl IsTerminal for ServiceStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ServiceStream {
    fn p2_stream(&self) -> Box<dyn WasiOutputStream> {
        Box::new(self.clone())
    }

    // Only WASI 0.3 asks for this, and it is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for ServiceStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl WasiOutputStream for ServiceStream {
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES {
            return Err(StreamError::trap(
                "more bytes were printed at once than the stream allows",
            ));
        }
        self.console
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .print(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
}
