//! Packs that the index does not name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::manifests::gather;
use super::{Repair, notes};
use crate::check::Job;
use crate::index::{Adoption, Index};
use crate::manifest::{BlobRecord, EncodedPart, Part, chain};
use crate::pack::{Decoder, Entry, Kind, Pack, RecordError, Salvage, Survey, pack_file_name};
use crate::{BlobId, Error};

/// What of a pack can be believed, whether it is whole or damaged.
pub(crate) enum Source<'a> {
    Whole(Pack),
    Damaged(&'a Salvage, &'a Survey),
}

impl Source<'_> {
    pub(crate) fn entries(&self) -> &[Entry] {
        match self {
            Source::Whole(pack) => &pack.entries,
            Source::Damaged(_, survey) => &survey.entries,
        }
    }

    fn read(&self, entry: &Entry, decoder: &mut Decoder) -> Result<Vec<u8>, RecordError> {
        match self {
            Source::Whole(pack) => pack.read_with(entry, decoder),
            Source::Damaged(salvage, _) => salvage.read(entry, decoder),
        }
    }

    /// Whether a chunk is what it is called.
    pub(crate) fn is_good(&self, entry: &Entry, decoder: &mut Decoder) -> bool {
        self.read(entry, decoder).is_ok()
    }
}

/// What an index has to know of a pack. Records of manifests and blobs that cannot be read are left out, and named; chunks
/// were verified only if the pack is damaged.
pub(crate) fn adoption(
    job: &Job,
    name: Uuid,
    length: u64,
    source: &Source<'_>,
) -> Result<Adoption, Error> {
    let mut decoder = Decoder::default();
    let mut adoption = Adoption {
        name,
        length,
        entries: Vec::new(),
        parts: Vec::new(),
        blobs: Vec::new(),
        unread: Vec::new(),
    };
    for entry in source.entries() {
        let bytes = match entry.kind {
            Kind::Chunk | Kind::Other(_) => Ok(Vec::new()),
            Kind::Manifest | Kind::Blob => source.read(entry, &mut decoder),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(failure) => {
                let path = job.packs.join(pack_file_name(name));
                tracing::warn!(path = %path.display(), record = %entry.id, ?failure, "a record cannot be read");
                adoption.unread.push(entry.id);
                continue;
            }
        };
        match described(entry, bytes) {
            Some(Described::Part(part, encoded)) => adoption.parts.push((part.blob, encoded)),
            Some(Described::Blob(record)) => adoption.blobs.push(record),
            None => {}
        }
        adoption.entries.push(*entry);
    }
    Ok(adoption)
}

/// What a record says of a blob.
pub(crate) enum Described {
    Part(Part, EncodedPart),
    Blob(BlobRecord),
}

/// What a record says of a blob, if that makes sense.
pub(crate) fn described(entry: &Entry, data: Vec<u8>) -> Option<Described> {
    match entry.kind {
        Kind::Manifest => {
            let part = Part::decode(&data, entry.id.as_bytes()).ok()?;
            let encoded = EncodedPart {
                first_byte: part.first_byte,
                data,
                checksum: entry.id,
            };
            Some(Described::Part(part, encoded))
        }
        Kind::Blob => serde_json::from_slice(&data).ok().map(Described::Blob),
        Kind::Chunk | Kind::Other(_) => None,
    }
}

/// Makes a pack known to an index. Where the index has a chunk of it in another pack already, the better copy stays:
/// the other one, unless it is corrupt.
pub(crate) fn adopt(
    job: &Job,
    index: &Index,
    adoption: &Adoption,
    source: &Source<'_>,
) -> Result<(), Error> {
    let adopted = job.handle.block_on(index.adopt(adoption))?;
    let mut decoder = Decoder::default();
    let mut better = Vec::new();
    let mut other: Option<(Uuid, Pack)> = None;
    let mut elsewhere = adopted.elsewhere;
    elsewhere.sort_by_key(|(_, stored)| stored.name);
    for (entry, stored) in elsewhere {
        if other.as_ref().is_none_or(|(name, _)| *name != stored.name) {
            let path = job.packs.join(pack_file_name(stored.name));
            other = Pack::open_on(Arc::clone(&job.disk), &path)
                .ok()
                .map(|pack| (stored.name, pack));
        }
        let known = Entry {
            extent: stored.extent,
            ..entry
        };
        let sound = other
            .as_ref()
            .is_some_and(|(_, pack)| pack.read_with(&known, &mut decoder).is_ok());
        if !sound && source.is_good(&entry, &mut decoder) {
            better.push(entry);
        }
    }
    if better.is_empty() {
        return Ok(());
    }
    job.handle.block_on(index.relocate(adopted.pack, &better))
}

/// Opens a pack that is whole.
pub(crate) fn open(job: &Job, path: &Path) -> Result<Pack, Error> {
    Pack::open_on(Arc::clone(&job.disk), path)
}

impl Repair<'_> {
    /// Makes packs known that the index does not name. A blob that one of them says is complete becomes known too: it
    /// may never have been acknowledged, or may have been removed, and whoever keeps a record of blobs removes it then.
    pub(super) fn adopt_orphans(&mut self, orphans: &[Uuid]) -> Result<(), Error> {
        for name in orphans {
            let pack = open(self.job, &self.job.packs.join(pack_file_name(*name)))?;
            let records = self.adopt_pack(pack)?;
            self.mended("adopted", name.to_string(), format!("{records} records"))?;
        }
        Ok(())
    }

    /// Makes a whole pack known; what it says of blobs waits for [`Repair::restore_blobs`]. Says how many records it
    /// has.
    pub(super) fn adopt_pack(&mut self, pack: Pack) -> Result<usize, Error> {
        let (name, length) = (pack.name, pack.length);
        let source = Source::Whole(pack);
        let mut adoption = adoption(self.job, name, length, &source)?;
        self.records.append(&mut adoption.blobs);
        if !adoption.unread.is_empty() {
            let lost = adoption.unread.len();
            let detail = format!("{lost} of its records that describe packages cannot be read");
            notes::leave(self.job, name, &detail)?;
        }
        // Not before it is known that the blob is complete: an upload that goes on has parts of its own.
        adoption.parts.clear();
        adopt(self.job, self.index, &adoption, &source)?;
        Ok(adoption.entries.len())
    }

    /// Makes blobs known that packs say are complete. Of one that is not any more, because a chunk of it or a part of its
    /// manifest is lost, a check tells; nothing else would.
    pub(super) fn restore_blobs(&mut self) -> Result<(), Error> {
        let mut unknown: HashMap<BlobId, BlobRecord> = HashMap::new();
        for record in std::mem::take(&mut self.records) {
            let id = record.info.id;
            // One that is an upload still becomes a blob when whoever sends it goes on: where, the index has told it.
            let is_known = self.wait(self.index.blob(id))?.is_some()
                || self.wait(self.index.has_upload(id))?;
            if !is_known {
                // The later one counts, as it does for the parts.
                unknown.insert(id, record);
            }
        }
        let ids: Vec<BlobId> = unknown.keys().copied().collect();
        for (id, parts) in gather(self.job, &ids)? {
            if let Some(record) = unknown.remove(&id) {
                self.restore_blob(&record, parts)?;
            }
        }
        Ok(())
    }

    fn restore_blob(
        &mut self,
        record: &BlobRecord,
        parts: Vec<(Part, EncodedPart)>,
    ) -> Result<(), Error> {
        let info = &record.info;
        let mut detail = format!("{} bytes of {}", info.bytes, info.namespace);
        let found: Vec<(BlobId, EncodedPart)> = parts
            .iter()
            .map(|(_, encoded)| (info.id, encoded.clone()))
            .collect();
        if let Some(parts) = chain(info, parts) {
            if !self.are_usable(&parts)? {
                detail.push_str(", of which some are lost");
            }
            let encoded: Vec<EncodedPart> = parts.into_iter().map(|(_, encoded)| encoded).collect();
            self.wait(self.index.restore_blob(record, &encoded))?;
        } else {
            detail.push_str(", of whose chunk list a part is lost");
            let blobs = std::slice::from_ref(record);
            self.wait(self.index.adopt_guesses(&found, blobs))?;
        }
        self.mended("restored", format!("blob {}", info.id), detail)
    }

    /// Whether every chunk that these name can be read, as far as the index knows.
    fn are_usable(&self, parts: &[(Part, EncodedPart)]) -> Result<bool, Error> {
        for (part, _) in parts {
            let ids: Vec<_> = part.chunks.iter().map(|chunk| chunk.id).collect();
            let found = self.wait(self.index.lookup(&ids))?;
            let usable = |id| found.get(id).is_some_and(|stored| stored.usable);
            if !ids.iter().all(usable) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
