//! Chunks, from the packs that hold them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use crate::disk::Disk;
use crate::index::Stored;
use crate::pack::{self, Decoder, Extent, RecordError};
use crate::{ChunkId, Error};

/// How many packs are kept open: one for each of many readers, and few beside a process's limit of 1024.
const OPEN_PACKS: usize = 32;

/// What a read of a bad sector fails with.
const EIO: i32 = 5;

/// A chunk to read, without its first `skip` bytes.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) id: ChunkId,
    pub(crate) bytes: u32,
    pub(crate) skip: u32,
    pub(crate) place: Place,
}

/// Where a chunk is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In a pack that its upload still holds open.
    Open { file: Arc<File>, extent: Extent },
    /// In a pack that the index names.
    Packed(Stored),
}

/// Why a chunk cannot be had.
#[derive(Debug)]
pub(crate) enum PieceError {
    /// It could not be read.
    Failed(Error),
    /// The pack that the index said has it is not there.
    Gone { name: Uuid, error: Error },
    /// It is not what was written, or the disk cannot give it any more: it is to be quarantined.
    Wrong { suspect: Suspect, error: Error },
}

/// What is wrong, as far as the index names it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Suspect {
    /// The index names nothing of it.
    Unnamed,
    /// One chunk of a pack.
    Chunk { id: ChunkId, pack: i64 },
    /// A pack, with all that is in it.
    Pack { pack: i64 },
}

/// The packs on disk, the last used of them open.
#[derive(Debug)]
pub(crate) struct PackFiles {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// The last used at the back.
    open: Mutex<VecDeque<(Uuid, Arc<File>)>>,
}

impl PackFiles {
    pub(crate) fn new(disk: Arc<dyn Disk>, directory: PathBuf) -> PackFiles {
        PackFiles {
            disk,
            directory,
            open: Mutex::new(VecDeque::new()),
        }
    }

    /// Reads and verifies these. Blocks.
    pub(crate) fn read(&self, pieces: &[Piece]) -> Result<VecDeque<Bytes>, PieceError> {
        let mut decoder = Decoder::default();
        pieces
            .iter()
            .map(|piece| self.read_one(piece, &mut decoder))
            .collect()
    }

    fn read_one(&self, piece: &Piece, decoder: &mut Decoder) -> Result<Bytes, PieceError> {
        let (name, pack, file, extent) = match &piece.place {
            Place::Open { file, extent } => (None, None, Ok(Arc::clone(file)), *extent),
            Place::Packed(stored) => (
                Some(stored.name),
                Some(stored.pack),
                self.file(stored.name),
                stored.extent,
            ),
        };
        let place = || {
            name.map_or_else(
                || "the pack that is being written".to_owned(),
                pack::pack_file_name,
            )
        };
        let failed = |source| {
            let path = self.directory.join(place());
            PieceError::Failed(Error::io("reading the pack", &path, source))
        };
        let wrong = |detail: &str| Error::Corrupt {
            what: format!("chunk {}", piece.id),
            place: place(),
            detail: detail.to_owned(),
        };
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                return Err(match (error.kind(), name) {
                    (io::ErrorKind::NotFound, Some(name)) => {
                        let error = wrong("the pack is missing");
                        PieceError::Gone { name, error }
                    }
                    _ => failed(error),
                });
            }
        };
        let chunk = pack.map_or(Suspect::Unnamed, |pack| Suspect::Chunk {
            id: piece.id,
            pack,
        });
        match pack::read_record(self.disk.as_ref(), &file, extent, piece.id, decoder) {
            Ok(bytes) => Ok(Bytes::from(bytes).slice(piece.skip as usize..)),
            Err(RecordError::Wrong(detail)) => Err(PieceError::Wrong {
                suspect: chunk,
                error: wrong(detail),
            }),
            // A sector that has gone bad stays so; the next upload of the chunk goes to another one.
            Err(RecordError::Io(source)) if source.raw_os_error() == Some(EIO) => {
                let path = self.directory.join(place());
                Err(PieceError::Wrong {
                    suspect: chunk,
                    error: Error::io("reading the pack", &path, source),
                })
            }
            Err(RecordError::Io(error)) => Err(failed(error)),
        }
    }

    /// Lets go of a pack that was removed, so that its space comes free. Who reads it has it open himself.
    pub(crate) fn forget(&self, name: Uuid) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(known, _)| *known != name);
    }

    fn file(&self, name: Uuid) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(known, _)| *known == name)
            && let Some(entry) = open.remove(at)
        {
            let file = Arc::clone(&entry.1);
            open.push_back(entry);
            return Ok(file);
        }
        drop(open);
        let path = self.directory.join(pack::pack_file_name(name));
        let file = Arc::new(self.disk.open(&path)?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_PACKS {
            open.pop_front();
        }
        open.push_back((name, Arc::clone(&file)));
        Ok(file)
    }
}
