//! The index by itself, for what measures it (benches/index.rs).

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::{Index, PackCommit};
use crate::disk::RealDisk;
use crate::pack::{Encoding, Entry, Extent, Kind};
use crate::{BlobId, ChunkId, Error};

/// The chunk index of a store that nobody has open. Not a part of the interface: it may change at any time.
#[doc(hidden)]
#[derive(Debug)]
pub struct IndexProbe(Index);

impl IndexProbe {
    /// Opens the index file at `path`, or makes it.
    ///
    /// # Errors
    ///
    /// As [`Store::open`](crate::Store::open).
    pub async fn open(path: &Path) -> Result<IndexProbe, Error> {
        Index::open(Arc::new(RealDisk), path).await.map(IndexProbe)
    }

    /// How many of these chunks are there, asked as an upload asks for a batch.
    ///
    /// # Errors
    ///
    /// [`Error::Index`].
    pub async fn lookup(&self, ids: &[ChunkId]) -> Result<usize, Error> {
        Ok(self.0.lookup(ids).await?.len())
    }

    /// Makes a pack with these chunks known, as an upload does when it has sealed one.
    ///
    /// # Errors
    ///
    /// [`Error::Index`], [`Error::StorageFull`].
    pub async fn insert(&self, ids: &[ChunkId]) -> Result<(), Error> {
        const CHUNK: u32 = 64 * 1024;
        let entries: Vec<Entry> = (0_u64..)
            .zip(ids)
            .map(|(n, id)| Entry {
                kind: Kind::Chunk,
                extent: Extent {
                    offset: n * u64::from(CHUNK),
                    stored: CHUNK,
                    bytes: CHUNK,
                    encoding: Encoding::Raw,
                },
                id: *id,
            })
            .collect();
        self.0
            .commit_pack(&PackCommit {
                holder: BlobId::new(),
                name: Uuid::now_v7(),
                length: entries.len() as u64 * u64::from(CHUNK),
                entries,
                parts: Vec::new(),
                upload: None,
                blob: None,
            })
            .await
    }

    /// Closes it.
    pub async fn close(self) {
        self.0.close().await;
    }
}
