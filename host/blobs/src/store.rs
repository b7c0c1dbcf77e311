//! A store: a directory of packs and the index beside it.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedSemaphorePermit, RwLock, Semaphore};
use uuid::Uuid;

use crate::disk::{Disk, RealDisk};
use crate::index::{self, Index};
use crate::ingest::Digests;
use crate::list::ChunkList;
use crate::manifest::Manifest;
use crate::pack;
use crate::quota::{Charge, Usage};
use crate::reader::{PackFiles, Suspect};
use crate::upload::Appends;
use crate::{
    Assembly, BlobId, BlobInfo, ChunkId, Digest, Error, Ingest, MAX_NAMESPACE_BYTES, Reader,
};

/// The index's file name.
pub(crate) const INDEX: &str = "index.db";

/// The name of an index that is being built.
pub(crate) const REBUILT: &str = "index.db.rebuilt";

/// The directory of the packs.
pub(crate) const PACKS: &str = "packs";

/// How long to wait for another store to let go of the directory: long enough for the threads of uploads
/// that were given up when it was dropped.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How a store works. Changing any of these later is fine: nothing on disk depends on them.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// A pack is closed when its records have this many bytes. Default: 64 MiB, where one sync costs
    /// little beside the bytes, and what a broken upload has to send again is bearable.
    pub pack_bytes: u64,
    /// The zstd level at ingest. Default: 1, which keeps up with a fast network; packs may be compressed
    /// better when they are rewritten.
    pub compression_level: i32,
    /// How long a reader that follows an upload waits for the next byte. Default: 60 s.
    pub follow_idle: Duration,
    /// How many bytes of blobs a namespace may hold, each counted in full, shared or not. Default: any number.
    pub namespace_quota_bytes: Option<u64>,
    /// The same for these namespaces alone.
    pub namespace_quotas: BTreeMap<String, u64>,
    /// When less than this is free on the file system, nothing more is stored: the index, and whatever else is
    /// on that disk, needs room to go on. Default: 0.
    pub free_floor_bytes: u64,
    /// How many uploads may run at once; more wait in [`Store::ingest`]. Default: 64. Each holds about
    /// 10 MiB while bytes flow, and three threads.
    pub max_ingests: usize,
    /// How long an upload that comes in pieces is kept after its last pack was sealed. Default: 24 h, so that who
    /// was cut off in the evening goes on in the morning, and longer than a pack takes at the slowest rate at
    /// which a server listens.
    pub upload_ttl: Duration,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            pack_bytes: 64 * 1024 * 1024,
            compression_level: 1,
            follow_idle: Duration::from_secs(60),
            namespace_quota_bytes: None,
            namespace_quotas: BTreeMap::new(),
            free_floor_bytes: 0,
            max_ingests: 64,
            upload_ttl: Duration::from_hours(24),
        }
    }
}

/// A store of blobs in one directory. Cheap to clone; all clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

/// What readers and uploads of a store share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: PathBuf,
    packs_directory: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) index: Index,
    pub(crate) packs: PackFiles,
    pub(crate) appends: Appends,
    ingests: Arc<Semaphore>,
    /// How many reads found something corrupt.
    corrupt_reads: AtomicU64,
    pub(crate) usage: Usage,
    /// Held, shared, by whoever gives a pack its name and tells the index of it, and alone by whoever removes packs
    /// that the index does not know.
    pub(crate) naming: RwLock<()>,
    /// Held by the collector.
    pub(crate) collecting: Mutex<()>,
    /// Held as long as anything of the store lives.
    _lock: File,
}

impl Store {
    /// Opens the store in this directory, or makes one. What an earlier process left torn is removed; whole
    /// packs that the index does not name are left to the collector.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another process has it, [`Error::Format`] if a later version wrote it, or if there are packs
    /// and an index that names none, [`Error::Io`], [`Error::StorageFull`] or [`Error::Index`] if the disk refuses.
    pub async fn open(directory: &Path, options: StoreOptions) -> Result<Store, Error> {
        Store::open_on(Arc::new(RealDisk), directory, options).await
    }

    pub(crate) async fn open_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: StoreOptions,
    ) -> Result<Store, Error> {
        let packs_directory = directory.join(PACKS);
        let (lock, packs) = {
            let directory = directory.to_path_buf();
            let packs = packs_directory.clone();
            let disk = Arc::clone(&disk);
            tokio::task::spawn_blocking(move || prepare(disk.as_ref(), &directory, &packs))
                .await
                .map_err(|_| Error::Defect { part: "opening" })??
        };
        let index = Index::open(Arc::clone(&disk), &directory.join(INDEX)).await?;
        let is_in_use = index.is_in_use().await?;
        let believed = {
            let directory = directory.to_path_buf();
            let disk = Arc::clone(&disk);
            tokio::task::spawn_blocking(move || {
                believe(disk.as_ref(), &directory, packs, is_in_use)?;
                sync(disk.as_ref(), &directory)
            })
            .await
            .map_err(|_| Error::Defect { part: "opening" })?
        };
        if let Err(error) = believed {
            index.close().await;
            return Err(error);
        }
        Ok(Store {
            shared: Arc::new(Shared {
                directory: directory.to_path_buf(),
                packs: PackFiles::new(Arc::clone(&disk), packs_directory.clone()),
                packs_directory,
                appends: Appends::default(),
                ingests: Arc::new(Semaphore::new(options.max_ingests.max(1))),
                usage: Usage::default(),
                naming: RwLock::new(()),
                collecting: Mutex::new(()),
                options,
                corrupt_reads: AtomicU64::new(0),
                disk,
                index,
                _lock: lock,
            }),
        })
    }

    /// What all clones share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Begins a blob in a namespace (a project). Waits while too many uploads run.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`] if that is not one, [`Error::QuotaExceeded`] if it is full already,
    /// [`Error::FloorReached`] if the disk is, [`Error::Io`] if no thread can be started.
    pub async fn ingest(&self, namespace: &str) -> Result<Ingest, Error> {
        self.begin(namespace, Digests::Blake3).await
    }

    /// As [`ingest`](Store::ingest), and computes the blob's SHA-256 on the way: that takes a sixth of the time of
    /// all the rest, so it is for those who have something to compare it with.
    ///
    /// # Errors
    ///
    /// As [`ingest`](Store::ingest).
    pub async fn ingest_with_sha256(&self, namespace: &str) -> Result<Ingest, Error> {
        self.begin(namespace, Digests::WithSha256).await
    }

    async fn begin(&self, namespace: &str, digests: Digests) -> Result<Ingest, Error> {
        check_namespace(namespace)?;
        let permit = self.permit().await?;
        let charge = self.charge(namespace, 0).await?;
        let shared = Arc::clone(&self.shared);
        Ingest::start(shared, namespace.to_owned(), charge, permit, digests, None)
    }

    /// The SHA-256 of a complete blob: as it was recorded, or computed from what is stored.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and whatever reading it comes to.
    pub async fn sha256(&self, id: BlobId) -> Result<Digest, Error> {
        if let Some(known) = self.blob(id).await?.and_then(|info| info.sha256) {
            return Ok(known);
        }
        self.reader(id).await?.sha256_with(&[]).await
    }

    /// Begins to charge a namespace for an upload, of which `bytes` bytes are charged already.
    pub(crate) async fn charge(&self, namespace: &str, bytes: u64) -> Result<Arc<Charge>, Error> {
        self.check_room().await?;
        let quota = self.shared.options.quota_of(namespace);
        let (usage, index) = (&self.shared.usage, &self.shared.index);
        usage.charge(index, namespace, quota, bytes).await
    }

    /// Waits while too many uploads run.
    pub(crate) async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.shared.ingests)
            .acquire_owned()
            .await
            .map_err(|_| Error::Defect {
                part: "upload limit",
            })
    }

    /// Which of these chunks the namespace does not hold: for each, whether it has to be sent. Only the namespace's
    /// own complete blobs count.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn missing(&self, namespace: &str, chunks: &[ChunkId]) -> Result<Vec<bool>, Error> {
        let held = self.shared.index.held(namespace, chunks).await?;
        Ok(chunks.iter().map(|id| !held.contains_key(id)).collect())
    }

    /// Whether the namespace holds any chunk at all, so that it is worth asking which.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn holds_any(&self, namespace: &str) -> Result<bool, Error> {
        self.shared.index.holds_any(namespace).await
    }

    /// Begins to put a blob together from chunks that the namespace holds and chunks that are sent.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`] if that is not one, [`Error::Io`] or [`Error::StorageFull`] if the disk refuses.
    pub async fn assemble(&self, namespace: &str) -> Result<Assembly, Error> {
        check_namespace(namespace)?;
        Assembly::new(Arc::clone(&self.shared), namespace.to_owned()).await
    }

    /// Reads a complete blob; every chunk is verified.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no complete blob of this id.
    pub async fn reader(&self, id: BlobId) -> Result<Reader, Error> {
        let info = self.blob(id).await?.ok_or(Error::NotFound { id })?;
        Ok(Reader::complete(Arc::clone(&self.shared), id, info.bytes))
    }

    /// The chunk list of a complete blob.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no complete blob of this id, [`Error::Corrupt`] if the list is not
    /// whole.
    pub async fn manifest(&self, id: BlobId) -> Result<Manifest, Error> {
        let found = self.shared.index.blob(id).await?;
        let (blob, chunker) = found.ok_or(Error::NotFound { id })?;
        let mut list = ChunkList::new(Arc::clone(&self.shared), blob.clone(), chunker.clone());
        let mut chunks = Vec::new();
        while let Some(mut part) = list.next().await? {
            chunks.append(&mut part);
        }
        Ok(Manifest {
            blob,
            chunker,
            chunks,
        })
    }

    /// The chunk list of the namespace's newest complete blob with this BLAKE3, to be read a part at a time; `None` if
    /// it has none. What other namespaces have is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn list(&self, namespace: &str, blake3: &Digest) -> Result<Option<ChunkList>, Error> {
        let found = self.shared.index.blob_of(namespace, blake3).await?;
        Ok(found.map(|(blob, chunker)| ChunkList::new(Arc::clone(&self.shared), blob, chunker)))
    }

    /// What is known about a complete blob; `None` if there is none of this id.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn blob(&self, id: BlobId) -> Result<Option<BlobInfo>, Error> {
        let found = self.shared.index.blob(id).await?;
        Ok(found.map(|(info, _)| info))
    }

    /// Complete blobs in the order of their ids, from the one after `after`, at most `limit`: for whoever
    /// has to find those that nothing refers to. One that is an upload still, for somebody to take, is not among
    /// them.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn blobs(&self, after: Option<BlobId>, limit: u32) -> Result<Vec<BlobInfo>, Error> {
        let index = &self.shared.index;
        index.blobs_without_uploads(after, limit).await
    }

    /// What is known to be wrong. Cheap enough for every scrape of metrics: nothing is read but an index of what
    /// is quarantined. [`Store::check`] looks for what is not known yet.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn damage(&self) -> Result<Damage, Error> {
        let (chunks, packs) = self.shared.index.quarantined().await?;
        Ok(Damage {
            chunks,
            packs,
            reads: self.shared.corrupt_reads.load(Ordering::Relaxed),
        })
    }

    /// Forgets a complete blob, and says whether there was one. Its chunks wait for the collector.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] or [`Error::StorageFull`] if the index cannot be written.
    pub async fn remove(&self, id: BlobId) -> Result<bool, Error> {
        self.shared.usage.remove(&self.shared.index, id).await
    }

    /// How many bytes of complete blobs a namespace holds, each counted in full, shared or not.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn usage(&self, namespace: &str) -> Result<u64, Error> {
        self.shared.index.usage(namespace).await
    }

    /// Refuses when less room is free than [`StoreOptions::free_floor_bytes`]; uploads ask this by themselves.
    ///
    /// # Errors
    ///
    /// [`Error::FloorReached`], or [`Error::Io`] if the file system does not say.
    pub async fn check_room(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.check_room())
            .await
            .map_err(|_| Error::Defect { part: "free space" })?
    }
}

/// What is known to be wrong in a store, and what its reads came upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Chunks that are quarantined: read and found wrong, and not brought again since.
    pub chunks: u64,
    /// Packs that are known to be gone.
    pub packs: u64,
    /// How many reads found something corrupt since the store was opened.
    pub reads: u64,
}

impl Shared {
    pub(crate) fn packs_directory(&self) -> &Path {
        &self.packs_directory
    }

    /// Marks what a read found to be wrong, so that the next upload that has it heals it, and reports it.
    pub(crate) async fn quarantine(&self, suspect: Suspect, error: &Error) {
        self.corrupt_reads.fetch_add(1, Ordering::Relaxed);
        match self.index.quarantine(suspect).await {
            Ok(()) => tracing::error!(
                event = "blobs.quarantined",
                ?suspect,
                %error,
                "what was read is corrupt; it is quarantined until the next upload that has it"
            ),
            // The reader is told of the chunk. Who reads it again tries this again.
            Err(failure) => tracing::error!(
                event = "blobs.corrupt",
                ?suspect,
                %error,
                %failure,
                "what was read is corrupt, and it could not be quarantined"
            ),
        }
    }

    /// Where the pack of this name is.
    pub(crate) fn pack_path(&self, name: Uuid) -> PathBuf {
        self.packs_directory.join(pack::pack_file_name(name))
    }

    /// Removes a pack's file, if it is there. Blocks.
    pub(crate) fn remove_pack(&self, name: Uuid) -> Result<(), Error> {
        let path = self.pack_path(name);
        match self.disk.remove(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| Error::io("removing the pack", &path, source)),
        }
    }

    /// Makes the names of the packs durable, and that those which were removed are gone. Blocks.
    pub(crate) fn sync_packs(&self) -> Result<(), Error> {
        sync(self.disk.as_ref(), &self.packs_directory)
    }

    /// When an upload that came this far at `now` is forgotten, both in milliseconds since 1970.
    pub(crate) fn upload_expiry(&self, now: i64) -> i64 {
        let ttl = i64::try_from(self.options.upload_ttl.as_millis()).unwrap_or(i64::MAX);
        now.saturating_add(ttl)
    }

    /// Why the index has no part of a manifest: the blob is gone, or the index is damaged.
    pub(crate) async fn missing_part(&self, id: BlobId, position: u64) -> Error {
        match self.index.blob(id).await {
            Ok(None) => Error::NotFound { id },
            Ok(Some(_)) => Error::Corrupt {
                what: format!("the manifest of blob {id}"),
                place: "the index".to_owned(),
                detail: format!("nothing covers byte {position}"),
            },
            Err(error) => error,
        }
    }
}

pub(crate) fn check_namespace(namespace: &str) -> Result<(), Error> {
    let bytes = namespace.len();
    if (1..=MAX_NAMESPACE_BYTES).contains(&bytes) {
        Ok(())
    } else {
        Err(Error::Namespace { bytes })
    }
}

/// Makes the directories, takes the lock, removes what is torn; says how many packs there are. Blocks.
fn prepare(disk: &dyn Disk, directory: &Path, packs: &Path) -> Result<(File, u64), Error> {
    disk.create_directory(packs)
        .map_err(|source| Error::io("making", packs, source))?;
    let lock = lock(directory, LOCK_PATIENCE)?;
    let mut whole = 0_u64;
    let listed = disk.list(packs);
    for path in listed.map_err(|source| Error::io("listing", packs, source))? {
        whole += u64::from(path.extension().is_some_and(|end| end == pack::EXTENSION));
        if path.extension().is_some_and(|end| end == pack::TEMPORARY) {
            disk.remove(&path)
                .map_err(|source| Error::io("removing the torn pack", &path, source))?;
        }
    }
    // An empty index over packs would look like a store without blobs.
    if whole > 0 {
        match directory.join(INDEX).metadata() {
            Ok(metadata) if metadata.len() > 0 => {}
            Ok(_) => return Err(not_the_index(directory, "it is empty", whole)),
            Err(_) => return Err(not_the_index(directory, "it is missing", whole)),
        }
    }
    for path in leavings(&directory.join(REBUILT)) {
        disk.remove(&path)
            .map_err(|source| Error::io("removing the unfinished index", &path, source))?;
    }
    sync(disk, packs)?;
    if let Some(parent) = directory.parent() {
        sync(disk, parent)?;
    }
    Ok((lock, whole))
}

/// Refuses an index that names no pack if there are packs and one has named some: it is another, or an old copy, and all
/// that it does not know would be taken for litter. Blocks.
fn believe(disk: &dyn Disk, directory: &Path, packs: u64, is_in_use: bool) -> Result<(), Error> {
    let mark = index::mark(directory);
    match (is_in_use, packs) {
        (true, _) => index::make_mark(disk, directory),
        (false, 0) if mark.exists() => disk
            .remove(&mark)
            .map_err(|source| Error::io("removing", &mark, source)),
        (false, packs) if mark.exists() => Err(not_the_index(directory, "it names no pack", packs)),
        // New, or its first upload died.
        (false, _) => Ok(()),
    }
}

fn not_the_index(directory: &Path, why: &str, packs: u64) -> Error {
    Error::Format {
        path: directory.join(INDEX),
        detail: format!(
            "{why}, and there are {packs} packs: put it back, or make it anew with cofferdam store reindex"
        ),
    }
}

fn sync(disk: &dyn Disk, directory: &Path) -> Result<(), Error> {
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    disk.sync_directory(directory)
        .map_err(|source| Error::io("syncing the directory", directory, source))
}

/// The files that `SQLite` keeps beside an index.
pub(crate) fn beside_index(index: &Path) -> [PathBuf; 3] {
    ["-wal", "-shm", "-journal"].map(|end| {
        let mut path = index.as_os_str().to_owned();
        path.push(end);
        PathBuf::from(path)
    })
}

/// What there is of an index that was being built when its process ended.
pub(crate) fn leavings(rebuilt: &Path) -> Vec<PathBuf> {
    std::iter::once(rebuilt.to_path_buf())
        .chain(beside_index(rebuilt))
        .filter(|path| path.exists())
        .collect()
}

/// Takes the store's lock, waiting at most this long for whoever has it.
pub(crate) fn lock(directory: &Path, patience: Duration) -> Result<File, Error> {
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| Error::io("opening", &path, source))?;
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(Error::io("locking", &path, source)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked {
                    path: directory.to_path_buf(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
