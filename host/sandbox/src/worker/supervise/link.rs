//! The host's end of a worker's socket.

use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream as StdStream;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::super::wire::{self, Job, Said, ToWorker};
use crate::event::StepEvent;

/// Bytes that are read at once.
const READ_BYTES: usize = 128 << 10;

/// More bytes than a greeting has.
const FIRST_BYTES: usize = 256;

pub(super) struct Link {
    stream: UnixStream,
    /// The same socket, for what only it can send: descriptors.
    socket: StdStream,
    buffer: BytesMut,
    /// A message that was found behind events.
    message: Option<io::Result<Said>>,
}

impl Link {
    pub(super) fn new(socket: &StdStream) -> io::Result<Self> {
        let socket = socket.try_clone()?;
        socket.set_nonblocking(true)?;
        let mut link = Self {
            stream: UnixStream::from_std(socket.try_clone()?)?,
            socket,
            buffer: BytesMut::with_capacity(READ_BYTES),
            message: None,
        };
        link.look()?;
        Ok(link)
    }

    /// Takes what is there already: an idle worker has greeted long ago, and the runtime would only learn of it on
    /// its next round.
    fn look(&mut self) -> io::Result<()> {
        let mut bytes = [0; FIRST_BYTES];
        match (&self.socket).read(&mut bytes) {
            Ok(read) => self.buffer.extend_from_slice(&bytes[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next thing the worker says; `None` when it has gone. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Said>> {
        if let Some(message) = self.message.take() {
            return message.map(Some);
        }
        loop {
            if let Some(said) = self.buffered()? {
                return Ok(Some(said));
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Resolves when the worker's end is closed, which is when its process has ended.
    pub(super) async fn closed(&mut self) {
        loop {
            self.buffer.clear();
            self.buffer.reserve(READ_BYTES);
            if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                return;
            }
        }
    }

    /// One more event, when the worker has said one already.
    pub(super) fn buffered_event(&mut self) -> Option<StepEvent> {
        if self.message.is_some() {
            return None;
        }
        match self.buffered() {
            Ok(Some(Said::Event(event))) => Some(event),
            Ok(Some(message)) => {
                self.message = Some(Ok(message));
                None
            }
            Ok(None) => None,
            Err(error) => {
                self.message = Some(Err(error));
                None
            }
        }
    }

    fn buffered(&mut self) -> io::Result<Option<Said>> {
        let Some(length) = wire::frame_length(&self.buffer)? else {
            return Ok(None);
        };
        if self.buffer.len() < length {
            return Ok(None);
        }
        let said = wire::parse(&self.buffer[..length])?;
        self.buffer.advance(length);
        Ok(Some(said))
    }

    pub(super) async fn send(&mut self, message: &ToWorker) -> io::Result<()> {
        let mut frame = Vec::new();
        wire::put(&mut frame, message)?;
        self.stream.write_all(&frame).await
    }

    pub(super) async fn send_job(
        &mut self,
        job: &Job,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut frame = Vec::new();
        wire::put(&mut frame, job)?;
        let sent = wire::begin_job(&self.socket, &frame, descriptors)?;
        self.stream.write_all(&frame[sent..]).await
    }
}
