//! Every order of the steps of an upload, a remover, a reader and the collector.
//!
//! Each of them runs the store's own code on a thread of its own, and stops before each of its steps: before it
//! asks the index or changes it, and before it names, opens or removes a file. One at a time is let go, to its
//! next stop; which one, a schedule says. All schedules are run, each in a store of its own, and at every state
//! that comes up on the way the store is copied as a killed process would leave it, opened, read and collected.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::*;
use crate::Ingest;
use crate::disk::{Disk, RealDisk};

/// Who takes the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Actor {
    Uploader,
    Collector,
    Reader,
    Remover,
}

impl Actor {
    /// The threads that an upload starts have names of their own.
    fn of_this_thread() -> Option<Actor> {
        match thread::current().name()? {
            "blob-packer" | "blob-sealer" | "uploader" => Some(Actor::Uploader),
            "collector" => Some(Actor::Collector),
            "reader" => Some(Actor::Reader),
            "remover" => Some(Actor::Remover),
            _ => None,
        }
    }

    fn thread(self) -> &'static str {
        match self {
            Actor::Uploader => "uploader",
            Actor::Collector => "collector",
            Actor::Reader => "reader",
            Actor::Remover => "remover",
        }
    }
}

/// The real disk, with a stop before every step.
#[derive(Debug, Default)]
struct Stage {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Nobody stops before the play begins, nor after it.
    open: bool,
    stopped: HashMap<Actor, &'static str>,
    gone: HashSet<Actor>,
    next: Option<Actor>,
    panicked: bool,
}

impl Stage {
    /// Stops the thread here until it is its turn.
    fn step(&self, what: &'static str) {
        let Some(actor) = Actor::of_this_thread() else {
            return;
        };
        let mut state = self.state.lock().unwrap();
        if state.open {
            return;
        }
        state.stopped.insert(actor, what);
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| !state.open && state.next != Some(actor))
            .unwrap();
        state.next = None;
        state.stopped.remove(&actor);
    }

    fn leave(&self, actor: Actor) {
        let mut state = self.state.lock().unwrap();
        state.gone.insert(actor);
        state.panicked |= thread::panicking();
        self.changed.notify_all();
    }

    /// Waits until each of these has stopped or gone, and says who has stopped.
    fn settled(&self, actors: &[Actor]) -> Vec<Actor> {
        let busy = |state: &mut State| {
            let idle = |actor: &Actor| {
                state.gone.contains(actor)
                    || (state.stopped.contains_key(actor) && state.next != Some(*actor))
            };
            !actors.iter().all(idle)
        };
        let state = self.state.lock().unwrap();
        let state = self.changed.wait_while(state, busy).unwrap();
        assert!(!state.panicked, "an actor failed: see above");
        let mut stopped: Vec<Actor> = actors
            .iter()
            .filter(|actor| state.stopped.contains_key(actor))
            .copied()
            .collect();
        stopped.sort_unstable();
        stopped
    }

    fn go(&self, actor: Actor) {
        self.state.lock().unwrap().next = Some(actor);
        self.changed.notify_all();
    }

    /// From here on nobody stops.
    fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }
}

impl Disk for Stage {
    fn before_turn(&self, action: &'static str) {
        self.step(action);
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        if Actor::of_this_thread() == Some(Actor::Reader) {
            self.step("opening a pack");
        }
        RealDisk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("naming a pack");
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("removing a pack");
        RealDisk.remove(path)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<File> {
        RealDisk.create(path)
    }
    fn read_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        RealDisk.read_at(file, bytes, offset)
    }
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        RealDisk.append(file, bytes)
    }
    // Which syncs are needed is for the tests with a power cut; here they would only take time.
    fn sync(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }
    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    fn before_commit(&self, _index: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// A store that is copied for each schedule, and what the actors do to it.
struct Play {
    template: tempfile::TempDir,
    /// What has to be there whatever happens.
    kept: BTreeMap<BlobId, Vec<u8>>,
    /// What the remover removes.
    removed: Option<BlobId>,
    /// What the uploader brings.
    brought: Vec<u8>,
    actors: Vec<Actor>,
    /// How often an actor that could go on is held back for another one, at most: where all orders are too many, those
    /// that differ in a few places from one in which each goes on while it can.
    switches: usize,
}

/// What was seen over all schedules.
#[derive(Debug, Default)]
struct Seen {
    schedules: usize,
    /// States of the store, by what its index and its directory say.
    states: HashSet<String>,
}

impl Play {
    async fn new(blobs: &[(&[u8], bool)], brought: &[u8], actors: &[Actor]) -> Play {
        // In memory where there is such a place: thousands of commits are synced.
        let memory = Path::new("/dev/shm");
        let template = if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let directory = template.path().join("template");
        let store = open(&directory).await;
        let kept = filled(&store, blobs).await;
        let mut shared = Arc::clone(&store.shared);
        drop(store);
        // Connections that go at the same time may each leave the log to the other; closed in turn, they do not.
        let shared = loop {
            match Arc::try_unwrap(shared) {
                Ok(last) => break last,
                Err(again) => shared = again,
            }
            tokio::task::yield_now().await;
        };
        shared.index.close().await;
        assert!(!directory.join("index.db-wal").exists());
        Play {
            template,
            kept,
            removed: None,
            brought: brought.to_vec(),
            actors: actors.to_vec(),
            switches: usize::MAX,
        }
    }

    /// Runs every schedule: each begins as the one before it did, up to the last place where another actor could
    /// have gone.
    fn run(&self) -> Seen {
        let mut seen = Seen::default();
        let mut schedule: Vec<(Actor, Vec<Actor>)> = Vec::new();
        loop {
            let taken: Vec<Actor> = schedule.iter().map(|(actor, _)| *actor).collect();
            let choices = self.perform(&taken, &mut seen);
            seen.schedules += 1;
            // What was taken was chosen before; from there on the first one went each time.
            let (mut before, mut switches) = (None, 0);
            for (at, choice) in choices.iter().enumerate() {
                let could_go_on = before == Some(choice[0]);
                if at == schedule.len() {
                    let others = match could_go_on && switches == self.switches {
                        true => Vec::new(),
                        false => choice[1..].to_vec(),
                    };
                    schedule.push((choice[0], others));
                }
                switches += usize::from(could_go_on && schedule[at].0 != choice[0]);
                before = Some(schedule[at].0);
            }
            loop {
                let Some((_, others)) = schedule.last_mut() else {
                    return seen;
                };
                if others.is_empty() {
                    schedule.pop();
                } else {
                    let next = others.remove(0);
                    schedule.last_mut().unwrap().0 = next;
                    break;
                }
            }
        }
    }

    /// Performs one schedule, and says who could have gone at each of its steps: first whoever had gone before.
    fn perform(&self, schedule: &[Actor], seen: &mut Seen) -> Vec<Vec<Actor>> {
        let directory = tempfile::tempdir_in(self.template.path()).unwrap();
        copy(&self.template.path().join("template"), directory.path());
        let runtime = runtime("stage");
        let stage = Arc::new(Stage::default());
        let store = runtime
            .block_on(Store::open_on(
                Arc::clone(&stage) as _,
                directory.path(),
                small_packs(),
            ))
            .unwrap();
        // Whoever begins an upload and whoever removes a blob wait for each other, without a stop in between.
        let ingest = {
            let _runtime = runtime.enter();
            let uploads = self.actors.contains(&Actor::Uploader);
            let ingest = uploads.then(|| runtime.block_on(store.ingest("blog")).unwrap());
            Mutex::new(ingest)
        };
        let mut choices = Vec::new();
        let mut taken = Vec::new();
        let uploaded = thread::scope(|scope| {
            let threads: Vec<_> = self
                .actors
                .iter()
                .map(|actor| {
                    let (stage, store, ingest) = (Arc::clone(&stage), store.clone(), &ingest);
                    thread::Builder::new()
                        .name(actor.thread().to_owned())
                        .spawn_scoped(scope, move || self.act(*actor, &store, &stage, ingest))
                        .unwrap()
                })
                .collect();
            // Whatever fails here, the others must not wait for ever.
            let opened = OnDrop(&stage);
            loop {
                let mut stopped = stage.settled(&self.actors);
                if stopped.is_empty() {
                    break;
                }
                if let Some(at) = stopped.iter().position(|actor| taken.last() == Some(actor)) {
                    stopped[..=at].rotate_right(1);
                }
                let next = schedule.get(taken.len()).copied().unwrap_or(stopped[0]);
                if taken.len() >= schedule.len() {
                    // Where no schedule has been yet.
                    self.crash(directory.path(), &taken, seen);
                }
                choices.push(stopped);
                taken.push(next);
                stage.go(next);
            }
            drop(opened);
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect::<Vec<BlobInfo>>()
        });
        let mut blobs = self.kept.clone();
        blobs.extend(uploaded.iter().map(|info| (info.id, self.brought.clone())));
        runtime.block_on(async {
            assert_whole(&store, &blobs, &format!("{taken:?}")).await;
            collect(&store).await;
            assert_whole(&store, &blobs, &format!("{taken:?}, collected")).await;
            assert_tidy(directory.path(), &format!("{taken:?}")).await;
        });
        choices
    }

    /// What an actor does, from its first step to its last.
    fn act(
        &self,
        actor: Actor,
        store: &Store,
        stage: &Stage,
        ingest: &Mutex<Option<Ingest>>,
    ) -> Option<BlobInfo> {
        struct Leave<'a>(&'a Stage, Actor);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.leave(self.1);
            }
        }
        let _leave = Leave(stage, actor);
        runtime(actor.thread()).block_on(async {
            match actor {
                Actor::Uploader => {
                    let mut ingest = ingest.lock().unwrap().take().unwrap();
                    let brought = Bytes::copy_from_slice(&self.brought);
                    ingest.write(brought).await.unwrap();
                    return Some(ingest.finish().await.unwrap());
                }
                Actor::Collector => {
                    // Orphans have a test of their own.
                    store.collect(CollectOptions::default()).await.unwrap();
                }
                Actor::Reader => {
                    let (id, data) = self.kept.first_key_value().unwrap();
                    assert!(read(store, *id).await.unwrap() == *data);
                }
                Actor::Remover => assert!(store.remove(self.removed.unwrap()).await.unwrap()),
            }
            None
        })
    }

    /// Looks at the store as if every process had been killed here.
    fn crash(&self, directory: &Path, taken: &[Actor], seen: &mut Seen) {
        let runtime = runtime("crash");
        let when = format!("killed after {taken:?}");
        runtime.block_on(async {
            if !seen.states.insert(state(directory).await) {
                return;
            }
            let after = tempfile::tempdir_in(self.template.path()).unwrap();
            copy(directory, after.path());
            let store = open(after.path()).await;
            let mut blobs = self.kept.clone();
            // What is complete must be whole, acknowledged or not.
            for blob in store.blobs(None, 10).await.unwrap() {
                if Some(blob.id) != self.removed && !blobs.contains_key(&blob.id) {
                    blobs.insert(blob.id, self.brought.clone());
                }
            }
            assert_whole(&store, &blobs, &when).await;
            collect(&store).await;
            assert_whole(&store, &blobs, &format!("{when}, collected")).await;
            assert_tidy(after.path(), &when).await;
        });
    }
}

struct OnDrop<'a>(&'a Stage);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A runtime whose threads, those that may block too, have this name.
fn runtime(name: &str) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(name)
        .build()
        .unwrap()
}

/// Copies a store at rest, but for its lock and what the processes that have it open share.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("packs")).unwrap();
    for name in ["index.db", "index.db-wal"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
    for path in packs(from) {
        fs::copy(&path, to.join("packs").join(path.file_name().unwrap())).unwrap();
    }
}

/// What the index and the directory say, without names and times.
async fn state(directory: &Path) -> String {
    const SAYS: &str = "SELECT \
        (SELECT json_group_array(json_array(id, entries, state, round)) FROM \
            (SELECT * FROM pack ORDER BY id)) || \
        (SELECT json_group_array(json_array(hex(id), pack, offset)) FROM \
            (SELECT * FROM chunk ORDER BY id)) || \
        (SELECT json_group_array(json_array(pack)) FROM (SELECT * FROM lease ORDER BY pack)) || \
        (SELECT COUNT(*) FROM blob) || '-' || (SELECT COUNT(*) FROM manifest) || '-' || \
        (SELECT round FROM collection)";
    let mut index = index(directory).await;
    let says: String = sqlx::query_scalar(SAYS)
        .fetch_one(&mut index)
        .await
        .unwrap();
    index.close().await.unwrap();
    let mut files: Vec<(u64, String)> = packs(directory)
        .iter()
        .map(|path| {
            let end = path.extension().unwrap().to_string_lossy().into_owned();
            (path.metadata().unwrap().len(), end)
        })
        .collect();
    files.sort();
    format!("{says}{files:?}")
}

#[tokio::test]
async fn an_upload_that_finds_dead_chunks_beside_a_collector_that_takes_them() {
    let old = noise(1, 150_000);
    let brought = [&old[..], &noise(2, 60_000)].concat();
    let play = Play::new(
        &[(&old, false)],
        &brought,
        &[Actor::Uploader, Actor::Collector],
    )
    .await;
    let seen = tokio::task::spawn_blocking(move || play.run())
        .await
        .unwrap();
    println!("{} schedules, {} states", seen.schedules, seen.states.len());
    assert!(seen.schedules > 100, "{}", seen.schedules);
}

#[tokio::test]
async fn an_upload_that_finds_dead_chunks_beside_a_collector_that_copies_the_living() {
    let old = noise(1, 360_000);
    let kept = &old[..60_000];
    let brought = [&old[100_000..200_000], &noise(2, 30_000)].concat();
    let blobs: [(&[u8], bool); 2] = [(&old, false), (kept, true)];
    let play = Play::new(&blobs, &brought, &[Actor::Uploader, Actor::Collector]).await;
    let seen = tokio::task::spawn_blocking(move || play.run())
        .await
        .unwrap();
    println!("{} schedules, {} states", seen.schedules, seen.states.len());
    assert!(seen.schedules > 100, "{}", seen.schedules);
}

#[tokio::test]
async fn an_upload_that_finds_what_a_remover_gives_up_beside_a_collector() {
    let old = noise(1, 100_000);
    let mut play = Play::new(
        &[(&old, true)],
        &old,
        &[Actor::Uploader, Actor::Collector, Actor::Remover],
    )
    .await;
    play.removed = play.kept.pop_first().map(|(id, _)| id);
    let seen = tokio::task::spawn_blocking(move || play.run())
        .await
        .unwrap();
    println!("{} schedules, {} states", seen.schedules, seen.states.len());
    assert!(seen.schedules > 100, "{}", seen.schedules);
}

#[tokio::test]
async fn a_reader_beside_a_collector_that_copies_what_it_reads() {
    let old = noise(1, 360_000);
    let blobs: [(&[u8], bool); 2] = [(&old, false), (&old[..60_000], true)];
    let play = Play::new(&blobs, b"", &[Actor::Reader, Actor::Collector]).await;
    let seen = tokio::task::spawn_blocking(move || play.run())
        .await
        .unwrap();
    println!("{} schedules, {} states", seen.schedules, seen.states.len());
    assert!(seen.schedules > 20, "{}", seen.schedules);
}

#[tokio::test]
async fn an_upload_and_a_reader_beside_a_collector_that_copies_what_both_lean_on() {
    let old = noise(1, 100_000);
    let blobs: [(&[u8], bool); 2] = [(&old, false), (&old[..20_000], true)];
    let actors = [Actor::Uploader, Actor::Reader, Actor::Collector];
    let mut play = Play::new(&blobs, &old, &actors).await;
    play.switches = 3;
    let seen = tokio::task::spawn_blocking(move || play.run())
        .await
        .unwrap();
    println!("{} schedules, {} states", seen.schedules, seen.states.len());
    assert!(seen.schedules > 500, "{}", seen.schedules);
}
