//! File streams that read and write on the calling thread.
//!
//! The runtime's own hand every write to another thread, which costs ten times what the write does. A step has
//! a thread to itself, so blocking it blocks nobody. This is also where written bytes are charged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

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

/// Writes a file in order.
#[derive(Debug)]
pub(super) struct WriteStream {
    file: Arc<File>,
    quota: Arc<Quota>,
    position: Position,
    /// How long the file was when the stream last knew. It may have been shortened since; then a write past its
    /// new end leaves a gap that was already paid for when the file had been that long.
    known_end: u64,
    failed: bool,
}

impl WriteStream {
    pub(super) fn at(file: Arc<File>, quota: Arc<Quota>, offset: u64) -> io::Result<Self> {
        let known_end = if offset == 0 {
            0
        } else {
            file.metadata()?.len()
        };
        Ok(Self {
            file,
            quota,
            position: Position::At(offset),
            known_end,
            failed: false,
        })
    }

    pub(super) fn append(file: Arc<File>, quota: Arc<Quota>) -> Self {
        Self {
            file,
            quota,
            position: Position::End,
            known_end: 0,
            failed: false,
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let offset = match self.position {
            Position::At(offset) => offset,
            // Only this guest writes here, and it is inside this call, so the end does not move meanwhile.
            Position::End => self.file.metadata()?.len(),
        };
        let length = bytes.len() as u64;
        let gap = match self.position {
            Position::At(_) => offset.saturating_sub(self.known_end),
            Position::End => 0,
        };
        write_at(&self.file, &self.quota, bytes, offset, gap)?;
        if let Position::At(offset) = &mut self.position {
            *offset += length;
            self.known_end = self.known_end.max(*offset);
        }
        Ok(())
    }
}

/// Charges for and writes all of `bytes`, and for the gap before them.
pub(super) fn write_at(
    file: &File,
    quota: &Quota,
    bytes: &[u8],
    offset: u64,
    gap: u64,
) -> io::Result<()> {
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
    position: u64,
    ended: bool,
}

impl ReadStream {
    pub(super) fn at(file: Arc<File>, position: u64) -> Self {
        Self {
            file,
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
