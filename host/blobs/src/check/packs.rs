//! The first way: over the packs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::{Checker, Fault, PackFile, Stage};
use crate::index::{KnownPack, PackState};
use crate::manifest::BlobRecord;
use crate::pack::{Decoder, Entry, Extent, Kind, Pack, RecordError, Salvage};
use crate::{ChunkId, Error};

impl Checker<'_> {
    pub(super) fn look_at_packs(&mut self, packs: &BTreeMap<Uuid, PathBuf>) -> Result<(), Error> {
        let rows: HashMap<Uuid, KnownPack> = self.rows.iter().map(|row| (row.name, *row)).collect();
        let mut lengths = Vec::with_capacity(packs.len());
        for (name, path) in packs {
            let length = path.metadata().map_or(0, |metadata| metadata.len());
            lengths.push((*name, path, length));
        }
        let total = lengths.iter().map(|(.., length)| length).sum();
        self.report.packs = packs.len() as u64;
        self.report.bytes = total;
        let mut done = 0;
        for (name, path, length) in lengths {
            self.job.progress(Stage::Packs, done, total)?;
            self.look_at_pack(name, path, rows.get(&name), (done, total))?;
            done += length;
        }
        self.job.progress(Stage::Packs, total, total)
    }

    fn look_at_pack(
        &mut self,
        name: Uuid,
        path: &Path,
        row: Option<&KnownPack>,
        progress: (u64, u64),
    ) -> Result<(), Error> {
        let pack = match Pack::open_on(Arc::clone(&self.job.disk), path) {
            Ok(pack) if pack.name == name => pack,
            Ok(pack) => {
                let detail = format!("its header says that it is {}", pack.name);
                return self.damaged((name, path), row, detail);
            }
            Err(Error::Corrupt { detail, .. }) => return self.damaged((name, path), row, detail),
            Err(error @ Error::Io { .. }) => {
                return self.damaged((name, path), row, error.to_string());
            }
            Err(error) => return Err(error),
        };
        self.files.insert(name, PackFile::Sound);
        self.report.records += pack.entries.len() as u64;
        if self.index.is_some() {
            match row {
                Some(row) => self.compare(&pack, row)?,
                None => {
                    self.fault(Fault::OrphanPack {
                        pack: name,
                        bytes: pack.length,
                        records: pack.entries.len() as u64,
                    })?;
                    self.findings.orphans.push(name);
                }
            }
        }
        self.look_at_records(&pack, path, progress)
    }

    /// A pack without a table. What the index places in it can still be read, if it is good: that is all read here,
    /// for there is no other way to know.
    fn damaged(
        &mut self,
        (name, path): (Uuid, &Path),
        row: Option<&KnownPack>,
        detail: String,
    ) -> Result<(), Error> {
        self.files.insert(name, PackFile::Damaged);
        self.findings.damaged.push((path.to_path_buf(), name));
        let pack = crate::pack::file_name(path);
        self.fault(Fault::DamagedPack { pack, detail })?;
        let salvage = Salvage::open(Arc::clone(&self.job.disk), path);
        let mut decoder = Decoder::default();
        let mut after = None;
        while let (Some(index), Some(row)) = (&self.index, row) {
            let page = self.job.handle.block_on(index.chunks_of(row.id, after))?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (id, extent) in page {
                let entry = Entry {
                    kind: Kind::Chunk,
                    extent,
                    id,
                };
                let good = salvage
                    .as_ref()
                    .is_ok_and(|salvage| salvage.is_good(&entry, &mut decoder));
                if !good {
                    self.corrupt.insert(id);
                }
            }
        }
        Ok(())
    }

    /// What the index says of a pack, against its table.
    fn compare(&mut self, pack: &Pack, row: &KnownPack) -> Result<(), Error> {
        let right = KnownPack {
            bytes: pack.length,
            entries: pack.entries.len() as u64,
            ..*row
        };
        if row.state == PackState::Lost {
            self.fault(Fault::ReturnedPack { pack: row.name })?;
            self.findings.returned.push(*row);
        }
        if (row.bytes, row.entries) != (right.bytes, right.entries) {
            let detail = format!(
                "{} bytes and {} records, and it has {} and {}",
                row.bytes, row.entries, right.bytes, right.entries
            );
            self.fault(Fault::WrongPackRow {
                pack: row.name,
                detail,
            })?;
            self.findings.pack_rows.push(right);
        }
        let mut places: HashMap<ChunkId, Vec<Extent>> = HashMap::new();
        for entry in &pack.entries {
            if entry.kind == Kind::Chunk {
                places.entry(entry.id).or_default().push(entry.extent);
            }
        }
        let ids: Vec<ChunkId> = places.keys().copied().collect();
        let Some(index) = &self.index else {
            return Ok(());
        };
        let found = self.job.handle.block_on(index.lookup(&ids))?;
        let mut confirmed = 0;
        for (id, stored) in found {
            if stored.pack != row.id {
                continue;
            }
            // Wrong ones are not confirmed less: they are told of here and not once more.
            confirmed += 1;
            if !places[&id].contains(&stored.extent) {
                let detail = format!(
                    "it places it at byte {} of {}, where something else is",
                    stored.extent.offset, row.name
                );
                self.fault(Fault::WrongChunkRow { chunk: id, detail })?;
                self.corrupt.insert(id);
                self.lost(id)?;
            }
        }
        self.confirmed.insert(row.id, confirmed);
        Ok(())
    }

    /// What a pack records of blobs, and with `read_data` every record.
    fn look_at_records(
        &mut self,
        pack: &Pack,
        path: &Path,
        (done, total): (u64, u64),
    ) -> Result<(), Error> {
        let mut decoder = Decoder::default();
        let mut wrong: HashSet<ChunkId> = HashSet::new();
        let mut good: HashSet<ChunkId> = HashSet::new();
        let mut corrupt = false;
        for entry in &pack.entries {
            let described = matches!(entry.kind, Kind::Blob);
            if !self.options.read_data && !described {
                if entry.kind == Kind::Manifest {
                    self.recorded_parts.insert(entry.id);
                }
                continue;
            }
            self.job
                .progress(Stage::Packs, done + entry.extent.offset, total)?;
            let failure = match pack.read_with(entry, &mut decoder) {
                Ok(bytes) => {
                    self.report.verified_bytes += u64::from(entry.extent.stored);
                    self.record(entry, &bytes)
                }
                Err(RecordError::Wrong(detail)) => Some(detail.to_owned()),
                Err(RecordError::Io(error)) => Some(error.to_string()),
            };
            match failure {
                None if entry.kind == Kind::Chunk => {
                    good.insert(entry.id);
                }
                None => {}
                Some(detail) => {
                    corrupt = true;
                    if entry.kind == Kind::Chunk {
                        wrong.insert(entry.id);
                    }
                    self.fault(Fault::CorruptRecord {
                        pack: pack.name,
                        record: entry.id,
                        what: what(entry.kind),
                        detail,
                    })?;
                }
            }
        }
        if corrupt {
            // What is good in it is saved into another pack, as of one whose table is damaged.
            self.findings.damaged.push((path.to_path_buf(), pack.name));
        }
        let wrong: Vec<ChunkId> = wrong.difference(&good).copied().collect();
        self.note_corrupt(pack, &wrong)
    }

    /// Keeps what a record says of blobs; `Some` if it makes no sense.
    fn record(&mut self, entry: &Entry, bytes: &[u8]) -> Option<String> {
        match entry.kind {
            Kind::Manifest => {
                self.recorded_parts.insert(entry.id);
                None
            }
            Kind::Blob => match serde_json::from_slice::<BlobRecord>(bytes) {
                Ok(record) => {
                    self.recorded_blobs.insert(record.info.id);
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Kind::Chunk | Kind::Other(_) => None,
        }
    }

    /// Remembers corrupt chunks that the index places in this pack: the blobs that have them are incomplete.
    fn note_corrupt(&mut self, pack: &Pack, wrong: &[ChunkId]) -> Result<(), Error> {
        let Some(index) = &self.index else {
            return Ok(());
        };
        let found = self.job.handle.block_on(index.lookup(wrong))?;
        for (id, stored) in found {
            if stored.name == pack.name {
                self.corrupt.insert(id);
            }
        }
        Ok(())
    }
}

fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Chunk => "chunk",
        Kind::Manifest => "manifest",
        Kind::Blob => "blob",
        Kind::Other(_) => "record",
    }
}
