//! What is missing, and uploads that are resumed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use cofferdam_blobs::{ChunkRef, ChunkerParams, MAX_LISTED_CHUNKS};
use http_body::{Body, Frame, SizeHint};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Api;
use super::upload::{Answer, Sent};
use crate::exit::Failure;
use crate::package::{self, Package};
use crate::project::Project;

/// A chunk in a package's list: its length, and its name.
const LIST_LINE_BYTES: usize = 36;

/// What the server says of chunks.
#[derive(Debug, Deserialize)]
pub(crate) struct Missing {
    /// What it cuts with.
    pub(crate) chunker: ChunkerParams,
    /// Whether the project holds anything at all.
    pub(crate) held: bool,
    missing: String,
}

impl Missing {
    /// For each of the chunks that were asked for, whether it is missing; nothing if the answer is of another length.
    pub(crate) fn bits(&self, chunks: usize) -> Option<Vec<bool>> {
        let bytes = STANDARD.decode(&self.missing).ok()?;
        (bytes.len() == chunks.div_ceil(8)).then(|| {
            (0..chunks)
                .map(|n| bytes[n / 8] & (1 << (n % 8)) != 0)
                .collect()
        })
    }
}

/// Where an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) upload: String,
    pub(crate) offset: u64,
    pub(crate) complete: bool,
    pub(crate) length: Option<u64>,
}

/// What became of a part of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Patched {
    /// All of it is there.
    Complete,
    /// It is there up to this byte.
    At(u64),
    /// The server takes nothing of it before so long.
    Busy(String, Duration),
    /// The server says that it is not where it was thought to be.
    Elsewhere,
    /// The connection broke, and the server may have taken any part of it.
    Broken(String),
}

impl Api {
    /// Asks which of these chunks (digests of 32 bytes, one after the other) a project has to send. Nothing when the
    /// server does not know the question.
    pub(crate) async fn missing(
        &self,
        project: &Project,
        ids: Bytes,
    ) -> Result<Option<Missing>, Failure> {
        let request = self
            .request(Method::POST, &format!("/v1/projects/{project}/missing"))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(ACCEPT, "application/json")
            .body(ids);
        let answer = match self.send(request).await {
            Ok(answer) => answer,
            Err(Failure::Refused {
                code: Some(code), ..
            }) if code == "not_found" || code == "method_not_allowed" => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let answer = self.json(answer).await?;
        Ok(serde_json::from_value(answer).ok())
    }

    /// The chunks of a project's package with this BLAKE3. Nothing when the server has none, or does not know the question.
    pub(crate) async fn chunk_list(
        &self,
        project: &Project,
        package: &str,
    ) -> Result<Option<Vec<ChunkRef>>, Failure> {
        let path = format!("/v1/projects/{project}/chunks?package={package}");
        let mut answer = match self.send(self.request(Method::GET, &path)).await {
            Ok(answer) => answer,
            Err(Failure::Refused { .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let mut chunks = Vec::new();
        let mut rest = BytesMut::new();
        while let Some(part) = self.part(&mut answer).await? {
            rest.extend_from_slice(&part);
            while let Some((line, _)) = rest.split_first_chunk::<LIST_LINE_BYTES>() {
                let (bytes, id) = line.split_at(4);
                let (Ok(bytes), Ok(id)) = (bytes.try_into(), <[u8; 32]>::try_from(id)) else {
                    return Ok(None);
                };
                chunks.push(ChunkRef {
                    id: id.into(),
                    bytes: u32::from_le_bytes(bytes),
                });
                rest.advance(LIST_LINE_BYTES);
            }
            if chunks.len() as u64 > MAX_LISTED_CHUNKS {
                return Ok(None);
            }
        }
        Ok(rest.is_empty().then_some(chunks))
    }

    /// Makes an upload for a project.
    pub(crate) async fn create_upload(
        &self,
        project: &Project,
        length: u64,
        media_type: &str,
    ) -> Result<Place, Failure> {
        let request = self
            .request(Method::POST, &format!("/v1/uploads?project={project}"))
            .header(CONTENT_TYPE, media_type)
            .header("upload-length", length)
            .header("upload-complete", "?0")
            .header(ACCEPT, "application/json");
        let answer = self.send(request).await?;
        let answer = self.json(answer).await?;
        let upload = answer.get("id").and_then(Value::as_str);
        let upload = upload.ok_or_else(|| {
            Failure::Unreachable(format!("{} makes an upload without a name", self.url()))
        })?;
        Ok(Place {
            upload: upload.to_owned(),
            offset: answer.get("offset").and_then(Value::as_u64).unwrap_or(0),
            complete: false,
            length: Some(length),
        })
    }

    /// Where an upload is; nothing when there is none of this name.
    pub(crate) async fn place(&self, upload: &str) -> Result<Option<Place>, Failure> {
        let request = self.request(Method::HEAD, &format!("/v1/uploads/{upload}"));
        match self.send(request).await {
            Ok(answer) => {
                let headers = answer.headers();
                let offset = number(headers, "upload-offset").ok_or_else(|| {
                    Failure::Unreachable(format!(
                        "{} does not say how far upload {upload} is",
                        self.url()
                    ))
                })?;
                Ok(Some(Place {
                    upload: upload.to_owned(),
                    offset,
                    complete: is_complete(headers),
                    length: number(headers, "upload-length"),
                }))
            }
            Err(Failure::Refused { code, .. }) if code.as_deref() == Some("not_found") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Sends the rest of an upload from `offset` on: `left` bytes.
    pub(crate) async fn patch(
        &self,
        upload: &str,
        offset: u64,
        left: u64,
        package: Package,
        sent: &Arc<Sent>,
    ) -> Result<Patched, Failure> {
        let body = Rest {
            parts: package.parts,
            left,
            sent: Arc::clone(sent),
        };
        let request = self
            .request(Method::PATCH, &format!("/v1/uploads/{upload}"))
            .header(CONTENT_TYPE, "application/partial-upload")
            .header("upload-offset", offset)
            .header("upload-complete", "?1")
            .body(reqwest::Body::wrap(body));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Ok(Patched::Broken(self.broken(&error).to_string())),
        };
        if !answer.status().is_success() {
            sent.hold();
        }
        let status = answer.status();
        match self.accept(answer).await {
            Ok(answer) if is_complete(answer.headers()) => Ok(Patched::Complete),
            Ok(answer) => {
                Ok(number(answer.headers(), "upload-offset")
                    .map_or(Patched::Elsewhere, Patched::At))
            }
            Err(Failure::Unreachable(why)) => Ok(Patched::Broken(why)),
            Err(Failure::Busy { message, after }) => Ok(Patched::Busy(message, after)),
            // What the server thought of a connection that broke.
            Err(Failure::Refused {
                code: Some(code), ..
            }) if code == "upload_interrupted" => Ok(Patched::Broken(code)),
            Err(Failure::Refused { .. })
                if status == StatusCode::CONFLICT || status == StatusCode::NOT_FOUND =>
            {
                Ok(Patched::Elsewhere)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Forgets an upload that is of no use any more. Whether that goes well does not matter: it expires.
    pub(crate) async fn forget_upload(&self, upload: &str) {
        let request = self.request(Method::DELETE, &format!("/v1/uploads/{upload}"));
        let _ = self.send(request).await;
    }

    /// Makes a deployment of a complete upload.
    pub(crate) async fn deploy_upload(
        &self,
        project: &Project,
        head: &Value,
        key: &str,
        upload: &str,
        answer: Answer,
    ) -> Result<Response, Failure> {
        let request = self
            .request(Method::POST, &format!("/v1/projects/{project}/deployments"))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, answer.media_type())
            .header("idempotency-key", key)
            .body(json!({ "head": head, "upload": upload }).to_string());
        // Putting a package together takes the server longer than any other answer.
        let answer = request.send().await.map_err(|error| self.broken(&error))?;
        self.accept(answer).await
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn is_complete(headers: &HeaderMap) -> bool {
    headers
        .get("upload-complete")
        .is_some_and(|value| value == "?1")
}

/// The rest of an upload, as a body of known length.
struct Rest {
    parts: mpsc::Receiver<Result<Bytes, package::Error>>,
    left: u64,
    sent: Arc<Sent>,
}

impl Body for Rest {
    type Data = Bytes;
    type Error = package::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, package::Error>>> {
        if self.sent.is_held() {
            return Poll::Pending;
        }
        match ready!(self.parts.poll_recv(context)) {
            Some(Ok(part)) => {
                let bytes = part.len() as u64;
                self.left = self.left.saturating_sub(bytes);
                self.sent.add(bytes);
                Poll::Ready(Some(Ok(Frame::data(part))))
            }
            Some(Err(error)) => {
                let shown = error.to_string();
                self.sent.fail(error);
                Poll::Ready(Some(Err(package::Error::Argument(shown))))
            }
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_of_an_answer_are_those_of_the_question() {
        let answer = Missing {
            chunker: ChunkerParams::default(),
            held: true,
            missing: STANDARD.encode([0b1000_0001, 1]),
        };
        let bits = answer.bits(9).unwrap_or_default();
        let set: Vec<usize> = (0..9).filter(|n| bits[*n]).collect();
        assert_eq!(set, [0, 7, 8]);
        assert!(answer.bits(8).is_none() && answer.bits(17).is_none());
    }
}
