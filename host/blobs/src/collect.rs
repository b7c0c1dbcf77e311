//! The collector: it gives back the space of what nothing refers to any more.
//!
//! A chunk lives while the manifest of a complete blob names it, or while a running upload leans on it. The
//! former is what the collector *marks*; the latter it does not look at: an upload holds a *lease* on every pack
//! that it leans on, from the transaction in which it found a chunk there to the one that completes its blob. So
//! what must never happen, that a chunk goes between the question whether it is there and the commit that names
//! it, is settled by two transactions alone, and the index runs them one after the other:
//!
//! - an upload takes a lease on a pack that is *in use*, and leaves the number of the last collection on it;
//! - the collector *condemns* a pack, takes it out of use, if nobody leases it and nobody has since it began.
//!
//! A chunk that moves to another pack takes the leases of its old one along, whoever moves it.
//!
//! # The course of a collection
//!
//! 1. It takes its number, and leaves it on every pack that is leased at that moment.
//! 2. *Mark*: the manifests of all complete blobs, into a set of fixed size.
//! 3. *Survey*: all chunks of the index, to tell how much of each pack is alive.
//! 4. *Sweep*: packs of which nothing is alive are condemned, their chunks forgotten, their files removed, and
//!    then they are forgotten. So are packs whose files are lost, once nothing of them is missed; what no other pack says
//!    of blobs is recorded anew before.
//! 5. *Copy*: what is alive in packs that are mostly dead goes into new ones, compressed better; one commit says
//!    where it is from now on, and condemns the old ones.
//! 6. Packs that the index does not know are removed when it has not known them for long enough.
//!
//! It may be killed anywhere. A condemned pack stays condemned and the next collection goes on with it; a new
//! pack that no commit named is one that the index does not know.
//!
//! A reader is not in the way: it keeps a pack that it has open, and looks a chunk up again when its pack is gone.
//!
//! What it holds in memory: the set (at most 64 MiB), a few words for each pack, and what one pack's table has.

mod copy;
mod inspect;
mod keep;
mod live;
mod mark;
mod orphans;
mod pace;
mod report;
mod survey;
mod sweep;

use std::sync::Arc;

use pace::Pace;

pub use report::{CollectOptions, CollectReport};

use crate::Error;
use crate::store::{Shared, Store};

/// A collection that runs.
struct Collector {
    shared: Arc<Shared>,
    options: CollectOptions,
    /// Its number.
    round: i64,
    pace: Pace,
    report: CollectReport,
}

impl Store {
    /// Removes what nothing refers to, beside uploads and readers. One runs at a time; another one waits. Dropped
    /// before its end, it leaves the rest to the next one.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a manifest cannot be read: nothing is removed then, because nobody knows what it
    /// names. [`Error::StorageFull`] if there is no room for the copies; what was removed by then is gone.
    /// [`Error::Io`] or [`Error::Index`] if the disk refuses.
    pub async fn collect(&self, options: CollectOptions) -> Result<CollectReport, Error> {
        let shared = Arc::clone(&self.shared);
        let _alone = self.shared.collecting.lock().await;
        let mut collector = Collector {
            round: if options.dry_run {
                // Later than all: nothing is marked as leased for its sake.
                i64::MAX
            } else {
                shared.index.begin_round().await?
            },
            pace: Pace::new(options.bytes_per_second),
            report: CollectReport {
                dry_run: options.dry_run,
                ..CollectReport::default()
            },
            shared,
            options,
        };
        collector.run().await?;
        Ok(collector.report)
    }

    /// Waits until there may be something to collect: a blob was removed, or an upload was given up, since the last
    /// time that this returned. For one caller at a time.
    pub async fn garbage(&self) {
        self.shared.usage.garbage.notified().await;
    }
}

impl Collector {
    async fn run(&mut self) -> Result<(), Error> {
        let live = self.mark().await?;
        let tallies = self.survey(&live).await?;
        let sparse = self.sweep(tallies, &live).await?;
        self.copy(sparse, &live).await?;
        self.remove_orphans().await
    }

    /// Whether too little of a pack is alive to leave it as it is.
    fn is_sparse(&self, live_bytes: u64, bytes: u64) -> bool {
        live_bytes.saturating_mul(100) < bytes.saturating_mul(report::WORTH_KEEPING)
    }
}

/// Work that blocks, on a thread where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Defect { part: "collector" })
}

#[cfg(test)]
mod tests;
