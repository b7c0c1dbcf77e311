//! A step's input on its way to the worker.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::wire::{INPUT_END, INPUT_ERROR, MAX_INPUT};
use crate::control::Clock;
use crate::spec::InputError;

/// The task that sends the input. Dropping it ends it, and so tells the input's source that nobody reads any more.
pub(super) struct Feed(JoinHandle<()>);

impl Feed {
    /// Starts sending; the clock stands still while the source has nothing.
    pub(super) fn start(
        channel: mpsc::Receiver<Result<Bytes, InputError>>,
        socket: StdStream,
        clock: Arc<Clock>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let stream = UnixStream::from_std(socket)?;
        Ok(Self(tokio::spawn(async move {
            // A worker whose guest wants no more closes its end.
            if let Err(error) = feed(channel, stream, &clock).await {
                tracing::trace!(%error, "a step's input was not read to its end");
            }
        })))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn feed(
    mut channel: mpsc::Receiver<Result<Bytes, InputError>>,
    mut stream: UnixStream,
    clock: &Clock,
) -> io::Result<()> {
    loop {
        let next = match channel.try_recv() {
            Ok(next) => Some(next),
            Err(_) => {
                clock.pause();
                // The worker may have no use for the rest while the source is silent.
                let next = tokio::select! {
                    next = channel.recv() => Ok(next),
                    closed = closed(&stream) => Err(closed),
                };
                clock.resume();
                match next {
                    Ok(next) => next,
                    Err(closed) => return closed,
                }
            }
        };
        match next {
            Some(Ok(bytes)) => {
                for piece in bytes.chunks(MAX_INPUT) {
                    send(&mut stream, length(piece.len())?, piece).await?;
                }
            }
            Some(Err(error)) => {
                let text = error.message.as_bytes();
                let text = &text[..text.len().min(MAX_INPUT)];
                stream.write_all(&INPUT_ERROR.to_le_bytes()).await?;
                return send(&mut stream, length(text.len())?, text).await;
            }
            None => return stream.write_all(&INPUT_END.to_le_bytes()).await,
        }
    }
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(io::Error::other)
}

async fn send(stream: &mut UnixStream, length: u32, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(bytes).await
}

/// Resolves when the worker has closed its end, which never sends anything.
async fn closed(stream: &UnixStream) -> io::Result<()> {
    stream.readable().await
}
