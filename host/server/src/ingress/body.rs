//! What a response carries, in pieces of bounded size.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cap_std::fs::Dir;
use cofferdam_deploy::Route;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::site::changed;

/// How much of a file is read at once, and so what a slow client costs. Twice as much is not faster.
const PIECE_BYTES: u64 = 64 * 1024;

/// An error of a body that has begun: it breaks the connection, so that nobody takes a part for the whole.
pub(super) type BodyError = Box<dyn Error + Send + Sync>;

/// The body of every response of the ingress.
pub(super) struct Body {
    content: Content,
    /// What must outlive the response: the route it came from, so that its release is not reaped under it.
    _lease: Option<Arc<Route>>,
    /// Resolves when the release was replaced and the time for what is still under way is over. What is sent
    /// at once has no need of it.
    cut: Option<BoxFuture<'static, ()>>,
}

enum Content {
    Whole(Option<Bytes>),
    File(FileReader),
    Streamed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body {
    pub(super) fn empty() -> Body {
        Body::from(Content::Whole(None))
    }

    pub(super) fn whole(bytes: Bytes) -> Body {
        Body::from(Content::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    pub(super) fn file(reader: FileReader) -> Body {
        Body::from(Content::File(reader))
    }

    pub(super) fn streamed(
        body: impl HttpBody<Data = Bytes, Error = BodyError> + Send + 'static,
    ) -> Body {
        Body::from(Content::Streamed(Box::pin(body)))
    }

    /// Keeps the route until the body is sent or dropped, and breaks off when the route is retired.
    pub(super) fn leased(self, route: Arc<Route>) -> Body {
        let cut: Option<BoxFuture<'static, ()>> = match &self.content {
            Content::Whole(_) => None,
            Content::File(_) | Content::Streamed(_) => {
                let route = route.clone();
                Some(Box::pin(async move { route.retired().await }))
            }
        };
        Body {
            _lease: Some(route),
            cut,
            ..self
        }
    }
}

impl From<Content> for Body {
    fn from(content: Content) -> Body {
        Body {
            content,
            _lease: None,
            cut: None,
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(context).is_ready()
        {
            self.cut = None;
            let replaced = "the release was replaced, and the time for requests to it is over";
            return Poll::Ready(Some(Err(replaced.into())));
        }
        match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::File(reader) => {
                let piece = ready!(reader.poll_piece(context));
                Poll::Ready(piece.map(|piece| match piece {
                    Ok(bytes) => Ok(Frame::data(bytes)),
                    Err(error) => {
                        tracing::error!(%error, "a file of a release cannot be read to its end");
                        Err(error.into())
                    }
                }))
            }
            Content::Streamed(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_none(),
            Content::File(reader) => reader.left == 0,
            Content::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::File(reader) => SizeHint::with_exact(reader.left),
            // A component may name one length and send another. Without a hint hyper holds it to the header,
            // or sends it in chunks.
            Content::Streamed(_) => SizeHint::default(),
        }
    }
}

/// A stretch of a file, read piece by piece, no piece before the one before it left.
///
/// What the kernel has in memory is read at once; only what would wait for the disk goes to a thread that
/// may wait. So a file that many ask for costs no thread hops.
pub(super) struct FileReader {
    file: Arc<File>,
    offset: u64,
    /// What has not been handed out yet.
    left: u64,
    ready: Option<Bytes>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileReader {
    /// Opens a file that is known to have `expected` bytes, to hand out `left` of them from `offset` on.
    /// Blocks on the disk, for the first piece too.
    pub(super) fn open(
        dir: &Dir,
        path: &Path,
        expected: u64,
        offset: u64,
        left: u64,
    ) -> io::Result<FileReader> {
        let file = dir.open(path)?.into_std();
        if file.metadata()?.len() != expected {
            return Err(changed());
        }
        let first = read(&file, offset, piece(left))?;
        Ok(FileReader {
            file: Arc::new(file),
            offset,
            left,
            ready: Some(first),
            reading: None,
        })
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let bytes = match ready!(self.poll_read(context)) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.left = 0;
                return Poll::Ready(Some(Err(error)));
            }
        };
        self.offset += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Poll::Ready(Some(Ok(bytes)))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if let Some(bytes) = self.ready.take() {
            return Poll::Ready(Ok(bytes));
        }
        let reading = if let Some(reading) = &mut self.reading {
            reading
        } else {
            let (offset, mut piece) = (self.offset, piece(self.left));
            let known = read_known(&self.file, offset, &mut piece);
            if known > 0 {
                piece.truncate(known);
                return Poll::Ready(Ok(Bytes::from(piece)));
            }
            let file = self.file.clone();
            self.reading.insert(tokio::task::spawn_blocking(move || {
                read(&file, offset, piece)
            }))
        };
        let bytes = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        Poll::Ready(bytes.map_err(io::Error::other).flatten())
    }
}

/// Room for the next piece.
fn piece(left: u64) -> Vec<u8> {
    vec![0; usize::try_from(left.min(PIECE_BYTES)).unwrap_or_default()]
}

/// Fills a piece, or fails.
fn read(file: &File, offset: u64, mut piece: Vec<u8>) -> io::Result<Bytes> {
    file.read_exact_at(&mut piece, offset)?;
    Ok(Bytes::from(piece))
}

/// Reads what can be had without waiting. 0 means: wait for it, and hear of any error there.
#[cfg(target_os = "linux")]
fn read_known(file: &File, offset: u64, piece: &mut [u8]) -> usize {
    use rustix::io::{ReadWriteFlags, preadv2};

    preadv2(
        file,
        &mut [io::IoSliceMut::new(piece)],
        offset,
        ReadWriteFlags::NOWAIT,
    )
    .unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
fn read_known(_file: &File, _offset: u64, _piece: &mut [u8]) -> usize {
    0
}
