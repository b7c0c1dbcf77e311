//! A disk that does to the n-th operation what a test says, and that knows what a power cut would leave.
//!
//! The store works on real files below it. Beside them it keeps, for every file, how much of it was synced, and
//! for every directory, which names were: [`FaultyDisk::lose_power`] makes a copy that has just these. What `SQLite`
//! writes of the index is copied as it is: it syncs each commit before it returns (a test of the index holds it to that).
//! But not of an index that is being built: of that one, only what was synced through here is durable.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, RealDisk};
use crate::store::{PACKS, REBUILT};

/// No space left on device.
pub(crate) const ENOSPC: i32 = 28;
/// Input/output error.
pub(crate) const EIO: i32 = 5;
/// Permission denied.
pub(crate) const EACCES: i32 = 13;
/// Read-only file system.
pub(crate) const EROFS: i32 = 30;

/// What changes a disk. Reading and listing are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    CreateDirectory,
    Create,
    Append,
    Sync,
    Rename,
    SyncDirectory,
    Remove,
    Commit,
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails with this error number, and the next one is well again. Half of a write is written.
    Once(i32),
    /// It fails with this error number, and so does every later one until [`FaultyDisk::mend`].
    Lasting(i32),
    /// It happens, and is said to have failed with this error number.
    Late(i32),
    /// It does not happen, and nothing does from there on: the process was killed before it.
    Kill,
    /// As [`Fault::Kill`], and half of a write was written.
    Tear,
}

/// What the power takes with it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PowerCut {
    /// All that was not synced.
    Everything,
    /// Some of what was not synced, chosen by this seed: disks write what they were not told to.
    Something(u64),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FaultyDisk {
    /// Keeps every file that was ever made, by its inode.
    kept: PathBuf,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many operations came since the fault was set.
    count: usize,
    fault: Option<(usize, Fault)>,
    dead: bool,
    /// What the commit that is being made is to be told afterwards.
    late: Option<io::Error>,
    /// Is said to have happened, and does not.
    swallowed: Option<Operation>,
    /// Takes this long, each time.
    slow: Option<(Operation, Duration)>,
    /// Does not return while this stands.
    stalled: Option<Operation>,
    /// How many wait for that.
    waiting: usize,
    /// Reads that fail with this error number.
    unreadable: Option<i32>,
    seen: HashMap<Operation, usize>,
    /// How many bytes of a file are durable, by its inode.
    synced: HashMap<u64, u64>,
    /// Which names are durable, and what they mean.
    names: HashMap<PathBuf, HashMap<OsString, u64>>,
    /// Indexes that were built beside another one, by their inodes: `SQLite` was told not to sync them.
    built: HashSet<u64>,
}

/// What an operation is to do.
enum Verdict {
    Go,
    Pretend,
    Late(io::Error),
    Fail { error: io::Error, half: bool },
}

impl FaultyDisk {
    /// A sound disk, for now. What it remembers is kept in this directory, which must be on the same file system.
    pub(crate) fn new(kept: &Path) -> FaultyDisk {
        fs::create_dir_all(kept).unwrap();
        FaultyDisk {
            kept: kept.to_path_buf(),
            state: Mutex::default(),
            released: Condvar::new(),
        }
    }

    /// Counts operations from here on, and does this to the n-th (from 0).
    pub(crate) fn set(&self, n: usize, fault: Fault) {
        let mut state = self.state();
        state.count = 0;
        state.fault = Some((n, fault));
    }

    /// The disk is sound again.
    pub(crate) fn mend(&self) {
        let mut state = self.state();
        state.fault = None;
        state.swallowed = None;
        state.slow = None;
        state.stalled = None;
        state.unreadable = None;
        drop(state);
        self.released.notify_all();
    }

    /// Whether the operation that [`FaultyDisk::set`] named has come.
    pub(crate) fn reached(&self) -> bool {
        let state = self.state();
        state.fault.is_some_and(|(n, _)| state.count > n)
    }

    /// From here on this operation is said to have happened, and does not.
    pub(crate) fn swallow(&self, operation: Operation) {
        self.state().swallowed = Some(operation);
    }

    /// From here on this operation takes at least this long.
    pub(crate) fn slow_down(&self, operation: Operation, by: Duration) {
        self.state().slow = Some((operation, by));
    }

    /// From here on this operation does not return, until [`FaultyDisk::mend`].
    pub(crate) fn stall(&self, operation: Operation) {
        self.state().stalled = Some(operation);
    }

    /// How many operations do not return.
    pub(crate) fn stalled(&self) -> usize {
        self.state().waiting
    }

    /// From here on no file can be read.
    pub(crate) fn fail_reads(&self, error: i32) {
        self.state().unreadable = Some(error);
    }

    /// How often this operation has come.
    pub(crate) fn seen(&self, operation: Operation) -> usize {
        self.state().seen.get(&operation).copied().unwrap_or(0)
    }

    /// What is found in `from`, a directory of a store, after a power cut now: made in `to`.
    pub(crate) fn lose_power(&self, from: &Path, to: &Path, cut: PowerCut) {
        let state = self.state();
        let mut chance = match cut {
            PowerCut::Everything => None,
            PowerCut::Something(seed) => Some(seed),
        };
        let packs = to.join("packs");
        fs::create_dir_all(&packs).unwrap();
        for (name, inode) in self.root_names(&state, from, chance.as_mut()) {
            let path = from.join(&name);
            let kept = self.kept_file(inode);
            let is_here = path.metadata().is_ok_and(|found| found.ino() == inode);
            let Ok(mut bytes) = fs::read(if is_here { path } else { kept }) else {
                // A connection that closes late has removed the log.
                continue;
            };
            let is_ours = state.built.contains(&inode) || state.synced.contains_key(&inode);
            if is_ours && !chance.as_mut().is_some_and(coin) {
                let synced = state.synced.get(&inode).copied().unwrap_or_default();
                bytes.truncate(usize::try_from(synced).unwrap());
            }
            fs::write(to.join(name), bytes).unwrap();
        }
        let from = from.join("packs");
        let mut names = state.names.get(&from).cloned().unwrap_or_default();
        if let Some(seed) = &mut chance {
            // In the order of their names, so that the same seed is the same cut.
            let now = known_names(&from, &state.synced);
            let mut touched: Vec<_> = now.keys().chain(names.keys()).cloned().collect();
            touched.sort();
            touched.dedup();
            for name in touched {
                if coin(seed) {
                    match now.get(&name) {
                        Some(inode) => names.insert(name, *inode),
                        None => names.remove(&name),
                    };
                }
            }
        }
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort();
        for (name, inode) in names {
            let bytes = fs::read(self.kept_file(inode)).unwrap();
            let synced = usize::try_from(state.synced[&inode]).unwrap();
            let mut left = bytes[..synced].to_vec();
            if let Some(seed) = &mut chance
                && coin(seed)
            {
                // The length may have been written and the bytes not.
                left = bytes.clone();
                if coin(seed) {
                    left[synced..].fill(0);
                }
            }
            fs::write(packs.join(name), left).unwrap();
        }
    }

    /// The names that are left in the store's own directory, and what they mean. The index's log comes before the index: a
    /// connection that is still closing may write the one back into the other meanwhile, and doing so twice changes
    /// nothing.
    fn root_names(
        &self,
        state: &State,
        from: &Path,
        mut chance: Option<&mut u64>,
    ) -> Vec<(OsString, u64)> {
        let now = all_names(from);
        let mut names = state.names.get(from).cloned().unwrap_or_default();
        // What `SQLite` removes and makes is durable when it says so.
        let is_log = |name: &OsString| name.to_string_lossy().ends_with("-wal");
        names.retain(|name, inode| !is_log(name) || self.kept_file(*inode).exists());
        let mut touched: Vec<&OsString> = now.keys().chain(names.keys()).collect();
        touched.sort();
        touched.dedup();
        let mut left = names.clone();
        for name in touched {
            let new = now.get(name);
            let is_logged = is_log(name) && new.is_some();
            if is_logged || chance.as_mut().is_some_and(|seed| coin(seed)) {
                match new {
                    Some(inode) => left.insert(name.clone(), *inode),
                    None => left.remove(name),
                };
            }
        }
        let mut left: Vec<_> = left.into_iter().collect();
        left.retain(|(name, _)| name != "lock" && !name.to_string_lossy().ends_with("-shm"));
        left.sort_by_key(|(name, _)| (!is_log(name), name.clone()));
        left
    }

    /// Keeps a file whose name is about to go: the power may bring it back.
    fn keep(&self, path: &Path) {
        if let Ok(metadata) = path.metadata() {
            let kept = self.kept_file(metadata.ino());
            if !kept.exists() {
                fs::hard_link(path, kept).unwrap();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_file(&self, inode: u64) -> PathBuf {
        self.kept.join(inode.to_string())
    }

    /// Counts an operation and says what becomes of it.
    fn arrive(&self, operation: Operation) -> Verdict {
        let mut state = self.state();
        *state.seen.entry(operation).or_default() += 1;
        let slow = state.slow.filter(|(which, _)| *which == operation);
        while state.stalled == Some(operation) {
            state.waiting += 1;
            state = self
                .released
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        if state.dead {
            return killed(false);
        }
        let n = state.count;
        state.count += 1;
        // A full disk is no hindrance to removing a file.
        let spared = |error| error == ENOSPC && operation == Operation::Remove;
        let verdict = match state.fault {
            Some((at, Fault::Once(error))) if n == at && !spared(error) => fails(error),
            Some((at, Fault::Lasting(error))) if n >= at && !spared(error) => fails(error),
            Some((at, Fault::Late(error))) if n == at => {
                Verdict::Late(io::Error::from_raw_os_error(error))
            }
            Some((at, fault @ (Fault::Kill | Fault::Tear))) if n >= at => {
                state.dead = true;
                killed(fault == Fault::Tear)
            }
            _ if state.swallowed == Some(operation) => Verdict::Pretend,
            _ => Verdict::Go,
        };
        drop(state);
        if let Some((_, by)) = slow {
            std::thread::sleep(by);
        }
        verdict
    }

    fn change(
        &self,
        operation: Operation,
        work: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        match self.arrive(operation) {
            Verdict::Go => work(),
            Verdict::Pretend => Ok(()),
            Verdict::Late(error) => work().and(Err(error)),
            Verdict::Fail { error, .. } => Err(error),
        }
    }

    fn readable(&self) -> io::Result<()> {
        match self.state().unreadable {
            Some(error) => Err(io::Error::from_raw_os_error(error)),
            None => Ok(()),
        }
    }
}

fn fails(error: i32) -> Verdict {
    Verdict::Fail {
        error: io::Error::from_raw_os_error(error),
        half: true,
    }
}

fn killed(half: bool) -> Verdict {
    Verdict::Fail {
        error: io::Error::other("the process is dead"),
        half,
    }
}

/// Heads or tails (splitmix64).
fn coin(state: &mut u64) -> bool {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (word ^ (word >> 27)) >> 63 == 1
}

/// The names of all files in a directory.
fn all_names(directory: &Path) -> HashMap<OsString, u64> {
    fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().ok()?;
            metadata
                .is_file()
                .then(|| (entry.file_name(), metadata.ino()))
        })
        .collect()
}

/// The names in a directory of files that this disk has made.
fn known_names(directory: &Path, synced: &HashMap<u64, u64>) -> HashMap<OsString, u64> {
    let Ok(entries) = fs::read_dir(directory) else {
        return HashMap::new();
    };
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name(), entry.metadata().unwrap().ino()))
        .filter(|(_, inode)| synced.contains_key(inode))
        .collect()
}

impl Disk for FaultyDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::CreateDirectory, || {
            RealDisk.create_directory(path)
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let late = match self.arrive(Operation::Create) {
            Verdict::Go | Verdict::Pretend => None,
            Verdict::Late(error) => Some(error),
            Verdict::Fail { error, .. } => return Err(error),
        };
        let file = RealDisk.create(path)?;
        let inode = file.metadata()?.ino();
        fs::hard_link(path, self.kept_file(inode)).unwrap();
        self.state().synced.insert(inode, 0);
        late.map_or(Ok(file), Err)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.readable()?;
        RealDisk.open(path)
    }

    fn read_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.readable()?;
        RealDisk.read_at(file, bytes, offset)
    }

    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        match self.arrive(Operation::Append) {
            Verdict::Go => RealDisk.append(file, bytes),
            Verdict::Pretend => Ok(()),
            Verdict::Late(error) => RealDisk.append(file, bytes).and(Err(error)),
            Verdict::Fail { error, half } => {
                if half {
                    RealDisk.append(file, &bytes[..bytes.len() / 2])?;
                }
                Err(error)
            }
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.change(Operation::Sync, || {
            let metadata = file.metadata()?;
            self.state().synced.insert(metadata.ino(), metadata.len());
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Operation::Rename, || {
            self.keep(from);
            self.keep(to);
            RealDisk.rename(from, to)
        })
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::SyncDirectory, || {
            let mut state = self.state();
            // In the directory of the packs every file is ours.
            let names = if path.ends_with(PACKS) {
                known_names(path, &state.synced)
            } else {
                all_names(path)
            };
            state.names.insert(path.to_path_buf(), names);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::Remove, || {
            self.keep(path);
            RealDisk.remove(path)
        })
    }

    fn before_commit(&self, index: &Path) -> io::Result<()> {
        if index.ends_with(REBUILT)
            && let Ok(metadata) = index.metadata()
        {
            self.state().built.insert(metadata.ino());
        }
        match self.arrive(Operation::Commit) {
            Verdict::Go | Verdict::Pretend => Ok(()),
            Verdict::Late(error) => {
                self.state().late = Some(error);
                Ok(())
            }
            Verdict::Fail { error, .. } => Err(error),
        }
    }

    fn after_commit(&self) -> io::Result<()> {
        self.state().late.take().map_or(Ok(()), Err)
    }
}
