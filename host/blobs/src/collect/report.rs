//! What a collection is told to do, and what it says it did.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// For how long collections have to come upon a pack that the index does not know before it is removed. One that a crash
/// left behind is of no use; one that an operator put there, or that an older index was put back beside, is worth a day for
/// `reindex`.
pub(super) const ORPHAN_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Of which share of living bytes on, in percent, a pack is left as it is. At one half, no more is stored than
/// twice what lives, and a byte is copied at most once for each byte that is freed.
pub(super) const WORTH_KEEPING: u64 = 50;

/// The zstd level of what is copied into new packs: three times slower than what the default spends, and a
/// tenth smaller on source text; nobody waits for it.
const COPY_LEVEL: i32 = 9;

/// How a collection goes about it.
#[derive(Clone, Debug)]
pub struct CollectOptions {
    /// Only says what would be removed. (What would be written again, and what that would save, is found out
    /// from the index alone.) Default: no.
    pub dry_run: bool,
    /// How many bytes of packs and index may be read and written in a second, so that uploads and readers have
    /// the rest of the disk. Default: as many as it takes.
    pub bytes_per_second: Option<u64>,
    /// How long ago a collection has to have come upon a pack that the index does not know before it is removed. Default:
    /// one day.
    pub orphan_grace: Duration,
    /// The zstd level of what is copied into new packs. Default: 9.
    pub compression_level: i32,
}

impl Default for CollectOptions {
    fn default() -> CollectOptions {
        CollectOptions {
            dry_run: false,
            bytes_per_second: None,
            orphan_grace: ORPHAN_GRACE,
            compression_level: COPY_LEVEL,
        }
    }
}

/// What a collection found and did. Bytes are bytes on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// How many complete blobs there were.
    pub blobs: u64,
    /// How many packs there were.
    pub packs: u64,
    /// How many bytes these had.
    pub bytes: u64,
    /// How many chunks these blobs name.
    pub live_chunks: u64,
    /// How many bytes these chunks take.
    pub live_bytes: u64,
    /// Packs that were removed (or would be): those of which nothing was alive, and those that were copied.
    pub packs_removed: u64,
    /// How many bytes these had.
    pub bytes_removed: u64,
    /// Of the packs that were removed, those of which something was alive and was copied.
    pub packs_copied: u64,
    /// How many chunks were copied.
    pub chunks_copied: u64,
    /// How many bytes the new packs have.
    pub bytes_written: u64,
    /// Packs that the index did not know and that were removed (or would be).
    pub orphans_removed: u64,
    /// How many bytes these had.
    pub orphan_bytes: u64,
    /// Packs that would have gone if no upload had leaned on them: they are the next collection's.
    pub packs_leased: u64,
    /// Packs that could not be read and were left as they are: a check says more.
    pub packs_unreadable: u64,
}

impl CollectReport {
    /// How many bytes the packs have when all of that is done.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        (self.bytes + self.bytes_written).saturating_sub(self.bytes_removed)
    }

    /// How many bytes came free, or would.
    #[must_use]
    pub fn bytes_freed(&self) -> u64 {
        (self.bytes_removed + self.orphan_bytes).saturating_sub(self.bytes_written)
    }
}
