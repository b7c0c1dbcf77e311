//! `POST /v1/projects/{project}/missing`: which chunks of a package the project has to send.
//!
//! The body is the chunks' BLAKE3 digests, 32 bytes each, one after the other; an empty one asks for the chunker
//! alone. The answer is a bit for each.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BytesMut};
use cofferdam_deploy::{ChunkId, ChunkerParams, MAX_LISTED_CHUNKS, ProjectName};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

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
