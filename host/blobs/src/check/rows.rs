//! The second way: over what the index says and no pack has confirmed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Checker, Fault, PackFile};
use crate::index::{KnownPack, PackState};
use crate::pack::{Kind, Pack, pack_file_name};
use crate::{ChunkId, Error};

impl Checker<'_> {
    pub(super) fn look_at_rows(&mut self) -> Result<(), Error> {
        let Some(index) = &self.index else {
            return Ok(());
        };
        let counted = self.job.handle.block_on(index.chunks_in_packs())?;
        let rows: HashMap<i64, KnownPack> = self.rows.iter().map(|row| (row.id, *row)).collect();
        for row in self.rows.clone() {
            let chunks = counted.get(&row.id).copied().unwrap_or(0);
            // The collector takes the file of a pack away before it forgets the pack.
            let collected = row.state == PackState::Condemned && chunks == 0;
            if !self.files.contains_key(&row.name) && !collected {
                self.fault(Fault::MissingPack {
                    pack: row.name,
                    chunks,
                })?;
                self.findings.missing.push(row);
            }
        }
        for (pack, count) in counted {
            match rows.get(&pack) {
                None => self.nowhere(pack, None)?,
                Some(row) => {
                    let confirmed = self.confirmed.get(&pack).copied().unwrap_or(0);
                    let sound = self.files.get(&row.name) == Some(&PackFile::Sound);
                    if sound && confirmed != count {
                        self.nowhere(pack, Some(*row))?;
                    }
                }
            }
        }
        self.look_at_quarantined()
    }

    /// Tells of the chunks that the index places in a pack that does not have them.
    fn nowhere(&mut self, pack: i64, row: Option<KnownPack>) -> Result<(), Error> {
        let mut table: Vec<ChunkId> = Vec::new();
        let detail = match &row {
            None => "the pack it names does not exist".to_owned(),
            Some(row) => {
                let path: PathBuf = self.job.packs.join(pack_file_name(row.name));
                table = Pack::open_on(Arc::clone(&self.job.disk), &path)?
                    .entries
                    .iter()
                    .filter(|entry| entry.kind == Kind::Chunk)
                    .map(|entry| entry.id)
                    .collect();
                table.sort_unstable();
                format!("{} does not have it", pack_file_name(row.name))
            }
        };
        let mut after = None;
        loop {
            let Some(index) = &self.index else {
                return Ok(());
            };
            let page = self.job.handle.block_on(index.chunks_of(pack, after))?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (chunk, _) in page {
                if table.binary_search(&chunk).is_err() {
                    let detail = detail.clone();
                    self.fault(Fault::WrongChunkRow { chunk, detail })?;
                    self.corrupt.insert(chunk);
                    self.lost(chunk)?;
                }
            }
        }
    }

    fn look_at_quarantined(&mut self) -> Result<(), Error> {
        let mut after = None;
        loop {
            let Some(index) = &self.index else {
                return Ok(());
            };
            let page = self.job.handle.block_on(index.quarantined_chunks(after))?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (chunk, _) in page {
                self.fault(Fault::QuarantinedChunk { chunk })?;
                self.corrupt.insert(chunk);
                self.lost(chunk)?;
            }
        }
    }
}
