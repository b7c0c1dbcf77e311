//! A blob's name, and what is known about a complete one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Digest;

/// The most bytes a namespace may have. A project's name has at most 63; the rest is for prefixes.
pub const MAX_NAMESPACE_BYTES: usize = 255;

/// A blob's name: a `UUIDv7`, so ids sort by the time their upload began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlobId(Uuid);

impl BlobId {
    pub(crate) fn new() -> BlobId {
        BlobId(Uuid::now_v7())
    }

    /// The id as a UUID.
    #[must_use]
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> BlobId {
        BlobId(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for BlobId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<BlobId, uuid::Error> {
        Uuid::parse_str(text).map(BlobId)
    }
}

/// What is known about a complete blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// Its name.
    pub id: BlobId,
    /// Whom it belongs to: the project.
    pub namespace: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// How many bytes its chunks take when each is counted as if nobody else used it.
    pub stored_bytes: u64,
    /// How many chunks it was cut into.
    pub chunks: u64,
    /// BLAKE3 of all its bytes.
    pub blake3: Digest,
    /// SHA-256 of all its bytes, if it was asked for when it was written.
    #[serde(default)]
    pub sha256: Option<Digest>,
    /// When its upload began, in milliseconds since 1970.
    pub created_at: i64,
}
