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

/// Bytes that a guest may print at once.
const WRITE_BYTES: usize = 16 << 10;

/// What one request prints. Standard output is logged as information, standard error as detail.
#[derive(Debug, Clone)]
pub(super) struct ServiceConsole(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    service: String,
    stdout: LineBuffer,
    stderr: LineBuffer,
    budget: Budget,
}

#[derive(Debug)]
struct Budget {
    left: u64,
    dropped: u64,
}

impl ServiceConsole {
    pub(super) fn new(service: String, limits: &ServiceLimits) -> Self {
        Self(Arc::new(Mutex::new(State {
            service,
            stdout: LineBuffer::new(limits.line_bytes),
            stderr: LineBuffer::new(limits.line_bytes),
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
            OutputStream::Stdout => stdout.push(bytes, |line, _| budget.log(service, stream, line)),
            OutputStream::Stderr => stderr.push(bytes, |line, _| budget.log(service, stream, line)),
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
        stdout.finish(|line, _| budget.log(service, OutputStream::Stdout, line));
        stderr.finish(|line, _| budget.log(service, OutputStream::Stderr, line));
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
