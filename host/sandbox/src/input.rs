//! A step's standard input: a channel whose reads never block a thread.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

use crate::control::Clock;
use crate::spec::{InputError, Stdin};

/// Bytes of an even piece: as much as a stream moves at once elsewhere.
const PIECE_BYTES: usize = 64 << 10;

/// How the input is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// As it comes.
    AsTheyCome,
    /// Into pieces of one size, so that how fast it comes is not seen.
    Even,
}

/// The input of one step. Every stream the guest asks for is the same input.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    state: Arc<Mutex<State>>,
    /// Paused while the guest waits for bytes.
    clock: Arc<Clock>,
}

#[derive(Debug)]
struct State {
    channel: Option<mpsc::Receiver<Result<Bytes, InputError>>>,
    buffer: Bytes,
    pieces: Pieces,
    /// The beginning of an even piece.
    gathered: BytesMut,
    /// An error that the guest has not seen yet.
    unseen: Option<InputError>,
    error: Option<InputError>,
}

impl Input {
    pub(crate) fn new(stdin: Stdin, clock: Arc<Clock>, pieces: Pieces) -> Self {
        let channel = match stdin {
            Stdin::Closed => None,
            Stdin::Channel(channel) => Some(channel),
        };
        let state = State {
            channel,
            buffer: Bytes::new(),
            pieces,
            gathered: BytesMut::new(),
            unseen: None,
            error: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            clock,
        }
    }

    /// The error that ended the input, when one did; looks into the channel for one that the guest did not get to.
    pub(crate) fn error(&self) -> Option<InputError> {
        let mut state = self.lock();
        while state.error.is_none() {
            match state.channel.as_mut().map(mpsc::Receiver::try_recv) {
                Some(Ok(Ok(_))) => {}
                Some(Ok(Err(error))) => state.error = Some(error),
                Some(Err(_)) | None => break,
            }
        }
        state.error.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ready when a read has something to say: bytes, an error, or the end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.buffer.is_empty() {
            if self.gathered.len() >= PIECE_BYTES {
                self.buffer = self.gathered.split_to(PIECE_BYTES).freeze();
                continue;
            }
            let Some(channel) = &mut self.channel else {
                // What is left of an input that has ended, in whatever way, still comes before its end.
                self.buffer = std::mem::take(&mut self.gathered).freeze();
                return Poll::Ready(());
            };
            match channel.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => match self.pieces {
                    Pieces::AsTheyCome => self.buffer = bytes,
                    Pieces::Even => self.gathered.extend_from_slice(&bytes),
                },
                Poll::Ready(Some(Err(error))) => {
                    self.error = Some(error.clone());
                    self.unseen = Some(error);
                    self.channel = None;
                }
                Poll::Ready(None) => self.channel = None,
            }
        }
        Poll::Ready(())
    }

    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size > 0 && self.buffer.is_empty() {
            let _ = self.poll_fill(&mut Context::from_waker(std::task::Waker::noop()));
        }
        if !self.buffer.is_empty() {
            let length = size.min(self.buffer.len());
            return Ok(self.buffer.split_to(length));
        }
        if let Some(error) = self.unseen.take() {
            return Err(StreamError::LastOperationFailed(error.into()));
        }
        if self.channel.is_none() {
            return Err(StreamError::Closed);
        }
        Ok(Bytes::new())
    }
}

/// Keeps the clock paused while the guest waits.
struct Waiting<'a>(&'a Clock);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        let mut waiting = None;
        poll_fn(|context| {
            let polled = self.lock().poll_fill(context);
            if polled.is_pending() && waiting.is_none() {
                self.clock.pause();
                waiting = Some(Waiting(&self.clock));
            }
            polled
        })
        .await;
    }
}

#[async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.lock().read(size)
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Input {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    // Only WASI 0.3 asks for this, and it is not linked.
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(tokio::io::empty())
    }
}
