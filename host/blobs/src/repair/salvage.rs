//! Damaged packs.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::adopt::{Described, described, open};
use super::wanted::Wanted;
use super::{Repair, notes};
use crate::Error;
use crate::index::KnownPack;
use crate::pack::{self, Decoder, Entry, Kind, PackWriter, Salvage, Survey, pack_file_name};

impl Repair<'_> {
    /// Saves what is good in a damaged pack into a new one and sets the damaged one aside; gives its row, if it has
    /// one, for the chunks that could not be saved.
    pub(super) fn salvage(&mut self, path: &Path, name: Uuid) -> Result<Option<KnownPack>, Error> {
        let rows = self.wait(self.index.packs())?;
        let row = rows.into_iter().find(|row| row.name == name);
        let salvage = Salvage::open(Arc::clone(&self.job.disk), path)?;
        let mut known = Vec::new();
        if let Some(row) = &row {
            self.known_chunks(row, &mut known)?;
        }
        let mut survey = salvage.survey(&known);
        if !survey.is_settled(&salvage) {
            self.seek_rest(&salvage, &mut survey, row.as_ref())?;
        }
        let saved = self.save(&salvage, &survey, row.as_ref())?;
        let lost = survey.loss();
        // What an index has had of a pack it knows; and one that was made from packs has left a note.
        if let (None, Some(lost)) = (&row, &lost) {
            notes::leave(self.job, name, lost)?;
        }
        let aside = path.with_extension(pack::DAMAGED);
        self.job
            .disk
            .rename(path, &aside)
            .map_err(|source| Error::io("setting aside the damaged pack", path, source))?;
        self.job.sync(&self.job.packs)?;
        let mut detail = format!("{saved} records are saved");
        if survey.lost_chunks > 0 {
            detail.push_str(&format!(", {} chunks cannot be read", survey.lost_chunks));
        }
        if let Some(lost) = lost {
            detail.push_str(&format!(", {lost}"));
        }
        detail.push_str("; it is set aside");
        self.mended("salvaged", name.to_string(), detail)?;
        Ok(row)
    }

    /// Looks for records that neither the table nor the index leads to.
    fn seek_rest(
        &self,
        salvage: &Salvage,
        survey: &mut Survey,
        row: Option<&KnownPack>,
    ) -> Result<(), Error> {
        let mut decoder = Decoder::default();
        let mut parts = Vec::new();
        let found = survey.entries.iter().chain(&survey.guesses);
        for entry in found.filter(|entry| entry.kind == Kind::Manifest) {
            if let Ok(bytes) = salvage.read(entry, &mut decoder)
                && let Some(Described::Part(part, _)) = described(entry, bytes)
            {
                parts.push(part);
            }
        }
        let doubtful = survey.doubtful().collect();
        let pack = row.map(|row| row.id);
        let wanted = Wanted::list(self.job, self.index, &parts, &doubtful, pack)?;
        salvage.seek(survey, &wanted);
        let mut agreed = Vec::new();
        for guess in std::mem::take(&mut survey.guesses) {
            if self.agrees(salvage, &guess)? {
                agreed.push(guess);
            }
        }
        survey.guesses = agreed;
        Ok(())
    }

    /// Whether a guess is what the index knows, or about something that it does not know.
    fn agrees(&self, salvage: &Salvage, guess: &Entry) -> Result<bool, Error> {
        let Ok(bytes) = salvage.read(guess, &mut Decoder::default()) else {
            return Ok(false);
        };
        Ok(match described(guess, bytes) {
            Some(Described::Blob(record)) => {
                let known = self.wait(self.index.blob(record.info.id))?;
                known.is_none_or(|(info, _)| info == record.info)
            }
            Some(Described::Part(part, encoded)) => {
                let known = self.wait(self.index.part_from(part.blob, part.first_byte))?;
                known.is_none_or(|(first_byte, stored)| {
                    first_byte != part.first_byte || stored.checksum == encoded.checksum
                })
            }
            None => false,
        })
    }

    /// Writes what was found into a new pack and makes that known; says how many records those are.
    fn save(
        &mut self,
        salvage: &Salvage,
        survey: &Survey,
        row: Option<&KnownPack>,
    ) -> Result<u64, Error> {
        let mut entries: Vec<&Entry> = survey.entries.iter().chain(&survey.guesses).collect();
        // In the order of their places, as a pack has them; what was found both ways once.
        entries.sort_by_key(|entry| (entry.extent.offset, entry.id));
        let mut seen = HashSet::new();
        let mut decoder = Decoder::default();
        let mut writer: Option<PackWriter> = None;
        for entry in entries {
            if seen.contains(&(entry.kind, entry.id)) {
                continue;
            }
            let Ok(stored) = salvage.read_as_stored(entry, &mut decoder) else {
                continue;
            };
            seen.insert((entry.kind, entry.id));
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(PackWriter::create(
                    Arc::clone(&self.job.disk),
                    &self.job.packs,
                )?),
            };
            let extent = entry.extent;
            writer.append(entry.kind, entry.id, extent.bytes, extent.encoding, &stored)?;
        }
        if let Some(writer) = writer {
            let mut closed = writer.close()?;
            closed.seal()?;
            let fresh = closed.name();
            if let Some(row) = row {
                // From here on the copies take the place of what the index places in the damaged pack.
                self.wait(self.index.mark_lost(row.id, true))?;
            }
            let copy = open(self.job, &self.job.packs.join(pack_file_name(fresh)))?;
            let before = self.records.len();
            self.adopt_pack(copy)?;
            if row.is_some() {
                // A blob of a pack that the index knows, and that it does not know, was removed.
                self.records.truncate(before);
            }
        } else if let Some(row) = row {
            self.wait(self.index.mark_lost(row.id, true))?;
        }
        Ok(seen.len() as u64)
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
