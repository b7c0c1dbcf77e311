//! Byte streams of any size, kept as verified chunks.
//!
//! A [`Store`] is a directory. Bytes that are written to an [`Ingest`] are cut into content-defined chunks,
//! named by BLAKE3, compressed where it helps, and appended to packs; a chunk that is there already is not
//! written again. When [`Ingest::finish`] returns, the blob is durable: it survives a kill and the loss of
//! power. A [`Reader`] verifies every chunk and sees all of a blob or an error, and it may follow a blob
//! that is still being written.
//!
//! What happens to a byte, in this order and in no other: it is in the memory of the upload; its chunk is in
//! a pack under a temporary name; the pack is synced, named, and its directory synced; one index commit names
//! the pack's chunks, and with the last pack the blob. So what the index names is durable, whenever the
//! power goes; what it does not name is at worst a pack that nobody leans on.
//!
//! # Layout
//!
//! - [`Store`], [`StoreOptions`]: open, list, remove; `quota` and `space`: how much may be stored;
//! - [`Ingest`]: the pipeline, and the window through which an upload is followed;
//! - [`Reader`]: verified reads, of complete blobs and of running uploads;
//! - [`CollectOptions`], [`CollectReport`]: what [`Store::collect`] gives back of what was removed;
//! - [`Store::missing`], [`Assembly`]: what a namespace holds already, and a blob that is put together from that
//!   and from what is sent;
//! - [`Upload`]: a blob that arrives in several requests;
//! - [`pack`]: the file format, which needs no index to be read;
//! - [`Manifest`]: a blob's chunk list;
//! - [`Store::check`] and [`Store::reindex`]: what is wrong with a store that nobody uses, mending it, and making its
//!   index anew;
//! - [`Chunker`]: where chunks end; `index`: the `SQLite` file; `disk`: every change to the file system.
//!
//! # Example
//!
//! ```
//! use bytes::Bytes;
//! use cofferdam_blobs::{Store, StoreOptions};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let store = Store::open(directory.path(), StoreOptions::default()).await?;
//!
//! let mut ingest = store.ingest("blog").await?;
//! let mut follower = ingest.follow();
//! ingest.write(Bytes::from_static(b"hello ")).await?;
//! assert_eq!(follower.next().await?.as_deref(), Some(&b"hello "[..]));
//! ingest.write(Bytes::from_static(b"there")).await?;
//! let blob = ingest.finish().await?;
//!
//! let mut reader = store.reader(blob.id).await?;
//! let mut bytes = Vec::new();
//! while let Some(chunk) = reader.next().await? {
//!     bytes.extend_from_slice(&chunk);
//! }
//! assert_eq!(bytes, b"hello there");
//! # Ok(())
//! # }
//! ```

mod assembly;
mod blob;
mod check;
mod chunker;
mod collect;
mod digest;
mod disk;
mod error;
mod index;
mod ingest;
mod list;
mod manifest;
pub mod pack;
mod quota;
mod reader;
mod reindex;
mod repair;
mod space;
mod store;
#[cfg(test)]
mod testing;
mod totals;
mod upload;

pub use assembly::{Assembly, MAX_LISTED_CHUNKS, Named, Supply};
pub use blob::{BlobId, BlobInfo, MAX_NAMESPACE_BYTES};
pub use check::{CheckEvent, CheckOptions, CheckReport, Fault, Mended, Progress, Stage};
pub use chunker::{AVERAGE_CHUNK_BYTES, Chunker, ChunkerParams, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES};
pub use collect::{CollectOptions, CollectReport};
pub use digest::{ChunkId, Digest, ParseDigestError};
pub use error::{Error, Mismatch};
#[doc(hidden)]
pub use index::IndexProbe;
pub use ingest::{Ingest, Input};
pub use list::ChunkList;
pub use manifest::{ChunkRef, Manifest};
pub use reader::Reader;
pub use reindex::ReindexReport;
pub use store::{Damage, Store, StoreOptions};
pub use totals::{IndexCopy, Totals, copy_index, quick_check};
pub use upload::{MAX_LABEL_BYTES, Upload};
