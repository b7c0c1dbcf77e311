//! Mending a store that nobody uses.
//!
//! What a blob consists of is never dropped. In this order, each step whole before the next, so that a repair that is
//! killed is simply begun again:
//!
//! 1. files that were never finished are removed;
//! 2. without an index that can be read, one is built from the packs, and that is all of this round;
//! 3. packs that the index does not name are made known to it, with their blobs: also those of which something is lost,
//!    so that a check names them;
//! 4. what is good in a damaged pack is saved into a new one, and the damaged one is set aside. If it may have described
//!    blobs that the index does not know, a note says so, and every check from then on;
//! 5. chunks that are not where the index says are looked for in every pack. What is not found is forgotten if no
//!    blob has it, and quarantined if one has: the next upload that carries it heals that blob;
//! 6. manifests are restored from the packs, and recorded in a pack if none has them;
//! 7. uploads of which something is nowhere to be found are forgotten: whoever sends one begins anew. What packs have of
//!    an upload that goes on never takes the place of what the index has of it, nor makes a blob of it;
//! 8. what projects hold is derived again, where it does not follow from their blobs.

mod adopt;
mod chunks;
mod manifests;
pub(crate) mod notes;
mod salvage;
mod uploads;
mod wanted;

use std::path::Path;
use std::sync::Arc;

pub(crate) use adopt::{Described, Source, adopt, adoption, described};
pub(crate) use manifests::{describe, restore as restore_manifests};
pub(crate) use uploads::whole as whole_upload;
pub(crate) use wanted::Wanted;

use crate::check::{CheckEvent, Findings, Job, Mended};
use crate::index::Index;
use crate::manifest::BlobRecord;
use crate::{Error, reindex};

/// A repair.
struct Repair<'a> {
    job: &'a Job,
    index: &'a Index,
    mends: u64,
    /// Blobs that adopted packs say are complete.
    records: Vec<BlobRecord>,
}

/// Mends what was found, and says how many mends that took. The store must be locked.
pub(crate) fn repair(job: &Job, findings: Findings) -> Result<u64, Error> {
    let mut mends = remove_torn(job, &findings)?;
    if findings.no_index {
        let report = reindex::rebuild(job)?;
        tell(
            job,
            "rebuilt",
            "the chunk index".to_owned(),
            format!(
                "from {} packs: {} chunks, {} blobs",
                report.packs, report.chunks, report.blobs
            ),
        )?;
        return Ok(mends + 1);
    }
    if findings.is_clean() {
        return Ok(mends);
    }
    let index = job
        .handle
        .block_on(Index::open(Arc::clone(&job.disk), &job.index_path()))?;
    let mut repair = Repair {
        job,
        index: &index,
        mends: 0,
        records: Vec::new(),
    };
    let mended = repair.run(findings);
    mends += repair.mends;
    job.handle.block_on(index.close());
    mended.map(|()| mends)
}

fn remove_torn(job: &Job, findings: &Findings) -> Result<u64, Error> {
    let mut mends = 0;
    for path in &findings.torn {
        job.disk
            .remove(path)
            .map_err(|source| Error::io("removing the torn file", path, source))?;
        let subject = path.strip_prefix(&job.directory).unwrap_or(path);
        let subject = subject.display().to_string();
        tell(job, "removed", subject, "nothing referred to it".to_owned())?;
        mends += 1;
    }
    if mends > 0 {
        job.sync(&job.packs)?;
        job.sync(&job.directory)?;
    }
    Ok(mends)
}

fn tell(job: &Job, mend: &'static str, subject: String, detail: String) -> Result<(), Error> {
    job.tell(CheckEvent::Mended(Mended {
        mend,
        subject,
        detail,
    }))
}

impl Findings {
    /// Whether there is nothing to mend but torn files.
    fn is_clean(&self) -> bool {
        self.orphans.is_empty()
            && self.damaged.is_empty()
            && self.missing.is_empty()
            && self.returned.is_empty()
            && self.pack_rows.is_empty()
            && self.lost_chunks.is_empty()
            && self.manifests.is_empty()
            && self.unrecorded.is_empty()
            && self.uploads.is_empty()
            && !self.held
    }
}

impl Job {
    /// Makes the names in a directory durable.
    pub(crate) fn sync(&self, directory: &Path) -> Result<(), Error> {
        self.disk
            .sync_directory(directory)
            .map_err(|source| Error::io("syncing the directory", directory, source))
    }
}

impl Repair<'_> {
    fn run(&mut self, findings: Findings) -> Result<(), Error> {
        for row in &findings.pack_rows {
            self.wait(self.index.correct_pack(row.id, row.bytes, row.entries))?;
            self.mended("corrected", row.name.to_string(), "its row in the index")?;
        }
        for row in &findings.returned {
            self.wait(self.index.mark_lost(row.id, false))?;
            self.mended("corrected", row.name.to_string(), "it is in use again")?;
        }
        self.adopt_orphans(&findings.orphans)?;
        let mut gone = Vec::new();
        for (path, name) in &findings.damaged {
            gone.extend(self.salvage(path, *name)?);
        }
        for row in findings.missing {
            self.wait(self.index.mark_lost(row.id, true))?;
            gone.push(row);
        }
        self.find_chunks(findings.lost_chunks, &gone)?;
        self.restore_blobs()?;
        self.forget_packs(&gone)?;
        self.restore_manifests(&findings.manifests)?;
        self.record_blobs(&findings.unrecorded)?;
        self.forget_uploads(&findings.uploads)?;
        self.wait(self.index.forget_unowned())?;
        if findings.held || !findings.manifests.is_empty() {
            self.wait(self.index.derive_held())?;
        }
        if findings.held {
            let detail = "they are derived from the blobs again";
            self.mended("corrected", "the rows of what projects hold", detail)?;
        }
        Ok(())
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.job.handle.block_on(work)
    }

    fn mended(
        &mut self,
        mend: &'static str,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) -> Result<(), Error> {
        self.mends += 1;
        tell(self.job, mend, subject.into(), detail.into())
    }
}
