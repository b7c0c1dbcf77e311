//! What a client learns of what its project holds.
//!
//! `POST /v1/projects/{project}/missing`: which chunks of a package the project has to send. The body is the chunks'
//! BLAKE3 digests, 32 bytes each, one after the other; an empty one asks for the chunker alone. The answer is a bit for
//! each.
//!
//! `GET /v1/projects/{project}/chunks?package={blake3}`: the list of a package that the project holds, for who sends one
//! that is nearly the same.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BufMut as _, BytesMut};
use cofferdam_deploy::{
    BlobDigest, BlobError, ChunkId, ChunkerParams, MAX_LISTED_CHUNKS, ProjectName,
};
use futures::stream;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{Call, json};
use crate::upload::body::UploadBody;

/// The bytes of a digest.
const ID_BYTES: usize = 32;

/// How many chunks are looked up at a time.
const BATCH: usize = 4096;

/// Which chunks are missing.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    /// What the server cuts with. Chunks that were cut in another way are not among those it has.
    #[schemars(with = "serde_json::Value")]
    chunker: ChunkerParams,
    /// Whether the project holds any chunk at all.
    held: bool,
    /// How many chunks were asked for.
    chunks: u64,
    /// A bit for each, in base64: bit `n % 8` of byte `n / 8`, counted from the least, is set when chunk `n` is
    /// missing.
    missing: String,
}

pub(super) async fn missing(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let Call { api, body, .. } = call;
    let host = api.host();
    let mut body = UploadBody::new(body, api.inner.body_limits.clone());
    let mut buffer = BytesMut::new();
    let mut bits = Bits::default();
    loop {
        let more = body.next().await?;
        let is_last = more.is_none();
        buffer.extend_from_slice(&more.unwrap_or_default());
        while buffer.len() >= BATCH * ID_BYTES || (is_last && buffer.len() >= ID_BYTES) {
            let count = (buffer.len() / ID_BYTES).min(BATCH);
            if bits.count + count as u64 > MAX_LISTED_CHUNKS {
                return Err(Problem::too_large(format!(
                    "at most {MAX_LISTED_CHUNKS} chunks can be asked for at a time"
                )));
            }
            let ids: Vec<ChunkId> = (0..count)
                .map(|_| {
                    let mut id = [0; ID_BYTES];
                    buffer.copy_to_slice(&mut id);
                    ChunkId::from(id)
                })
                .collect();
            bits.extend(host.missing(&project, &ids).await?);
        }
        if is_last {
            break;
        }
    }
    if !buffer.is_empty() {
        return Err(Problem::bad_request(format!(
            "the list ends with {} bytes that make no digest: each has {ID_BYTES}",
            buffer.len()
        )));
    }
    let answer = Answer {
        chunker: host.chunker(),
        held: host.holds_any(&project).await?,
        chunks: bits.count,
        missing: STANDARD.encode(bits.bytes),
    };
    json(StatusCode::OK, &answer)
}

/// The query of [`list`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    package: String,
}

/// A line of the list: the chunk's length and its digest.
const LINE_BYTES: u64 = 4 + ID_BYTES as u64;

pub(super) async fn list(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let Wanted { package } = call.query()?;
    let digest: BlobDigest = package.parse().map_err(|_| {
        Problem::bad_request(format!("package is {package:?}; it is a BLAKE3 in hex"))
    })?;
    let Some(list) = call.api.host().chunk_list(&project, &digest).await? else {
        return Err(Problem::absent(&format!(
            "package {digest} of project {project}"
        )));
    };
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (
            CONTENT_LENGTH,
            (list.blob().chunks * LINE_BYTES).to_string(),
        ),
    ];
    // An error in the middle ends the connection before the announced length.
    let lines = stream::try_unfold(list, |mut list| async move {
        let Some(chunks) = list.next().await? else {
            return Ok::<_, BlobError>(None);
        };
        let mut lines = BytesMut::new();
        for chunk in chunks {
            lines.put_u32_le(chunk.bytes);
            lines.put_slice(chunk.id.as_bytes());
        }
        Ok(Some((lines.freeze(), list)))
    });
    Ok((headers, Body::from_stream(lines)).into_response())
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: u64,
}

impl Bits {
    fn extend(&mut self, bits: Vec<bool>) {
        for bit in bits {
            let place = self.count % 8;
            if place == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= u8::from(bit) << place;
            }
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_chunk_is_the_least_bit() {
        let mut bits = Bits::default();
        bits.extend(vec![true, false, true]);
        bits.extend(vec![false, false, false, false, true, true]);
        assert_eq!((bits.bytes, bits.count), (vec![0b1000_0101, 1], 9));
    }
}
