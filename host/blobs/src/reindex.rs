//! The index, made anew from the packs alone.
//!
//! It is built beside the one that is there, made durable, and put in its place by one rename: killed at any moment,
//! a store has the old index or the new one. (If the old one cannot be read, there is a moment without any, and a
//! store refuses to open then; the index can be built again.)
//!
//! What packs do not say is not in it: which blobs were removed. A blob that a pack calls complete is one again, and
//! who keeps a record of blobs removes those it does not know. One whose chunks or manifest were collected meanwhile
//! is incomplete, and a check names it. What projects hold is derived from the blobs whose manifests are whole.
//!
//! Nor is anything in it of which the packs have lost the description. What may have been one leaves a note, of which
//! every check speaks until somebody deletes it.
//!
//! Nor do packs say which chunks were found wrong: see [`marks`]. With an index that is lost every byte is read.
//!
//! Nor do packs say which uploads go on, and up to where. If the old index can still be read, they are carried over
//! as far as everything is there that was told of them; with an index that is lost they are forgotten, and whoever
//! sends one begins anew. Their chunks then wait for the collector, and no answer is given from them.

mod marks;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::check::{CheckEvent, Job, Stage};
use crate::disk::{Disk, RealDisk};
use crate::index::Index;
use crate::manifest::EncodedPart;
use crate::pack::{self, Decoder, Kind, Pack, Salvage, Survey};
use crate::repair::{
    Described, Source, Wanted, adopt, adoption, described, notes, restore_manifests, whole_upload,
};
use crate::store::{self, REBUILT};
use crate::{BlobId, ChunkId, Digest, Error, Store};

use marks::Marks;

/// How many blobs are taken at a time.
const BLOBS: u32 = 1000;

/// What the new index names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReindexReport {
    /// Packs, also ones of which only a part could be read.
    pub packs: u64,
    /// Packs that are damaged. `cofferdam store check --repair` saves what is good in them.
    pub damaged_packs: u64,
    /// Chunks.
    pub chunks: u64,
    /// Complete blobs.
    pub blobs: u64,
    /// Uploads that can be gone on with.
    pub uploads: u64,
}

impl Store {
    /// Builds the index of the store in this directory anew from its packs, and puts it in the place of the one that
    /// is there, whether that can be read or not. Nobody may have the store open. How far it is is sent to `events`;
    /// if nobody receives there, the old index stays.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if somebody has the store open, [`Error::Io`] or [`Error::StorageFull`] if the disk refuses;
    /// then the old index is as it was.
    pub async fn reindex(
        directory: &Path,
        events: mpsc::Sender<CheckEvent>,
    ) -> Result<ReindexReport, Error> {
        Store::reindex_on(Arc::new(RealDisk), directory, events).await
    }

    pub(crate) async fn reindex_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        events: mpsc::Sender<CheckEvent>,
    ) -> Result<ReindexReport, Error> {
        let job = Job::new(disk, directory, events);
        tokio::task::spawn_blocking(move || {
            let _lock = store::lock(&job.directory, Duration::ZERO)?;
            rebuild(&job)
        })
        .await
        .map_err(|_| Error::Defect { part: "reindexing" })?
    }
}

/// Builds the index anew and puts it in its place. The store must be locked. Blocks.
pub(crate) fn rebuild(job: &Job) -> Result<ReindexReport, Error> {
    for path in job.leavings() {
        job.disk
            .remove(&path)
            .map_err(|source| Error::io("removing", &path, source))?;
    }
    let beside = job.directory.join(REBUILT);
    let index = job
        .handle
        .block_on(Index::create_beside(Arc::clone(&job.disk), &beside))?;
    let built = build(job, &index);
    job.handle.block_on(index.close());
    let (report, losses) = built?;
    let failed = |source| Error::io("syncing the new index", &beside, source);
    let file = job.disk.open(&beside).map_err(failed)?;
    job.disk.sync(&file).map_err(failed)?;
    drop(file);
    job.sync(&job.directory)?;
    for (pack, detail) in &losses {
        notes::leave(job, *pack, detail)?;
    }
    replace(job, &beside)?;
    for pack in job.list()?.packs.into_keys() {
        if !losses.contains_key(&pack) {
            notes::take_away(job, pack)?;
        }
    }
    Ok(report)
}

/// A damaged pack, and what was found in it.
struct Damaged {
    name: Uuid,
    length: u64,
    salvage: Salvage,
    survey: Survey,
}

/// Packs that have lost what no other tells of, and what is said of each.
type Losses = BTreeMap<Uuid, String>;

fn build(job: &Job, index: &Index) -> Result<(ReindexReport, Losses), Error> {
    let files = job.list()?.packs;
    let mut report = ReindexReport::default();
    let mut damaged = Vec::new();
    let mut unread: HashMap<Digest, Uuid> = HashMap::new();
    let total = files.len() as u64;
    let marks = Marks::of_the_old_index(job);
    // In the order of their names, which is that in which they were begun: the first copy of a chunk stays where it
    // is, as it did when it was stored.
    for (done, (name, path)) in (0..).zip(&files) {
        job.progress(Stage::Reindex, done, total)?;
        let failed = |source| Error::io("measuring the pack", path, source);
        let length = path.metadata().map_err(failed)?.len();
        match Pack::open_on(Arc::clone(&job.disk), path) {
            Ok(pack) if pack.name == *name => {
                let source = Source::Whole(pack);
                let adoption = adoption(job, *name, length, &source)?;
                adopt(job, index, &adoption, &source)?;
                if let Source::Whole(pack) = &source
                    && !marks.speaks_for(*name)
                {
                    marks::verify(job, index, pack)?;
                }
                unread.extend(adoption.unread.iter().map(|record| (*record, *name)));
                report.packs += 1;
            }
            Ok(_) | Err(Error::Corrupt { .. } | Error::Io { .. }) => {
                let salvage = Salvage::open(Arc::clone(&job.disk), path)?;
                let survey = salvage.survey(&[]);
                let lost = survey.lost_descriptions.iter();
                unread.extend(lost.map(|record| (*record, *name)));
                let pack = Damaged {
                    name: *name,
                    length,
                    salvage,
                    survey,
                };
                adopt_damaged(job, index, &pack, true)?;
                damaged.push(pack);
            }
            Err(error) => return Err(error),
        }
    }
    job.progress(Stage::Reindex, total, total)?;
    recover(job, index, &mut damaged)?;
    marks.carry_over(job, index)?;
    for pack in &damaged {
        tracing::warn!(
            pack = %pack.name,
            records = pack.survey.entries.len(),
            "a damaged pack is indexed as far as it can be read"
        );
        report.damaged_packs += 1;
        report.packs += u64::from(!pack.survey.entries.is_empty());
    }
    report.uploads = carry_uploads(job, index)?;
    job.handle.block_on(index.forget_unowned())?;
    let broken = straighten(job, index)?;
    restore_manifests(job, index, &broken)?;
    job.handle.block_on(index.derive_held())?;
    (report.chunks, report.blobs) = job.handle.block_on(index.counts())?;
    Ok((report, losses(job, &files, &damaged, unread)))
}

/// Makes known what was found in a damaged pack; what it says of blobs only the first time, in its turn.
fn adopt_damaged(job: &Job, index: &Index, pack: &Damaged, first: bool) -> Result<(), Error> {
    if pack.survey.entries.is_empty() {
        return Ok(());
    }
    let source = Source::Damaged(&pack.salvage, &pack.survey);
    let mut adoption = adoption(job, pack.name, pack.length, &source)?;
    if !first {
        adoption.parts.clear();
        adoption.blobs.clear();
    }
    adopt(job, index, &adoption, &source)
}

/// Looks in damaged packs for what no line of their tables leads to, now that it is known what all the others have.
fn recover(job: &Job, index: &Index, damaged: &mut [Damaged]) -> Result<(), Error> {
    let mut parts = Vec::new();
    let mut doubtful = HashSet::new();
    for pack in &*damaged {
        doubtful.extend(pack.survey.doubtful());
        for guess in guesses(pack) {
            if let Described::Part(part, _) = guess {
                parts.push(part);
            }
        }
    }
    let mut wanted = None;
    for pack in damaged {
        if pack.survey.is_settled(&pack.salvage) {
            continue;
        }
        if wanted.is_none() {
            wanted = Some(Wanted::list(job, index, &parts, &doubtful, None)?);
        }
        if let Some(wanted) = &wanted {
            pack.salvage.seek(&mut pack.survey, wanted);
        }
        adopt_damaged(job, index, pack, false)?;
        let (mut parts, mut blobs) = (Vec::new(), Vec::new());
        for guess in guesses(pack) {
            match guess {
                Described::Part(part, encoded) => parts.push((part.blob, encoded)),
                Described::Blob(record) => blobs.push(record),
            }
        }
        job.handle.block_on(index.adopt_guesses(&parts, &blobs))?;
    }
    Ok(())
}

/// What a damaged pack seems to say of blobs.
fn guesses(pack: &Damaged) -> impl Iterator<Item = Described> {
    let mut decoder = Decoder::default();
    pack.survey.guesses.iter().filter_map(move |guess| {
        let bytes = pack.salvage.read(guess, &mut decoder).ok()?;
        described(guess, bytes)
    })
}

/// Which packs have lost something that may have described blobs, and that no other pack has.
fn losses(
    job: &Job,
    files: &BTreeMap<Uuid, PathBuf>,
    damaged: &[Damaged],
    mut unread: HashMap<Digest, Uuid>,
) -> Losses {
    // What a sound table names and cannot be read may be in another pack.
    let unnamed = |pack: &&Damaged| pack.survey.lost_descriptions.is_empty();
    let lost = |pack: &Damaged| Some((pack.name, pack.survey.loss()?));
    let mut losses: Losses = damaged.iter().filter(unnamed).filter_map(lost).collect();
    if !unread.is_empty() {
        let mut decoder = Decoder::default();
        for path in files.values() {
            let Ok(pack) = Pack::open_on(Arc::clone(&job.disk), path) else {
                continue;
            };
            for entry in &pack.entries {
                if unread.contains_key(&entry.id) && pack.read_with(entry, &mut decoder).is_ok() {
                    unread.remove(&entry.id);
                }
            }
        }
        for pack in unread.into_values() {
            let detail = "records of it that describe packages cannot be read";
            losses.insert(pack, detail.to_owned());
        }
    }
    losses
}

/// Carries over the uploads that the old index knows, if it can be read; says how many.
fn carry_uploads(job: &Job, index: &Index) -> Result<u64, Error> {
    let path = job.index_path();
    if !path.exists() {
        return Ok(0);
    }
    let opened = job.handle.block_on(async {
        let old = Index::inspect(Arc::clone(&job.disk), &path).await?;
        let ids = old.upload_ids().await;
        Ok::<_, Error>((old, ids))
    });
    let (old, ids) = match opened {
        Ok((old, Ok(ids))) => (old, ids),
        Ok((old, Err(error))) => {
            job.handle.block_on(old.close());
            tracing::warn!(%error, "the uploads that the old index had are forgotten");
            return Ok(0);
        }
        Err(error) => {
            tracing::warn!(%error, "the uploads that the old index had are forgotten");
            return Ok(0);
        }
    };
    let recorders = match recorders(job, &old, &ids) {
        Ok(recorders) => recorders,
        Err(error) => {
            job.handle.block_on(old.close());
            return Err(error);
        }
    };
    let mut carried = 0;
    let outcome = ids.into_iter().try_for_each(|id| {
        match carry_upload(job, (&old, &recorders), index, id) {
            Ok(true) => {
                carried += 1;
                return Ok(());
            }
            Ok(false) => {
                tracing::warn!(upload = %id, "a part of an upload is lost: it is forgotten");
            }
            // What the old index cannot say the new one need not know. (What the new one does not take ends this below.)
            Err(error @ Error::Index { .. }) => {
                tracing::warn!(upload = %id, %error, "an upload cannot be carried over: it is forgotten");
            }
            Err(error) => return Err(error),
        }
        job.handle.block_on(async {
            index.forget_upload_row(id).await?;
            index.forget_upload(id).await
        })
    });
    job.handle.block_on(old.close());
    outcome.map(|()| carried)
}

/// Which packs record the parts of these uploads' manifests, by their digests.
fn recorders(job: &Job, old: &Index, ids: &[BlobId]) -> Result<HashMap<Digest, Uuid>, Error> {
    let mut parts = HashSet::new();
    for id in ids {
        let mut from = 0;
        // What cannot be read of it is told of where it is carried over.
        while let Ok(Some((first_byte, part))) = job.handle.block_on(old.part_from(*id, from)) {
            from = first_byte + 1;
            parts.insert(part.checksum);
        }
    }
    let mut recorders = HashMap::new();
    if parts.is_empty() {
        return Ok(recorders);
    }
    for (name, path) in job.list()?.packs {
        // A damaged one is taken away by nobody but a repair, which copies what it records.
        if let Ok(pack) = Pack::open_on(Arc::clone(&job.disk), &path) {
            let described = pack
                .entries
                .iter()
                .filter(|entry| entry.kind == Kind::Manifest);
            let ours = described.filter(|entry| parts.contains(&entry.id));
            recorders.extend(ours.map(|entry| (entry.id, name)));
        }
    }
    Ok(recorders)
}

/// Carries one upload over, if everything is there that was told of it.
fn carry_upload(
    job: &Job,
    (old, recorders): (&Index, &HashMap<Digest, Uuid>),
    index: &Index,
    id: BlobId,
) -> Result<bool, Error> {
    let Some(row) = job.handle.block_on(old.upload_row(id))? else {
        return Ok(false);
    };
    if !whole_upload(job, old, index, &row)? {
        return Ok(false);
    }
    job.handle.block_on(index.carry_upload(&row))?;
    let mut from = 0;
    while !row.upload.complete
        && let Some((first_byte, stored)) = job.handle.block_on(old.part_from(id, from))?
    {
        from = first_byte + 1;
        let Ok(part) = stored.part else {
            return Ok(false);
        };
        let chunks: Vec<ChunkId> = part.chunks.iter().map(|chunk| chunk.id).collect();
        let part = EncodedPart {
            first_byte,
            data: stored.data,
            checksum: stored.checksum,
        };
        let recorder = recorders.get(&part.checksum).copied();
        let carried = index.carry_part(id, &part, &chunks, recorder);
        job.handle.block_on(carried)?;
    }
    Ok(true)
}

/// Forgets the parts of blobs' manifests that do not follow from the one before: an append that died has left them.
/// Gives the blobs whose manifests are not whole without them.
fn straighten(job: &Job, index: &Index) -> Result<Vec<BlobId>, Error> {
    let mut broken = Vec::new();
    let mut after = None;
    loop {
        let blobs = job.handle.block_on(index.blobs(after, BLOBS))?;
        let Some(last) = blobs.last() else {
            return Ok(broken);
        };
        after = Some(last.id);
        for blob in blobs {
            let mut at = (0, 0);
            let mut from = 0;
            while let Some((first_byte, stored)) =
                job.handle.block_on(index.part_from(blob.id, from))?
            {
                from = first_byte + 1;
                match stored.part {
                    Ok(part) if (part.first_byte, part.first_chunk) == at => {
                        let next = part.following();
                        at = (next.first_byte, next.first_chunk);
                    }
                    _ => job.handle.block_on(index.drop_part(blob.id, first_byte))?,
                }
            }
            if at != (blob.bytes, blob.chunks) {
                broken.push(blob.id);
            }
        }
    }
}

/// Puts the new index, which is durable, in the place of the old one.
fn replace(job: &Job, beside: &Path) -> Result<(), Error> {
    let path = job.index_path();
    let remove = |path: &Path| {
        job.disk
            .remove(path)
            .map_err(|source| Error::io("removing", path, source))
    };
    let rename = |from: &Path, to: &Path| {
        job.disk
            .rename(from, to)
            .map_err(|source| Error::io("putting the index in its place", to, source))
    };
    // A log beside a database is part of it, also of one that was put in its place. So the old log must be gone
    // before: written back into the old index if that can be read, else together with it.
    if path.exists() && !job.handle.block_on(write_back(job, &path)) {
        let aside = path.with_extension(format!("db.{}", pack::DAMAGED));
        tracing::warn!(path = %aside.display(), "the old index cannot be read and is set aside");
        rename(&path, &aside)?;
        job.sync(&job.directory)?;
    }
    for log in store::beside_index(&path) {
        if log.exists() {
            remove(&log)?;
        }
    }
    job.sync(&job.directory)?;
    rename(beside, &path)?;
    job.sync(&job.directory)
}

/// Writes an index's log back into it, so that it is one file; whether that went well.
async fn write_back(job: &Job, path: &Path) -> bool {
    let Ok(index) = Index::inspect(Arc::clone(&job.disk), path).await else {
        return false;
    };
    let written = index.write_back().await;
    index.close().await;
    match written {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the old index's log cannot be written back");
            false
        }
    }
}
