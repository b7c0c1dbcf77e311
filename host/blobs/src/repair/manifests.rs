//! Chunk lists that are not whole, and blobs that no pack records.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::Repair;
use super::adopt::{Source, adopt, adoption, open};
use crate::check::Job;
use crate::index::Index;
use crate::manifest::{BlobRecord, EncodedPart, Part, chain};
use crate::pack::{Decoder, Encoding, Kind, PackWriter, pack_file_name};
use crate::{BlobId, Digest, Error};

/// A pack of records is closed at this many bytes.
const PACK_BYTES: u64 = 16 * 1024 * 1024;

/// What the packs have of the manifests of these blobs: every part, those of later packs behind those of earlier ones.
pub(super) fn gather(
    job: &Job,
    blobs: &[BlobId],
) -> Result<HashMap<BlobId, Vec<(Part, EncodedPart)>>, Error> {
    let mut found: HashMap<BlobId, Vec<(Part, EncodedPart)>> =
        blobs.iter().map(|blob| (*blob, Vec::new())).collect();
    if found.is_empty() {
        return Ok(found);
    }
    let mut decoder = Decoder::default();
    // In the order of their names, which is that in which they were begun.
    for path in job.list()?.packs.values() {
        let Ok(pack) = open(job, path) else {
            continue;
        };
        for entry in &pack.entries {
            if entry.kind != Kind::Manifest {
                continue;
            }
            let Ok(data) = pack.read_with(entry, &mut decoder) else {
                continue;
            };
            let Ok(part) = Part::decode(&data, entry.id.as_bytes()) else {
                continue;
            };
            if let Some(parts) = found.get_mut(&part.blob) {
                let encoded = EncodedPart {
                    first_byte: part.first_byte,
                    data,
                    checksum: entry.id,
                };
                parts.push((part, encoded));
            }
        }
    }
    Ok(found)
}

/// Restores manifests of blobs from what the packs record of them; says which, and in how many parts.
pub(crate) fn restore(
    job: &Job,
    index: &Index,
    blobs: &[BlobId],
) -> Result<Vec<(BlobId, usize)>, Error> {
    let mut restored = Vec::new();
    for (blob, parts) in gather(job, blobs)? {
        let Some((info, _)) = job.handle.block_on(index.blob(blob))? else {
            continue;
        };
        let Some(parts) = chain(&info, parts) else {
            continue;
        };
        let encoded: Vec<EncodedPart> = parts.into_iter().map(|(_, encoded)| encoded).collect();
        job.handle
            .block_on(index.restore_manifest(blob, &encoded))?;
        restored.push((blob, encoded.len()));
    }
    Ok(restored)
}

impl Repair<'_> {
    /// Restores manifests from what the packs record of them.
    pub(super) fn restore_manifests(&mut self, blobs: &[BlobId]) -> Result<(), Error> {
        for (blob, parts) in restore(self.job, self.index, blobs)? {
            let detail = format!("{parts} parts, from the packs");
            self.mended("restored", format!("the chunk list of blob {blob}"), detail)?;
        }
        Ok(())
    }

    /// Records these blobs, which only the index knows, in a pack.
    pub(super) fn record_blobs(&mut self, blobs: &[BlobId]) -> Result<(), Error> {
        let mut writer: Option<PackWriter> = None;
        let mut recorded = 0_usize;
        for blob in blobs {
            let open = self.open_writer(&mut writer)?;
            if !describe(&self.job.handle, self.index, *blob, open)? {
                continue;
            }
            let full = open.record_bytes() >= PACK_BYTES;
            recorded += 1;
            if full && let Some(writer) = writer.take() {
                self.seal_records(writer)?;
            }
        }
        if let Some(writer) = writer
            && writer.records() > 0
        {
            self.seal_records(writer)?;
        }
        if recorded > 0 {
            let detail = "they are in a pack now, and outlive the index";
            self.mended(
                "restored",
                format!("the records of {recorded} blobs"),
                detail,
            )?;
        }
        Ok(())
    }

    fn open_writer<'w>(
        &self,
        writer: &'w mut Option<PackWriter>,
    ) -> Result<&'w mut PackWriter, Error> {
        match writer {
            Some(writer) => Ok(writer),
            none => {
                let disk = Arc::clone(&self.job.disk);
                Ok(none.insert(PackWriter::create(disk, &self.job.packs)?))
            }
        }
    }

    fn seal_records(&self, writer: PackWriter) -> Result<(), Error> {
        let mut closed = writer.close()?;
        closed.seal()?;
        let name = closed.name();
        let pack = open(self.job, &self.job.packs.join(pack_file_name(name)))?;
        let length = pack.length;
        let source = Source::Whole(pack);
        let mut adoption = adoption(self.job, name, length, &source)?;
        // The index has them.
        adoption.blobs.clear();
        adoption.parts.clear();
        adopt(self.job, self.index, &adoption, &source)
    }
}

/// Writes what the index says of a blob into a pack: its manifest, and that it is complete; `false` if it is not there.
/// Blocks.
pub(crate) fn describe(
    handle: &Handle,
    index: &Index,
    blob: BlobId,
    writer: &mut PackWriter,
) -> Result<bool, Error> {
    let Some((info, chunker)) = handle.block_on(index.blob(blob))? else {
        return Ok(false);
    };
    let mut from = 0;
    while let Some((first_byte, part)) = handle.block_on(index.part_from(blob, from))? {
        from = first_byte + 1;
        append(writer, Kind::Manifest, part.checksum, &part.data)?;
    }
    let record = BlobRecord {
        version: 1,
        info,
        chunker,
    };
    let json = serde_json::to_vec(&record)
        .map_err(|source| Error::io("describing a blob for", index.path(), source.into()))?;
    append(writer, Kind::Blob, Digest::blake3(&json), &json)?;
    Ok(true)
}

fn append(writer: &mut PackWriter, kind: Kind, id: Digest, data: &[u8]) -> Result<(), Error> {
    let bytes = u32::try_from(data.len()).expect("a record is at most a few MiB");
    writer
        .append(kind, id, bytes, Encoding::Raw, data)
        .map(drop)
}
