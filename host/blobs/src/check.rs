//! Checking a store that nobody uses: its packs, its index, and what refers to what.
//!
//! A check goes three ways over a store, in memory that does not grow with it:
//!
//! 1. every *pack*: header, table, trailer; what the index says of each chunk in it; with
//!    [`CheckOptions::read_data`] every byte;
//! 2. the *rows* of the index that no pack has confirmed;
//! 3. every *blob*: its chunk list from the first byte to the last, and each chunk of it; so every *upload*, as far as
//!    it is; and whether what projects hold is what their blobs have.
//!
//! It changes nothing. With [`CheckOptions::repair`], [`repair`](crate::repair) mends what it found, and a second
//! check says what remains.

mod fault;
mod packs;
mod references;
mod rows;
mod uploads;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use uuid::Uuid;

pub use fault::Fault;

use crate::disk::{Disk, RealDisk};
use crate::index::{Index, KnownPack};
use crate::store::{self, INDEX, REBUILT};
use crate::{BlobId, ChunkId, Digest, Error, Store, pack, repair};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(100);

/// More wrong rows than this are not listed: the index as a whole is damaged then, and is built again from the packs.
/// They take 48 MB.
const MAX_WRONG_CHUNKS: usize = 1_000_000;

/// How often a repair begins again with what is left: an index that was rebuilt shows faults that could not be seen
/// without it, and mending those may show others.
const ROUNDS: usize = 3;

/// How a store is checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read and verify every byte, not only what describes them.
    pub read_data: bool,
    /// Mend what can be mended. Nothing that a blob consists of is ever dropped.
    pub repair: bool,
}

/// What a check says while it goes on.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckEvent {
    /// How far it is.
    Progress(Progress),
    /// Something is wrong.
    Fault(Fault),
    /// Something was mended.
    Mended(Mended),
    /// Something is still wrong after a repair.
    Remains(Fault),
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What it is looking at.
    pub stage: Stage,
    /// How much of it is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

/// What a check is looking at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// Packs, counted in bytes.
    Packs,
    /// Blobs.
    Blobs,
    /// Packs that are indexed anew, counted in packs.
    Reindex,
}

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mended {
    /// What was done, in one word: `removed`, `adopted`, `salvaged`, `relocated`, `quarantined`, `dropped`,
    /// `restored`, `corrected`, `rebuilt`.
    pub mend: &'static str,
    /// What it was done to.
    pub subject: String,
    /// What came of it.
    pub detail: String,
}

/// What a check found, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// How many packs there are.
    pub packs: u64,
    /// How many records are in them.
    pub records: u64,
    /// How many bytes they take.
    pub bytes: u64,
    /// How many bytes of records were read and verified.
    pub verified_bytes: u64,
    /// How many complete blobs the index names.
    pub blobs: u64,
    /// How many damaged packs were set aside by repairs. Nothing refers to them: they may be deleted.
    pub set_aside: u64,
    /// How many things were wrong.
    pub faults: u64,
    /// How many mends a repair has made.
    pub mended: u64,
    /// How many things are still wrong.
    pub remaining: u64,
}

/// What a check knows of the file of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PackFile {
    Sound,
    Damaged,
}

/// What a repair has to do.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) torn: Vec<PathBuf>,
    pub(crate) orphans: Vec<Uuid>,
    /// By their file names: the name in the header may be another's.
    pub(crate) damaged: Vec<(PathBuf, Uuid)>,
    /// Packs of the index without a file.
    pub(crate) missing: Vec<KnownPack>,
    pub(crate) returned: Vec<KnownPack>,
    /// Rows about packs, and what is right.
    pub(crate) pack_rows: Vec<KnownPack>,
    /// Chunks that have to be found again: wrongly placed, quarantined, or named and not indexed.
    pub(crate) lost_chunks: HashSet<ChunkId>,
    pub(crate) manifests: Vec<BlobId>,
    pub(crate) unrecorded: Vec<BlobId>,
    /// Uploads of which something is missing.
    pub(crate) uploads: Vec<BlobId>,
    /// What projects hold does not follow from their blobs.
    pub(crate) held: bool,
    /// The index is missing or damaged.
    pub(crate) no_index: bool,
}

/// The files in the directory of the packs.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Those that are called packs, by their names.
    pub(crate) packs: BTreeMap<Uuid, PathBuf>,
    /// Those that were never finished.
    pub(crate) torn: Vec<PathBuf>,
    /// How many were set aside by repairs.
    pub(crate) set_aside: u64,
    /// Notes about what is lost.
    pub(crate) notes: Vec<PathBuf>,
}

/// One check.
struct Checker<'a> {
    job: &'a Job,
    options: CheckOptions,
    /// A second check, after a repair.
    again: bool,
    index: Option<Index>,
    rows: Vec<KnownPack>,
    files: BTreeMap<Uuid, PackFile>,
    /// How many chunks of each pack the index places where they are.
    confirmed: HashMap<i64, u64>,
    /// Manifests' parts, and blobs, that some pack records.
    recorded_parts: HashSet<Digest>,
    recorded_blobs: HashSet<BlobId>,
    corrupt: HashSet<ChunkId>,
    /// How often the whole manifests of each namespace name a chunk.
    uses: HashMap<String, i64>,
    findings: Findings,
    report: CheckReport,
}

/// What checks, repairs and rebuilds have in common: where, on what, and whom they tell.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) handle: Handle,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) packs: PathBuf,
    events: mpsc::Sender<CheckEvent>,
    told: std::sync::Mutex<Option<Instant>>,
}

impl Store {
    /// Checks the store in this directory, which nobody else may have open, and repairs it if that is asked for.
    /// What is found is sent to `events` as it is found; the check ends early if nobody receives there.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if somebody has it open, [`Error::Io`] if there is no store, or it cannot be read,
    /// [`Error::StorageFull`] if there is no room for a repair. What is wrong with a store is no error but a
    /// [`Fault`].
    pub async fn check(
        directory: &Path,
        options: CheckOptions,
        events: mpsc::Sender<CheckEvent>,
    ) -> Result<CheckReport, Error> {
        Store::check_on(Arc::new(RealDisk), directory, options, events).await
    }

    pub(crate) async fn check_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: CheckOptions,
        events: mpsc::Sender<CheckEvent>,
    ) -> Result<CheckReport, Error> {
        let job = Job::new(disk, directory, events);
        tokio::task::spawn_blocking(move || job.check(options))
            .await
            .map_err(|_| Error::Defect { part: "check" })?
    }
}

impl Job {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        directory: &Path,
        events: mpsc::Sender<CheckEvent>,
    ) -> Job {
        Job {
            handle: Handle::current(),
            disk,
            directory: directory.to_path_buf(),
            packs: directory.join(store::PACKS),
            events,
            told: std::sync::Mutex::new(None),
        }
    }

    fn check(&self, options: CheckOptions) -> Result<CheckReport, Error> {
        let _lock = store::lock(&self.directory, Duration::ZERO)?;
        let (mut report, mut findings) = Checker::new(self, options, false).run()?;
        report.remaining = report.faults;
        if !options.repair {
            return Ok(report);
        }
        let (found, mut mended) = (report.faults, 0);
        for _ in 0..ROUNDS {
            if report.faults == 0 {
                break;
            }
            let mends = repair::repair(self, findings)?;
            mended += mends;
            (report, findings) = Checker::new(self, options, true).run()?;
            if mends == 0 {
                break;
            }
        }
        // What the last check found is what remains.
        report.remaining = report.faults;
        report.faults = found;
        report.mended = mended;
        Ok(report)
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.directory.join(INDEX)
    }

    /// Tells what happens; `Err` if nobody listens any more.
    pub(crate) fn tell(&self, event: CheckEvent) -> Result<(), Error> {
        self.events
            .blocking_send(event)
            .map_err(|_| Error::Interrupted {
                reason: "nobody follows it any more".to_owned(),
            })
    }

    pub(crate) fn progress(&self, stage: Stage, done: u64, total: u64) -> Result<(), Error> {
        {
            let mut told = self
                .told
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if done < total && told.is_some_and(|told| told.elapsed() < PROGRESS) {
                return Ok(());
            }
            *told = Some(Instant::now());
        }
        self.tell(CheckEvent::Progress(Progress { stage, done, total }))
    }

    /// What is in the directory of the packs.
    pub(crate) fn list(&self) -> Result<Listing, Error> {
        let listed = self.disk.list(&self.packs);
        let mut listing = Listing::default();
        for path in listed.map_err(|source| Error::io("listing", &self.packs, source))? {
            let ends = |end: &str| path.extension().is_some_and(|found| found == end);
            if ends(pack::TEMPORARY) {
                listing.torn.push(path);
            } else if ends(pack::DAMAGED) {
                listing.set_aside += 1;
            } else if ends(pack::LOST) {
                listing.notes.push(path);
            } else if ends(pack::EXTENSION)
                && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
                && let Ok(name) = Uuid::parse_str(stem)
            {
                listing.packs.insert(name, path);
            }
        }
        listing.torn.sort();
        listing.notes.sort();
        Ok(listing)
    }

    /// The leavings of a rebuild that did not come to its end.
    pub(crate) fn leavings(&self) -> Vec<PathBuf> {
        store::leavings(&self.directory.join(REBUILT))
    }
}

impl<'a> Checker<'a> {
    fn new(job: &'a Job, options: CheckOptions, again: bool) -> Checker<'a> {
        Checker {
            job,
            options,
            again,
            index: None,
            rows: Vec::new(),
            files: BTreeMap::new(),
            confirmed: HashMap::new(),
            recorded_parts: HashSet::new(),
            recorded_blobs: HashSet::new(),
            corrupt: HashSet::new(),
            uses: HashMap::new(),
            findings: Findings::default(),
            report: CheckReport::default(),
        }
    }

    fn run(mut self) -> Result<(CheckReport, Findings), Error> {
        let Listing {
            packs,
            torn,
            set_aside,
            notes,
        } = self.job.list()?;
        self.report.set_aside = set_aside;
        for path in notes {
            self.fault(Fault::LostRecords {
                note: pack::file_name(&path),
                detail: repair::notes::read(&path),
            })?;
        }
        for path in torn.into_iter().chain(self.job.leavings()) {
            let file = path.strip_prefix(&self.job.directory).unwrap_or(&path);
            self.fault(Fault::TornFile {
                file: file.display().to_string(),
            })?;
            self.findings.torn.push(path);
        }
        self.open_index(packs.len() as u64)?;
        let checked = self.look_at_packs(&packs);
        self.or_index_damaged(checked)?;
        if self.index.is_some() {
            let checked = self.look_at_rows();
            self.or_index_damaged(checked)?;
        }
        if self.index.is_some() {
            let checked = self.look_at_blobs();
            self.or_index_damaged(checked)?;
        }
        if self.index.is_some() {
            let checked = self.look_at_uploads().and_then(|()| self.look_at_held());
            self.or_index_damaged(checked)?;
        }
        if let Some(index) = self.index.take() {
            self.job.handle.block_on(index.close());
        }
        Ok((self.report, self.findings))
    }

    /// Tells of a fault and counts it.
    fn fault(&mut self, fault: Fault) -> Result<(), Error> {
        self.report.faults += 1;
        self.job.tell(if self.again {
            CheckEvent::Remains(fault)
        } else {
            CheckEvent::Fault(fault)
        })
    }

    /// Notes a chunk that a repair has to find again.
    fn lost(&mut self, chunk: ChunkId) -> Result<(), Error> {
        self.findings.lost_chunks.insert(chunk);
        if self.findings.lost_chunks.len() > MAX_WRONG_CHUNKS {
            let detail = format!("it is wrong about more than {MAX_WRONG_CHUNKS} chunks");
            return self.give_up_index(detail);
        }
        Ok(())
    }

    fn open_index(&mut self, packs: u64) -> Result<(), Error> {
        let path = self.job.index_path();
        if !path.exists() {
            // A store that was never used has neither.
            if packs > 0 {
                self.findings.no_index = true;
                self.fault(Fault::IndexMissing { packs })?;
            }
            return Ok(());
        }
        let handle = &self.job.handle;
        let opened = handle.block_on(async {
            let index = Index::inspect(Arc::clone(&self.job.disk), &path).await?;
            let wrong = index.integrity().await?;
            let rows = index.packs().await?;
            Ok((index, wrong, rows))
        });
        match opened {
            Ok((index, None, rows)) => {
                self.index = Some(index);
                self.rows = rows;
                Ok(())
            }
            Ok((index, Some(detail), _)) => {
                handle.block_on(index.close());
                self.give_up_index(detail)
            }
            Err(error @ Error::Index { .. }) => self.give_up_index(error.to_string()),
            Err(error) => Err(error),
        }
    }

    /// What cannot be read of the index is a fault of it, not of the check.
    fn or_index_damaged(&mut self, checked: Result<(), Error>) -> Result<(), Error> {
        match checked {
            Err(error @ Error::Index { .. }) => self.give_up_index(error.to_string()),
            other => other,
        }
    }

    /// Goes on without the index.
    fn give_up_index(&mut self, detail: String) -> Result<(), Error> {
        if let Some(index) = self.index.take() {
            self.job.handle.block_on(index.close());
        }
        if self.findings.no_index {
            return Ok(());
        }
        self.findings.no_index = true;
        self.fault(Fault::IndexDamaged { detail })
    }
}
