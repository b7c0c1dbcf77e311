//! What can be wrong with a store.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::pack::pack_file_name;
use crate::{BlobId, ChunkId, Digest};

/// One thing that is wrong. Serialised, `fault` says which, in these words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// A file that was being written when its process ended. Nothing refers to it.
    TornFile {
        /// Its path, from the store's directory.
        file: String,
    },
    /// A whole pack that the index does not name: an upload died between the two, or the index is older.
    OrphanPack {
        /// The pack.
        pack: Uuid,
        /// How long it is.
        bytes: u64,
        /// How many records it has.
        records: u64,
    },
    /// A pack whose header, table or trailer is not what was written. Its records may still be good.
    DamagedPack {
        /// The pack's file name.
        pack: String,
        /// How it is wrong.
        detail: String,
    },
    /// The index names a pack, and there is no such file.
    MissingPack {
        /// The pack.
        pack: Uuid,
        /// How many chunks the index says are in it.
        chunks: u64,
    },
    /// The index says that a pack is gone, and it is there.
    ReturnedPack {
        /// The pack.
        pack: Uuid,
    },
    /// The index says something else of a pack than the pack itself.
    WrongPackRow {
        /// The pack.
        pack: Uuid,
        /// What.
        detail: String,
    },
    /// A record is not what was written.
    CorruptRecord {
        /// The pack.
        pack: Uuid,
        /// The record's name: the BLAKE3 it should have.
        record: Digest,
        /// `chunk`, `manifest` or `blob`.
        what: &'static str,
        /// How it is wrong.
        detail: String,
    },
    /// Of a pack that was damaged something is lost that may have described blobs which no index knows. Said until
    /// somebody deletes the note.
    LostRecords {
        /// The note's file name.
        note: String,
        /// What is lost.
        detail: String,
    },
    /// There are packs and no index.
    IndexMissing {
        /// How many.
        packs: u64,
    },
    /// The index cannot be read.
    IndexDamaged {
        /// How.
        detail: String,
    },
    /// The index places a chunk where it is not.
    WrongChunkRow {
        /// The chunk.
        chunk: ChunkId,
        /// How.
        detail: String,
    },
    /// A chunk was found to be wrong by an earlier read, and nobody has brought it again.
    QuarantinedChunk {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The chunk list of a blob is not whole.
    WrongManifest {
        /// The blob.
        blob: BlobId,
        /// Whose it is.
        namespace: String,
        /// What is wrong.
        detail: String,
    },
    /// Chunks of a blob are missing, corrupt or quarantined: it cannot be read to its end.
    IncompleteBlob {
        /// The blob.
        blob: BlobId,
        /// Whose it is.
        namespace: String,
        /// How many of its chunks.
        chunks: u64,
        /// The first of them, in the order of the blob.
        first: Vec<ChunkId>,
    },
    /// No pack says that this blob is complete, or what it consists of: should the index be lost, it would be too.
    UnrecordedBlob {
        /// The blob.
        blob: BlobId,
        /// Whose it is.
        namespace: String,
    },
    /// Something that was acknowledged of an upload is missing, so that it cannot be gone on with.
    BrokenUpload {
        /// The upload.
        upload: BlobId,
        /// Whose it is.
        namespace: String,
        /// What is missing.
        detail: String,
    },
    /// What the index says that a project holds is not what its blobs have: chunks would be asked for that are here,
    /// or not asked for that are not.
    WrongHeldRows {
        /// Whose rows they are.
        namespace: String,
        /// How they are wrong.
        detail: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::TornFile { file } => {
                write!(f, "{file} was never finished; nothing refers to it")
            }
            Fault::OrphanPack {
                pack,
                bytes,
                records,
            } => write!(
                f,
                "{} ({records} records, {bytes} bytes) is whole and the index does not name it",
                pack_file_name(*pack)
            ),
            Fault::DamagedPack { pack, detail } => write!(f, "{pack} is damaged: {detail}"),
            Fault::MissingPack { pack, chunks } => write!(
                f,
                "{} is missing; the index says that {chunks} chunks are in it",
                pack_file_name(*pack)
            ),
            Fault::ReturnedPack { pack } => write!(
                f,
                "{} is there, and the index says that it is gone",
                pack_file_name(*pack)
            ),
            Fault::WrongPackRow { pack, detail } => {
                write!(
                    f,
                    "the index is wrong about {}: {detail}",
                    pack_file_name(*pack)
                )
            }
            Fault::LostRecords { note, detail } => write!(
                f,
                "a damaged pack may have had packages that nothing else knows of: {detail}. Deploy again what is missing, \
                 then delete packs/{note}"
            ),
            Fault::CorruptRecord {
                pack,
                record,
                what,
                detail,
            } => write!(
                f,
                "{what} {record} in {} is corrupt: {detail}",
                pack_file_name(*pack)
            ),
            Fault::IndexMissing { packs } => {
                write!(f, "the chunk index is missing, and there are {packs} packs")
            }
            Fault::IndexDamaged { detail } => write!(f, "the chunk index is damaged: {detail}"),
            Fault::WrongChunkRow { chunk, detail } => {
                write!(f, "the index is wrong about chunk {chunk}: {detail}")
            }
            Fault::QuarantinedChunk { chunk } => write!(
                f,
                "chunk {chunk} was found to be corrupt and has not been brought again since"
            ),
            Fault::WrongManifest {
                blob,
                namespace,
                detail,
            } => write!(
                f,
                "the chunk list of blob {blob} of {namespace} is not whole: {detail}"
            ),
            Fault::IncompleteBlob {
                blob,
                namespace,
                chunks,
                first,
            } => {
                write!(
                    f,
                    "blob {blob} of {namespace} cannot be read: {chunks} of its chunks are lost, first"
                )?;
                for chunk in first {
                    write!(f, " {chunk}")?;
                }
                Ok(())
            }
            Fault::UnrecordedBlob { blob, namespace } => write!(
                f,
                "no pack records blob {blob} of {namespace}: it would be lost with the index"
            ),
            Fault::BrokenUpload {
                upload,
                namespace,
                detail,
            } => write!(
                f,
                "upload {upload} of {namespace} cannot be gone on with: {detail}"
            ),
            Fault::WrongHeldRows { namespace, detail } => {
                write!(
                    f,
                    "the index is wrong about what {namespace} holds: {detail}"
                )
            }
        }
    }
}
