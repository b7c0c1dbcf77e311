//! File streams that read and write on the calling thread.
//!
//! The runtime's own hand every write to another thread, which costs ten times what the write does. A step has
//! a thread to itself, so blocking it blocks nobody. This is also where written bytes are charged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::quota::Quota;

/// Bytes that one call moves: the engine allocates on the host what a stream allows.
const CHUNK_BYTES: usize = 64 << 10;

/// Where the next byte goes.
#[derive(Debug, Clone, Copy)]
enum Position {
    At(u64),
    End,
}

/// A file that a guest writes, and pays for.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) file: Arc<File>,
    pub(super) quota: Arc<Quota>,
    /// See [`super::Held`].
    pub(super) known_end: Arc<AtomicU64>,
}

impl Growing {
    /// Charges for and writes all of `bytes`, and for the gap before them.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let known = self.known_end.load(Ordering::Acquire);
        let gap = if offset > known && !bytes.is_empty() {
            let end = self.file.metadata()?.len();
            self.known_end.fetch_max(end, Ordering::AcqRel);
            offset.saturating_sub(end.max(known))
        } else {
            0
        };
        write_at(&self.file, &self.quota, bytes, offset, gap)?;
        if !bytes.is_empty() {
            let end = offset.saturating_add(bytes.len() as u64);
            self.known_end.fetch_max(end, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// Writes a file in order.
#[derive(Debug)]
pub(super) struct WriteStream {
    growing: Growing,
    position: Position,
    failed: bool,
}

impl WriteStream {
    pub(super) fn at(growing: Growing, offset: u64) -> Self {
        Self {
            growing,
            position: Position::At(offset),
            failed: false,
        }
    }

    pub(super) fn append(growing: Growing) -> Self {
        Self {
            growing,
            position: Position::End,
            failed: false,
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.position {
            Position::At(offset) => {
                self.growing.write_at(bytes, *offset)?;
                *offset += bytes.len() as u64;
                Ok(())
            }
            Position::End => {
                // Only this guest writes here, and it is inside this call, so the end does not move meanwhile.
                let Growing { file, quota, .. } = &self.growing;
                write_at(file, quota, bytes, file.metadata()?.len(), 0)
            }
        }
    }
}

/// Charges for and writes all of `bytes`, and for a gap before them.
fn write_at(file: &File, quota: &Quota, bytes: &[u8], offset: u64, gap: u64) -> io::Result<()> {
    let length = bytes.len() as u64;
    if length == 0 {
        return Ok(());
    }
    if offset
        .checked_add(length)
        .is_none_or(|end| i64::try_from(end).is_err())
    {
        return Err(rustix::io::Errno::FBIG.into());
    }
    quota.take_bytes(length.saturating_add(gap))?;
    // What a failed write has charged stays charged: some of it may be on the disk.
    file.write_all_at(bytes, offset)
        .inspect_err(|error| quota.note(error))
}

#[async_trait]
impl Pollable for WriteStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for WriteStream {
    fn check_write(&mut self) -> StreamResult<usize> {
        if self.failed {
            Err(StreamError::Closed)
        } else {
            Ok(CHUNK_BYTES)
        }
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.failed {
            return Err(StreamError::Closed);
        }
        if bytes.len() > CHUNK_BYTES {
            return Err(StreamError::trap(
                "more bytes were written at once than the stream allows",
            ));
        }
        self.write_all(&bytes).map_err(|error| {
            self.failed = true;
            StreamError::LastOperationFailed(error.into())
        })
    }

    fn flush(&mut self) -> StreamResult<()> {
        if self.failed {
            Err(StreamError::Closed)
        } else {
            Ok(())
        }
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write(bytes)
    }
}

/// Reads a file in order.
#[derive(Debug)]
pub(super) struct ReadStream {
    file: Arc<File>,
    quota: Arc<Quota>,
    position: u64,
    ended: bool,
}

impl ReadStream {
    pub(super) fn at(file: Arc<File>, quota: Arc<Quota>, position: u64) -> Self {
        Self {
            file,
            quota,
            position,
            ended: false,
        }
    }
}

#[async_trait]
impl Pollable for ReadStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl InputStream for ReadStream {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.ended {
            return Err(StreamError::Closed);
        }
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = BytesMut::zeroed(size.min(CHUNK_BYTES));
        loop {
            match self.file.read_at(&mut buffer, self.position) {
                Ok(0) => {
                    self.ended = true;
                    return Err(StreamError::Closed);
                }
                Ok(read) => {
                    self.position += read as u64;
                    self.quota.note_read(read as u64);
                    buffer.truncate(read);
                    return Ok(buffer.freeze());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    return Err(StreamError::LastOperationFailed(error.into()));
                }
            }
        }
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.read(size)
    }
}
