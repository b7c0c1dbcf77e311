//! The stream under a connection: it gives up on a peer that does not read, and lingers when it closes.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a closing connection discards what its peer still sends. A peer that sends its whole body
/// before it reads the answer needs this time to get through; nginx chose the same.
const LINGER: Duration = Duration::from_secs(30);

/// How long a closing connection waits for the next byte of a peer that has gone quiet.
const LINGER_IDLE: Duration = Duration::from_secs(5);

/// How much a closing connection discards. A client that still has more to send than this looks for an
/// answer while it sends.
const LINGER_BYTES: u64 = 256 * 1024 * 1024;

/// What is discarded is read in pieces of this size; it lives on the stack of the polling thread.
const DISCARD_BUFFER: usize = 16 * 1024;

/// How many pieces are discarded before other tasks of the thread get their turn.
const DISCARD_TURN: usize = 32;

/// A peer's stream with a time limit on a write that makes no progress, and a shutdown that lingers.
///
/// Closing a socket whose receive buffer is not empty resets the connection, and the reset overtakes
/// the answer that is still on its way. So a shutdown first sends the end of the stream, and then reads
/// and discards until the peer closes its side, or until the bounds above are reached.
pub(super) struct PeerStream<T> {
    inner: T,
    stall: Duration,
    timer: Pin<Box<Sleep>>,
    state: State,
}

enum State {
    Open,
    /// A write has been waiting since the timer was set.
    Stalled,
    /// Our side is closed; the peer's bytes are discarded until `end`, or until `left` runs out.
    Lingering {
        end: Instant,
        left: u64,
    },
    Closed,
}

impl<T> PeerStream<T> {
    /// Wraps `inner`; a write that makes no progress for `stall` fails.
    pub(super) fn new(inner: T, stall: Duration) -> Self {
        Self {
            inner,
            stall,
            timer: Box::pin(sleep_until(Instant::now())),
            state: State::Open,
        }
    }

    /// Arms the timer when a write waits, disarms it when one got through.
    fn watch<R>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            if matches!(self.state, State::Stalled) {
                self.state = State::Open;
            }
            return written;
        }
        if matches!(self.state, State::Open) {
            self.timer.as_mut().reset(Instant::now() + self.stall);
            self.state = State::Stalled;
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the peer took nothing for {:?}", self.stall),
        )))
    }
}

impl<T: AsyncRead + Unpin> PeerStream<T> {
    /// Discards what the peer sends until it is done, has sent too much or has taken too long.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Lingering { end, left } = &mut self.state else {
            return Poll::Ready(());
        };
        let mut piece = [0; DISCARD_BUFFER];
        for _ in 0..DISCARD_TURN {
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.inner).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) => {
                    let read = piece.filled().len() as u64;
                    *left = left.saturating_sub(read);
                    if read == 0 || *left == 0 || Instant::now() >= *end {
                        return Poll::Ready(());
                    }
                    let quiet = Instant::now() + LINGER_IDLE;
                    self.timer.as_mut().reset(quiet.min(*end));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for PeerStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PeerStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Open | State::Stalled) {
            let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
            ready!(self.watch(cx, shut))?;
            let now = Instant::now();
            self.timer.as_mut().reset(now + LINGER_IDLE);
            self.state = State::Lingering {
                end: now + LINGER,
                left: LINGER_BYTES,
            };
        }
        ready!(self.poll_linger(cx));
        self.state = State::Closed;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_reads_is_given_up() {
        let (ours, _theirs) = duplex(16);
        let mut stream = PeerStream::new(ours, Duration::from_secs(60));
        let before = Instant::now();
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(before.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_that_makes_progress_is_kept() {
        let (ours, mut theirs) = duplex(1);
        let mut stream = PeerStream::new(ours, Duration::from_secs(60));
        let reader = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                theirs.read_u8().await.unwrap();
            }
        });
        stream.write_all(&[7; 5]).await.unwrap();
        reader.await.unwrap();
    }

    #[tokio::test]
    async fn a_shutdown_discards_what_the_peer_still_sends() {
        let (ours, mut theirs) = duplex(1024);
        let mut stream = PeerStream::new(ours, Duration::from_secs(60));
        stream.write_all(b"refused").await.unwrap();
        let closing = tokio::spawn(async move { stream.shutdown().await });
        theirs.write_all(&vec![1; 1 << 20]).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"refused");
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_peer_does_not_hold_a_closing_connection() {
        let (ours, _theirs) = duplex(1024);
        let mut stream = PeerStream::new(ours, Duration::from_secs(60));
        let before = Instant::now();
        stream.shutdown().await.unwrap();
        assert_eq!(before.elapsed(), LINGER_IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_stops_is_cut_off() {
        let (ours, mut theirs) = duplex(1024);
        let mut stream = PeerStream::new(ours, Duration::from_secs(60));
        let sender = tokio::spawn(async move {
            while theirs.write_all(&[0; 16]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let before = Instant::now();
        stream.shutdown().await.unwrap();
        assert!(before.elapsed() <= LINGER + Duration::from_secs(1));
        drop(stream);
        sender.await.unwrap();
    }
}
