//! The package's bytes.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

/// How much is asked for at once. Larger reads gain nothing, and the host's own chunks are of this order.
#[cfg_attr(not(target_os = "wasi"), allow(dead_code, reason = "stdin's own"))]
const CHUNK: usize = 64 * 1024;

/// Where chunks come from.
pub trait Source {
    /// The next bytes, or `None` after the last. An empty chunk is not the end.
    ///
    /// # Errors
    ///
    /// When the bytes stop before their end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>>;
}

/// Standard input. On WASI a chunk of the host's becomes the buffer as it is: `std::io::stdin` would copy it
/// twice and ask for 8 KiB at a time.
#[derive(Debug)]
pub struct Stdin {
    #[cfg(target_os = "wasi")]
    stream: wasip2::io::streams::InputStream,
}

impl Stdin {
    /// The step's standard input.
    #[must_use]
    pub fn open() -> Stdin {
        Stdin {
            #[cfg(target_os = "wasi")]
            stream: wasip2::cli::stdin::get_stdin(),
        }
    }
}

#[cfg(target_os = "wasi")]
impl Source for Stdin {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        use wasip2::io::streams::StreamError;

        match self.stream.blocking_read(CHUNK as u64) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(StreamError::Closed) => Ok(None),
            Err(StreamError::LastOperationFailed(error)) => {
                Err(io::Error::other(error.to_debug_string()))
            }
        }
    }
}

#[cfg(not(target_os = "wasi"))]
impl Source for Stdin {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = vec![0; CHUNK];
        let read = io::stdin().lock().read(&mut chunk)?;
        chunk.truncate(read);
        Ok((read > 0).then_some(chunk))
    }
}

/// A package that is in memory already.
impl Source for std::vec::IntoIter<Vec<u8>> {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(Iterator::next(self))
    }
}

/// The package as a buffered reader that counts what it has taken and can look ahead.
#[derive(Debug)]
pub struct Input<S> {
    source: S,
    chunk: Vec<u8>,
    at: usize,
    taken: Rc<Cell<u64>>,
}

impl<S: Source> Input<S> {
    /// A package from its first byte.
    pub fn new(source: S) -> Input<S> {
        Input {
            source,
            chunk: Vec::new(),
            at: 0,
            taken: Rc::default(),
        }
    }

    /// The number of bytes that the source has given so far, as it goes on.
    pub(crate) fn taken(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.taken)
    }

    /// The first `len` bytes that are not consumed yet, or fewer when there are no more.
    pub(crate) fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.chunk.len() - self.at < len {
            let Some(more) = self.pull()? else { break };
            self.chunk.drain(..self.at);
            self.at = 0;
            self.chunk.extend_from_slice(&more);
        }
        let end = self.chunk.len().min(self.at + len);
        Ok(&self.chunk[self.at..end])
    }

    fn pull(&mut self) -> io::Result<Option<Vec<u8>>> {
        let chunk = self.source.next()?;
        if let Some(chunk) = &chunk {
            self.taken.set(self.taken.get() + chunk.len() as u64);
        }
        Ok(chunk)
    }
}

impl<S: Source> BufRead for Input<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.chunk.len() {
            match self.pull()? {
                Some(chunk) => {
                    self.chunk = chunk;
                    self.at = 0;
                }
                None => break,
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl<S: Source> Read for Input<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}

/// Fills `buffer`, which the archive promises to be there.
pub(crate) fn fill<R: BufRead + ?Sized>(
    input: &mut R,
    buffer: &mut [u8],
    what: &str,
) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let available = input.fill_buf()?;
        if available.is_empty() {
            return Err(truncated(what));
        }
        let len = available.len().min(buffer.len() - done);
        buffer[done..done + len].copy_from_slice(&available[..len]);
        input.consume(len);
        done += len;
    }
    Ok(())
}

/// Passes over bytes that the archive promises to be there.
pub(crate) fn skip<R: BufRead + ?Sized>(input: &mut R, mut len: u64, what: &str) -> io::Result<()> {
    while len > 0 {
        let available = input.fill_buf()?.len();
        if available == 0 {
            return Err(truncated(what));
        }
        let step = usize::try_from(len).map_or(available, |len| len.min(available));
        input.consume(step);
        len -= step as u64;
    }
    Ok(())
}

pub(crate) fn truncated(what: &str) -> io::Error {
    crate::Refused::new(
        crate::Reason::Truncated,
        format!("the package ends in the middle of {what}"),
    )
    .into_io()
}
