//! Which protocol a connection speaks, and with which limits it is spoken.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::ConnectionLimits;
use super::activity::Activity;
use super::stream::PeerStream;

/// What a connection of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most requests at a time on one connection of HTTP/2: what browsers ask for, and what most servers allow.
const MAX_STREAMS: u32 = 128;

/// How much of a body a peer may send ahead of whoever reads it. A push over a link of 50 ms keeps up 40 MB/s.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// The same for all streams of a connection together, which bounds what a connection makes us hold.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// How much of an answer is handed to the connection before its peer takes it.
const SEND_BUFFER: usize = 256 * 1024;

/// How many streams a peer may open and reset before we looked at them (CVE-2023-44487); h2's own default.
const PENDING_RESETS: usize = 20;

/// How many streams we reset for a peer's errors before the connection goes (CVE-2025-8671).
const LOCAL_RESETS: usize = 128;

/// How long a peer of HTTP/2 may be silent before it is asked whether it is there, and then how long it may take
/// to say so.
const PING: Duration = Duration::from_secs(20);

/// How long a connection that has to make room may take to close in order.
const RETIREMENT: Duration = Duration::from_secs(1);

/// The shortest pause between two looks at a connection of HTTP/2.
const MIN_LOOK: Duration = Duration::from_millis(50);

/// The longest.
const MAX_LOOK: Duration = Duration::from_secs(5);

/// The protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Reads as much as it takes to tell the protocol. Nothing when the peer leaves without a word.
pub(super) async fn detect<T: AsyncRead + Unpin>(
    stream: &mut T,
) -> io::Result<Option<(Protocol, Bytes)>> {
    let mut first = Vec::with_capacity(PREFACE.len());
    loop {
        let mut rest = (&mut *stream).take((PREFACE.len() - first.len()) as u64);
        let read = rest.read_buf(&mut first).await?;
        if first.is_empty() {
            return Ok(None);
        }
        // One that ends within the preface is left to the parser, which says what is wrong.
        if read == 0 || !PREFACE.starts_with(&first) {
            return Ok(Some((Protocol::Http1, first.into())));
        }
        if first.len() == PREFACE.len() {
            return Ok(Some((Protocol::Http2, first.into())));
        }
    }
}

/// A connection of HTTP/1.1.
pub(super) fn http1<T, S>(
    limits: &ConnectionLimits,
    stream: PeerStream<T>,
    service: S,
) -> http1::Connection<TokioIo<PeerStream<T>>, S>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResBody: 'static,
    <S::ResBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // The timer is what makes the header timeout real: without one hyper never checks it.
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_buf_size(limits.max_head_bytes)
        .serve_connection(TokioIo::new(stream), service)
}

/// The settings of a connection of HTTP/2.
pub(super) fn http2<T, S, B, F>(
    limits: &ConnectionLimits,
    stream: PeerStream<T>,
    service: S,
) -> http2::Connection<TokioIo<PeerStream<T>>, S, TokioExecutor>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = B, Future = F>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    F: Future<Output = Result<http::Response<B>, S::Error>> + Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(stream), service)
}

/// Runs a connection to its end: its own, or an orderly one when the server stops or has to make room. With
/// limits it is watched too: HTTP/1.1 has its own clocks, HTTP/2 has none for a connection without requests and
/// for a stream whose window stays shut.
pub(super) async fn drive<C>(
    connection: C,
    watched: Option<&ConnectionLimits>,
    activity: &Activity,
    shutdown: &CancellationToken,
) -> Result<(), hyper::Error>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut connection = pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = shutdown.cancelled(), if !closing => {
                connection.as_mut().graceful_shutdown();
                closing = true;
            }
            () = activity.retired(), if !closing => {
                connection.as_mut().graceful_shutdown();
                closing = true;
                // A request that came in this very moment is answered; half a head is not waited for.
                if let Ok(ended) = tokio::time::timeout(RETIREMENT, connection.as_mut()).await {
                    return ended;
                }
                if activity.idle_for().is_some() {
                    return Ok(());
                }
            }
            () = look(watched) => {
                let Some(limits) = watched else { continue };
                let is_idle = activity.idle_for().is_some_and(|time| time >= limits.header_read);
                if activity.untaken_for() >= limits.write_stall || (is_idle && closing) {
                    return Ok(());
                }
                if is_idle {
                    connection.as_mut().graceful_shutdown();
                    closing = true;
                }
            }
        }
    }
}

/// A pause between two looks at a connection that is watched; for ever for one that is not.
async fn look(watched: Option<&ConnectionLimits>) {
    match watched {
        None => std::future::pending().await,
        Some(limits) => {
            let pause = limits.header_read.min(limits.write_stall) / 4;
            tokio::time::sleep(pause.clamp(MIN_LOOK, MAX_LOOK)).await;
        }
    }
}

/// A stream of which the first bytes were read already.
#[derive(Debug)]
pub(super) struct Rewound<T> {
    prefix: Bytes,
    inner: T,
}

impl<T> Rewound<T> {
    pub(super) fn new(prefix: Bytes, inner: T) -> Self {
        Self { prefix, inner }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let piece = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..piece]);
        self.prefix.advance(piece);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    async fn detected(pieces: &[&[u8]]) -> Option<(Protocol, Vec<u8>)> {
        let (mut theirs, mut ours) = tokio::io::duplex(8);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let sending = tokio::spawn(async move {
            for piece in pieces {
                theirs.write_all(&piece).await.unwrap();
            }
            theirs.shutdown().await.unwrap();
        });
        let (protocol, prefix) = detect(&mut ours).await.unwrap()?;
        let mut all = Vec::new();
        let mut rewound = Rewound::new(prefix, ours);
        rewound.read_to_end(&mut all).await.unwrap();
        sending.await.unwrap();
        Some((protocol, all))
    }

    #[tokio::test]
    async fn the_first_bytes_tell_the_protocol_and_are_not_lost() {
        let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
        assert_eq!(detected(&[&get]).await, Some((Protocol::Http1, get)));
        let preface = [PREFACE, b"more"].concat();
        let found = Some((Protocol::Http2, preface.clone()));
        assert_eq!(detected(&[&preface]).await, found);
        let bytes: Vec<&[u8]> = preface.chunks(1).collect();
        assert_eq!(detected(&bytes).await, found);
        for part in [
            &b"P"[..],
            b"PRI * HTTP/2.0\r\n",
            b"PUT /x",
            b"PRI * HTTP/1.1",
        ] {
            let found = Some((Protocol::Http1, part.to_vec()));
            assert_eq!(detected(&[part]).await, found);
        }
        assert_eq!(detected(&[]).await, None);
    }
}
