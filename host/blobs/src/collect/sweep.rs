//! Taking packs away.
//!
//! In this order, so that a kill in between leaves what the next collection takes up: the pack is out of use
//! (a commit), its chunks are forgotten (a commit), its file is removed and the directory synced, the pack is
//! forgotten (a commit). While its row stands, nothing leans on it; when its row is gone, so is everything else.

use super::inspect::Inspected;
use super::live::LiveSet;
use super::survey::Tally;
use super::{Collector, blocking};
use crate::index::{PackRow, PackState};
use crate::{ChunkId, Error};

/// How many packs go with one commit of each kind.
const BATCH: usize = 16;

/// A pack of which nothing lives, and what its table lists.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) pack: PackRow,
    pub(super) chunks: Vec<ChunkId>,
}

impl Dead {
    pub(super) fn new(pack: PackRow, inspected: &Inspected) -> Dead {
        Dead {
            pack,
            chunks: inspected.chunks(),
        }
    }
}

impl Collector {
    /// Takes away what is wholly dead, and what an earlier collection had begun to; says what else has little
    /// alive.
    pub(super) async fn sweep(
        &mut self,
        tallies: Vec<Tally>,
        live: &LiveSet,
    ) -> Result<Vec<Tally>, Error> {
        let mut sparse = Vec::new();
        let mut dead = Vec::new();
        let mut lost = Vec::new();
        for tally in tallies {
            let pack = tally.pack;
            match pack.state {
                PackState::InUse if tally.live_chunks > 0 => {
                    if self.is_sparse(tally.live_bytes, pack.bytes) {
                        sparse.push(tally);
                    }
                }
                PackState::InUse if pack.round == self.round => self.report.packs_leased += 1,
                PackState::InUse => {
                    let Some(inspected) = self.inspect(&pack, live).await? else {
                        continue;
                    };
                    if inspected.live.is_empty() {
                        dead.push(Dead::new(pack, &inspected));
                    } else if self.is_sparse(inspected.live_bytes(), pack.bytes) {
                        sparse.push(tally);
                    }
                }
                // Nothing of a condemned pack should be alive; if something is, it has to move first.
                PackState::Condemned if tally.live_chunks > 0 => sparse.push(tally),
                PackState::Condemned => {
                    self.take_away(vec![Dead {
                        pack,
                        chunks: Vec::new(),
                    }])
                    .await?;
                }
                PackState::Lost if tally.live_chunks > 0 || pack.round == self.round => {}
                PackState::Lost => lost.push(pack),
            }
            if dead.len() == BATCH {
                self.condemn(std::mem::take(&mut dead)).await?;
            }
        }
        self.condemn(dead).await?;
        self.forget_lost(lost).await?;
        sparse.sort_unstable_by_key(|tally| {
            tally.live_bytes.saturating_mul(1000) / tally.pack.bytes.max(1)
        });
        Ok(sparse)
    }

    /// Takes these out of use, and away, but for those that somebody leans on.
    pub(super) async fn condemn(&mut self, dead: Vec<Dead>) -> Result<(), Error> {
        if dead.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = dead.iter().map(|dead| dead.pack.id).collect();
        let index = &self.shared.index;
        let condemned = match self.options.dry_run {
            true => index.unleased(&ids).await?,
            false => index.condemn(self.round, &ids).await?,
        };
        self.take_condemned_away(dead, &condemned).await
    }

    /// Takes those of these away that are out of use.
    pub(super) async fn take_condemned_away(
        &mut self,
        mut dead: Vec<Dead>,
        condemned: &[i64],
    ) -> Result<(), Error> {
        self.report.packs_leased += (dead.len() - condemned.len()) as u64;
        dead.retain(|dead| condemned.contains(&dead.pack.id));
        self.take_away(dead).await
    }

    /// Removes packs that are out of use.
    async fn take_away(&mut self, dead: Vec<Dead>) -> Result<(), Error> {
        if dead.is_empty() {
            return Ok(());
        }
        self.report.packs_removed += dead.len() as u64;
        self.report.bytes_removed += dead.iter().map(|dead| dead.pack.bytes).sum::<u64>();
        if self.options.dry_run {
            return Ok(());
        }
        for dead in &dead {
            self.shared
                .index
                .forget_chunks(dead.pack.id, &dead.chunks)
                .await?;
        }
        let shared = self.shared.clone();
        let names: Vec<_> = dead.iter().map(|dead| dead.pack.name).collect();
        blocking(move || {
            for name in names {
                shared.packs.forget(name);
                shared.remove_pack(name)?;
            }
            shared.sync_packs()
        })
        .await??;
        let ids: Vec<i64> = dead.iter().map(|dead| dead.pack.id).collect();
        self.shared.index.forget_packs(&ids).await
    }

    /// Forgets packs whose files are gone and of which nothing is missed.
    async fn forget_lost(&mut self, lost: Vec<PackRow>) -> Result<(), Error> {
        if self.options.dry_run || lost.is_empty() {
            return Ok(());
        }
        // Chunks were brought again; what describes blobs nobody brings.
        self.keep_descriptions().await?;
        let shared = self.shared.clone();
        let names: Vec<_> = lost.iter().map(|pack| pack.name).collect();
        // They may have come back, on a disk that was away.
        blocking(move || {
            for name in names {
                shared.packs.forget(name);
                shared.remove_pack(name)?;
            }
            shared.sync_packs()
        })
        .await??;
        let ids: Vec<i64> = lost.iter().map(|pack| pack.id).collect();
        self.shared.index.forget_packs(&ids).await
    }
}
