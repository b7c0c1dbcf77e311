//! The stage that stores: which chunks are new, and into a pack with them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Packed;
use super::cutter::{Batch, Chunk, Hashers};
use super::flow::{Flow, Recent};
use crate::index::{self, Found, PackCommit};
use crate::manifest::{BlobRecord, ChunkRef, EncodedPart, PART_CHUNKS, Part};
use crate::pack::{ClosedPack, Encoder, Encoding, Kind, PackWriter};
use crate::quota::Charge;
use crate::reader::Place;
use crate::space::LOOK_EVERY;
use crate::store::Shared;
use crate::upload::{UploadProgress, UploadRow};
use crate::{BlobId, BlobInfo, ChunkId, ChunkerParams, Digest, Error};

/// A pack is closed at this many records, so that its table stays below 1 MiB however small they are.
const PACK_RECORDS: usize = 16 * 1024;

/// A pack is closed when it lists this many bytes of manifest, so that an upload of which everything is
/// known already does not gather its whole manifest in memory: 30,000 chunks, 2 GiB.
const PACK_MANIFEST_BYTES: usize = 1024 * 1024;

/// A chunk of this upload that the index does not name yet.
#[derive(Clone, Debug)]
struct Fresh {
    place: Place,
    stored: u32,
}

type FreshChunks = HashMap<ChunkId, Fresh>;

pub(super) struct Packer {
    shared: Arc<Shared>,
    flow: Arc<Flow>,
    id: BlobId,
    namespace: String,
    charge: Arc<Charge>,
    created_at: i64,
    /// Whether it comes in pieces: what is committed of it stays.
    in_pieces: bool,
    handle: Handle,
    /// How many bytes were written since the room was looked at.
    unlooked: u64,
    /// The pack that is being filled, and what is in it.
    pack: Option<PackWriter>,
    fresh: FreshChunks,
    /// The pack before it, if it is still being sealed.
    sealing: Option<Sealing>,
    /// Packs that cannot be collected while this upload runs.
    leased: HashSet<i64>,
    /// The part of the manifest that is being gathered, and those that go with the pack.
    part: Part,
    parts: Vec<EncodedPart>,
    parts_bytes: usize,
    bytes: u64,
    stored_bytes: u64,
    chunks: u64,
}

struct Sealing {
    thread: JoinHandle<Result<(), Error>>,
    fresh: FreshChunks,
    until: u64,
}

impl Packer {
    pub(super) fn new(
        shared: Arc<Shared>,
        flow: Arc<Flow>,
        id: BlobId,
        namespace: String,
        charge: Arc<Charge>,
        row: Option<&UploadRow>,
        handle: Handle,
    ) -> Packer {
        let mut part = Part::new(id);
        if let Some(row) = row {
            (part.first_byte, part.first_chunk) = (row.bytes, row.chunks);
        }
        Packer {
            shared,
            flow,
            id,
            namespace,
            charge,
            created_at: row.map_or_else(index::now, |row| row.upload.created_at),
            in_pieces: row.is_some(),
            handle,
            unlooked: 0,
            pack: None,
            fresh: FreshChunks::new(),
            sealing: None,
            leased: HashSet::new(),
            part,
            parts: Vec::new(),
            parts_bytes: 0,
            bytes: row.map_or(0, |row| row.bytes),
            stored_bytes: row.map_or(0, |row| row.stored_bytes),
            chunks: row.map_or(0, |row| row.chunks),
        }
    }

    /// Stores the batches, then the blob. Whatever fails, the store is as if the upload had not been, but
    /// for chunks that the collector finds.
    pub(super) fn run(
        mut self,
        batches: &Receiver<Batch>,
        digests: oneshot::Receiver<Hashers>,
        rest: oneshot::Receiver<Bytes>,
    ) -> Result<Packed, Error> {
        let stored = self.store(batches, digests, rest);
        if let Err(error) = &stored {
            // First of all, so that nobody waits for the cleaning up.
            self.flow.fail(error.clone());
            self.give_up();
        }
        stored
    }

    fn store(
        &mut self,
        batches: &Receiver<Batch>,
        digests: oneshot::Receiver<Hashers>,
        rest: oneshot::Receiver<Bytes>,
    ) -> Result<Packed, Error> {
        let mut encoder = Encoder::new(self.shared.options.compression_level)
            .map_err(|source| self.io("setting up compression for", source))?;
        for batch in batches {
            self.store_batch(&batch, &mut encoder)?;
        }
        // The cutter hangs up after the last batch, and also when the upload has failed.
        if let Some(error) = self.flow.failure() {
            return Err(error);
        }
        let suspended = self.flow.is_suspending();
        let digests = digests.blocking_recv().map_err(|_| {
            let failure = self.flow.failure();
            failure.unwrap_or(Error::Defect { part: "digester" })
        })?;
        if suspended {
            let rest = rest
                .blocking_recv()
                .map_err(|_| Error::Defect { part: "cutter" })?;
            return self.suspend(digests, rest).map(Packed::Suspended);
        }
        self.flow.complete();
        self.finish(digests).map(Packed::Whole)
    }

    fn store_batch(&mut self, batch: &[Chunk], encoder: &mut Encoder) -> Result<(), Error> {
        let known = self.known(batch)?;
        let mut recent = Vec::with_capacity(batch.len());
        for chunk in batch {
            let place = self.store_chunk(chunk, &known, encoder)?;
            let bytes = length(&chunk.data);
            self.part.chunks.push(ChunkRef {
                id: chunk.id,
                bytes,
            });
            self.chunks += 1;
            self.bytes += u64::from(bytes);
            recent.push(Recent {
                id: chunk.id,
                bytes,
                place,
            });
            if self.part.chunks.len() == PART_CHUNKS {
                self.close_part()?;
            }
            if self.is_full() {
                self.flow.appended(std::mem::take(&mut recent));
                self.rotate()?;
            }
        }
        self.flow.appended(recent);
        Ok(())
    }

    /// Whether the pack, or what is to be told of it, has become so large that it is closed.
    fn is_full(&self) -> bool {
        let pack_is_full = self.pack.as_ref().is_some_and(|pack| {
            pack.record_bytes() >= self.shared.options.pack_bytes || pack.records() >= PACK_RECORDS
        });
        pack_is_full || self.parts_bytes >= PACK_MANIFEST_BYTES
    }

    /// Which of these chunks other uploads have stored, in packs that are leased to this one.
    fn known(&mut self, batch: &[Chunk]) -> Result<Found, Error> {
        let ids: Vec<ChunkId> = batch
            .iter()
            .map(|chunk| chunk.id)
            .filter(|id| self.fresh(id).is_none())
            .collect();
        let mut known = self.handle.block_on(self.shared.index.lookup(&ids))?;
        known.retain(|_, stored| stored.usable);
        let unleased: Vec<ChunkId> = known
            .iter()
            .filter(|(_, stored)| !self.leased.contains(&stored.pack))
            .map(|(id, _)| *id)
            .collect();
        if !unleased.is_empty() {
            // Between the look-up and now the collector may have taken them: what counts is what is still
            // there in the transaction that takes the lease.
            let leased = self
                .handle
                .block_on(self.shared.index.lease(self.id, &unleased))?;
            self.leased
                .extend(leased.values().map(|stored| stored.pack));
            for id in &unleased {
                known.remove(id);
            }
            known.extend(leased);
        }
        Ok(known)
    }

    fn fresh(&self, id: &ChunkId) -> Option<&Fresh> {
        self.fresh.get(id).or_else(|| {
            self.sealing
                .as_ref()
                .and_then(|sealing| sealing.fresh.get(id))
        })
    }

    fn store_chunk(
        &mut self,
        chunk: &Chunk,
        known: &Found,
        encoder: &mut Encoder,
    ) -> Result<Place, Error> {
        if let Some(fresh) = self.fresh(&chunk.id).cloned() {
            self.stored_bytes += u64::from(fresh.stored);
            return Ok(fresh.place);
        }
        if let Some(stored) = known.get(&chunk.id)
            && stored.extent.bytes == length(&chunk.data)
        {
            self.stored_bytes += u64::from(stored.extent.stored);
            return Ok(Place::Packed(*stored));
        }
        let (encoding, stored) = encoder
            .encode(&chunk.data)
            .map_err(|source| self.io("compressing for", source))?;
        let pack = self.open_pack()?;
        let extent = pack.append(Kind::Chunk, chunk.id, length(&chunk.data), encoding, stored)?;
        let place = Place::Open {
            file: pack.file(),
            extent,
        };
        self.stored_bytes += u64::from(extent.stored);
        self.unlooked += u64::from(extent.stored);
        if self.unlooked >= LOOK_EVERY {
            self.unlooked = 0;
            self.shared.check_room()?;
        }
        let fresh = Fresh {
            place: place.clone(),
            stored: extent.stored,
        };
        self.fresh.insert(chunk.id, fresh);
        Ok(place)
    }

    fn open_pack(&mut self) -> Result<&mut PackWriter, Error> {
        match &mut self.pack {
            Some(pack) => Ok(pack),
            none => {
                let disk = Arc::clone(&self.shared.disk);
                Ok(none.insert(PackWriter::create(disk, self.shared.packs_directory())?))
            }
        }
    }

    /// Writes the gathered part of the manifest into the pack.
    fn close_part(&mut self) -> Result<(), Error> {
        if self.part.chunks.is_empty() {
            return Ok(());
        }
        let following = self.part.following();
        let part = std::mem::replace(&mut self.part, following).encode();
        self.open_pack()?.append(
            Kind::Manifest,
            part.checksum,
            length(&part.data),
            Encoding::Raw,
            &part.data,
        )?;
        self.parts_bytes += part.data.len();
        self.parts.push(part);
        Ok(())
    }

    /// Closes the pack and seals it behind our back, once the one before it is sealed.
    fn rotate(&mut self) -> Result<(), Error> {
        self.close_part()?;
        self.sealed()?;
        let Some(pack) = self.pack.take() else {
            return Ok(());
        };
        let closed = pack.close()?;
        let known = self.known_with(None);
        let shared = Arc::clone(&self.shared);
        let handle = self.handle.clone();
        let thread = thread::Builder::new()
            .name("blob-sealer".to_owned())
            .spawn(move || seal(&shared, &handle, closed, known))
            .map_err(|source| self.io("starting a thread for", source))?;
        self.sealing = Some(Sealing {
            thread,
            fresh: std::mem::take(&mut self.fresh),
            until: self.bytes,
        });
        Ok(())
    }

    /// Waits until no pack is being sealed.
    fn sealed(&mut self) -> Result<(), Error> {
        if let Some(sealing) = self.sealing.take() {
            sealing
                .thread
                .join()
                .unwrap_or(Err(Error::Defect { part: "sealer" }))?;
            if self.in_pieces {
                self.charge.settle(sealing.until);
            }
            self.flow.committed(sealing.until);
        }
        Ok(())
    }

    /// What becomes known with the pack that was just closed.
    fn known_with(&mut self, tail: Option<Bytes>) -> Known {
        self.parts_bytes = 0;
        Known {
            holder: self.id,
            parts: std::mem::take(&mut self.parts),
            upload: self.in_pieces.then(|| UploadProgress {
                bytes: self.bytes,
                stored_bytes: self.stored_bytes,
                chunks: self.chunks,
                tail,
                expires_at: self.shared.upload_expiry(index::now()),
            }),
            blob: None,
        }
    }

    /// Seals the pack that was begun, and records the bytes behind its last chunk.
    fn suspend(&mut self, digests: Hashers, rest: Bytes) -> Result<u64, Error> {
        if !self.in_pieces {
            return Err(Error::Interrupted {
                reason: "it was suspended, and does not come in pieces".to_owned(),
            });
        }
        self.close_part()?;
        self.sealed()?;
        let length = self.bytes + rest.len() as u64;
        let closed = self.pack.take().map(PackWriter::close).transpose()?;
        let known = self.known_with(Some(rest));
        match (closed, &known.upload) {
            (Some(closed), _) => seal(&self.shared, &self.handle, closed, known)?,
            (None, Some(upload)) => self
                .handle
                .block_on(self.shared.index.suspend_upload(self.id, upload))?,
            (None, None) => {}
        }
        self.charge.keep();
        self.flow.committed(self.bytes);
        self.shared.appends.park(self.id, digests);
        Ok(length)
    }

    /// Seals the last pack, which says that the blob is complete.
    fn finish(&mut self, digests: Hashers) -> Result<BlobInfo, Error> {
        self.close_part()?;
        let (blake3, sha256) = digests.finish();
        let info = BlobInfo {
            id: self.id,
            namespace: self.namespace.clone(),
            bytes: self.bytes,
            stored_bytes: self.stored_bytes,
            chunks: self.chunks,
            blake3,
            sha256,
            created_at: self.created_at,
        };
        let record = BlobRecord {
            version: 1,
            info: info.clone(),
            chunker: ChunkerParams::default(),
        };
        let json = serde_json::to_vec(&record)
            .map_err(|source| self.io("describing a blob for", source.into()))?;
        self.open_pack()?.append(
            Kind::Blob,
            Digest::blake3(&json),
            length(&json),
            Encoding::Raw,
            &json,
        )?;
        self.sealed()?;
        let Some(pack) = self.pack.take() else {
            return Err(Error::Defect { part: "packer" });
        };
        let closed = pack.close()?;
        // A writer that has gone away meanwhile never hears of the blob, so there must be none.
        if let Some(error) = self.flow.failure() {
            return Err(error);
        }
        let mut known = self.known_with(Some(Bytes::new()));
        known.blob = Some(record);
        seal(&self.shared, &self.handle, closed, known)?;
        self.charge.keep();
        self.flow.committed(self.bytes);
        Ok(info)
    }

    /// Leaves nothing but sealed packs behind.
    fn give_up(&mut self) {
        self.pack = None;
        // Its own failure adds nothing: the upload has failed already.
        let _ = self.sealed();
        if self.in_pieces {
            // Somebody may go on with what is sealed, so it stays charged. Nobody goes on before this has ended.
            match self.handle.block_on(self.shared.index.upload_row(self.id)) {
                // A commit that was made and is said to have failed counts as well.
                Ok(Some(row)) => self.charge.settle(row.upload.offset),
                // It was forgotten, with all that was settled.
                Ok(None) => {}
                // Not known: rather too much than a way around the quota.
                Err(_) => self.charge.settle(self.flow.received()),
            }
            self.charge.give_back();
            return;
        }
        if let Err(error) = self
            .handle
            .block_on(self.shared.index.forget_upload(self.id))
        {
            // The next start forgets it.
            tracing::warn!(blob = %self.id, %error, "an upload that failed could not be forgotten");
        }
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> Error {
        let directory: &Path = self.shared.packs_directory();
        Error::io(action, directory, source)
    }
}

/// What the index learns with a pack.
struct Known {
    holder: BlobId,
    parts: Vec<EncodedPart>,
    upload: Option<UploadProgress>,
    blob: Option<BlobRecord>,
}

/// Makes a pack durable, then known.
fn seal(shared: &Shared, handle: &Handle, mut pack: ClosedPack, known: Known) -> Result<(), Error> {
    // Until the index knows it, it looks to the collector like a pack that nobody knows.
    let _naming = handle.block_on(shared.naming.read());
    pack.seal()?;
    let commit = PackCommit {
        holder: known.holder,
        name: pack.name(),
        length: pack.length(),
        entries: std::mem::take(&mut pack.entries),
        parts: known.parts,
        upload: known.upload,
        blob: known.blob,
    };
    handle.block_on(shared.index.commit_pack(&commit))
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a record is at most a few MiB")
}
