//! What a backup begins and ends with.

use serde::{Deserialize, Serialize};

/// The first entry: what this is.
pub(super) const HEAD: &str = "cofferdam-backup.json";

/// The last entry: every file with its digest, a JSON line each.
pub(super) const MANIFEST: &str = "cofferdam-manifest.jsonl";

/// The format of backups that this version writes and reads.
pub(super) const FORMAT: u32 = 1;

/// The first entry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) format: u32,
    /// The version of the program that wrote it.
    pub(super) version: String,
    /// When it was taken.
    pub(super) at: String,
}

/// What an entry of the archive is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Item {
    File {
        path: String,
        bytes: u64,
        blake3: String,
    },
    Directory {
        path: String,
    },
    Link {
        path: String,
        target: String,
    },
}
