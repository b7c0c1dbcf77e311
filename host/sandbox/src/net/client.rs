//! The guest's end: it hands a request to the broker, and the broker's answer to the guest.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use wasmtime_wasi_http::{Error as HttpError, RequestOptions, WasiBody};

use super::body::{Arriving, Outgoing};
use super::failure::{FINE, Failure, LENGTH, OUTCOME, TIMES};
use super::{MAX_HEAD, STREAM_WINDOW, connection_window, streams};
use crate::error::Error;

/// Sends a guest's requests to the broker. When it is dropped, nothing that was being sent ends well.
pub(crate) struct Client {
    sender: SendRequest<Outgoing>,
    closed: Arc<AtomicBool>,
}

impl Client {
    /// Begins to talk to the broker, within the runtime of the step.
    pub(crate) async fn new(stream: UnixStream, connections: u64) -> Result<Self, Error> {
        let streams = streams(connections);
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(failed)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(streams))
            .initial_max_send_streams(streams as usize)
            .max_header_list_size(MAX_HEAD)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the stream to the broker ended");
            }
        });
        Ok(Self {
            sender,
            closed: Arc::default(),
        })
    }

    /// Sends a request.
    pub(crate) fn send(
        &self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> impl Future<Output = Result<Response<WasiBody>, HttpError>> + Send + use<> {
        let mut sender = self.sender.clone();
        let closed = Arc::clone(&self.closed);
        async move {
            let mut request = request.map(|inner| Outgoing { inner, closed });
            request.headers_mut().remove(TIMES);
            if let Some(times) = options.and_then(times) {
                request.headers_mut().insert(TIMES, times);
            }
            *request.version_mut() = http::Version::HTTP_2;
            let gone = |_| HttpError::ConnectionTerminated;
            sender.ready().await.map_err(gone)?;
            let mut response = sender.send_request(request).await.map_err(gone)?;
            let headers = response.headers_mut();
            match headers.remove(OUTCOME) {
                Some(word) if word == FINE => {}
                word => {
                    return Err(word
                        .and_then(|word| Failure::from_word(word.as_bytes()))
                        .unwrap_or(Failure::Terminated)
                        .error());
                }
            }
            if let Some(length) = headers.remove(LENGTH) {
                headers.insert(CONTENT_LENGTH, length);
            }
            Ok(response.map(|body| Arriving::new(body).boxed_unsync()))
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::host(format!("no stream to the step's network: {error}"))
}

impl Drop for Client {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
    }
}

fn times(options: RequestOptions) -> Option<HeaderValue> {
    let RequestOptions {
        connect_timeout,
        first_byte_timeout,
        between_bytes_timeout,
    } = options;
    let text =
        |time: Option<Duration>| time.map_or_else(String::new, |time| time.as_millis().to_string());
    HeaderValue::try_from(format!(
        "{},{},{}",
        text(connect_timeout),
        text(first_byte_timeout),
        text(between_bytes_timeout)
    ))
    .ok()
}
