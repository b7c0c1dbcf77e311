//! Damaged packs.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::Repair;
use super::adopt::open;
use crate::Error;
use crate::index::KnownPack;
use crate::pack::{self, Decoder, Entry, Kind, PackWriter, Salvage, pack_file_name};

impl Repair<'_> {
    /// Saves what is good in a damaged pack into a new one and sets the damaged one aside; gives its row, if it has
    /// one, for the chunks that could not be saved.
    pub(super) fn salvage(&mut self, path: &Path, name: Uuid) -> Result<Option<KnownPack>, Error> {
        let rows = self.wait(self.index.packs())?;
        let row = rows.into_iter().find(|row| row.name == name);
        let salvage = Salvage::open(Arc::clone(&self.job.disk), path)?;
        let mut entries = salvage.candidates.clone();
        if let Some(row) = &row {
            self.known_chunks(row, &mut entries)?;
        }
        // In the order of their places, as a pack has them; what was found both ways once.
        entries.sort_by_key(|entry| (entry.extent.offset, entry.id));
        let mut seen = HashSet::new();
        let mut decoder = Decoder::default();
        let mut writer: Option<PackWriter> = None;
        let mut saved = 0_u64;
        for entry in &entries {
            if seen.contains(&entry.id) {
                continue;
            }
            let Ok(stored) = salvage.read_as_stored(entry, &mut decoder) else {
                continue;
            };
            seen.insert(entry.id);
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(PackWriter::create(
                    Arc::clone(&self.job.disk),
                    &self.job.packs,
                )?),
            };
            let extent = entry.extent;
            writer.append(entry.kind, entry.id, extent.bytes, extent.encoding, &stored)?;
            saved += 1;
        }
        let lost = entries
            .iter()
            .map(|entry| entry.id)
            .filter(|id| !seen.contains(id))
            .collect::<HashSet<_>>()
            .len();
        if let Some(writer) = writer {
            let mut closed = writer.close()?;
            closed.seal()?;
            let fresh = closed.name();
            if let Some(row) = &row {
                // From here on the copies take the place of what the index places in the damaged pack.
                self.wait(self.index.mark_lost(row.id, true))?;
            }
            let copy = open(self.job, &self.job.packs.join(pack_file_name(fresh)))?;
            self.adopt_pack(copy)?;
        } else if let Some(row) = &row {
            self.wait(self.index.mark_lost(row.id, true))?;
        }
        let aside = path.with_extension(pack::DAMAGED);
        self.job
            .disk
            .rename(path, &aside)
            .map_err(|source| Error::io("setting aside the damaged pack", path, source))?;
        self.job.sync(&self.job.packs)?;
        let detail = format!("{saved} records are saved, {lost} cannot be read; it is set aside");
        self.mended("salvaged", name.to_string(), detail)?;
        Ok(row)
    }

    /// The chunks that the index places in a pack.
    fn known_chunks(&self, row: &KnownPack, entries: &mut Vec<Entry>) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = self.wait(self.index.chunks_of(row.id, after))?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            entries.extend(page.into_iter().map(|(id, extent)| Entry {
                kind: Kind::Chunk,
                extent,
                id,
            }));
        }
    }
}
