//! The one task that writes a log.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    EventError, Reservation,
    batch::{Appended, Batch, Lost, write_at},
    line::{self, EventKind, Pen},
    log::Log,
};

/// How long an event may wait for others to be written with it. Short enough to seem live.
const BATCH_TIME: Duration = Duration::from_millis(10);

/// Events written at once at most.
const BATCH_EVENTS: usize = 256;

/// Bytes of events after which a batch is written, full or not.
const BATCH_BYTES: usize = 256 * 1024;

/// Bytes of events that may wait to be written; whoever appends more waits. Two large events, or
/// some ten thousand lines.
const WAITING_BYTES: usize = 2 << 20;

/// Events that may wait to be written.
const WAITING_EVENTS: usize = 2 * BATCH_EVENTS;

type Reply = oneshot::Sender<Result<(), EventError>>;

#[derive(Debug)]
enum Command {
    Append(Appended),
    Flush(Reply),
    Sync(Reply),
    Close(Reply),
}

/// Appends to one log. Clones append to the same log; when the last is dropped, what was appended is
/// written and the log closed.
#[derive(Debug, Clone)]
pub struct EventWriter {
    log: Arc<Log>,
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    flags: Arc<Flags>,
}

/// What the task tells those who append.
#[derive(Debug, Default)]
struct Flags {
    /// The last event was appended.
    ended: AtomicBool,
    /// Why the last write failed, until one succeeds.
    failure: Mutex<Option<Arc<io::Error>>>,
}

impl Flags {
    fn failure(&self) -> Option<Arc<io::Error>> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_failure(&self, failure: Option<Arc<io::Error>>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

/// Starts the task.
pub(super) fn start(
    log: Arc<Log>,
    file: File,
    capacity: u64,
    reservation: Reservation,
) -> EventWriter {
    let (commands, receiver) = mpsc::channel(WAITING_EVENTS);
    let flags = Arc::new(Flags::default());
    flags.ended.store(log.is_done(), Ordering::Release);
    let task = Task {
        pen: Pen::new(log.id),
        log: log.clone(),
        file: Arc::new(file),
        capacity,
        commands: receiver,
        flags: flags.clone(),
        lost: Lost::default(),
        unreported: None,
        directory_synced: false,
        _reservation: reservation,
    };
    tokio::spawn(task.run());
    EventWriter {
        log,
        commands,
        room: Arc::new(Semaphore::new(WAITING_BYTES)),
        flags,
    }
}

impl EventWriter {
    /// Appends an event. `fields` serialise to a JSON object with none of the names that every event has
    /// (`seq`, `at`, `deployment`, `step`, `kind`), or to `null` for no fields.
    ///
    /// Waits while too much is waiting to be written. When the future is dropped before it is ready, the
    /// event is not appended.
    ///
    /// # Errors
    ///
    /// [`EventError::Ended`] after the `done` event or [`EventWriter::close`]; [`EventError::Fields`] and
    /// [`EventError::TooLarge`]; [`EventError::Write`] for a line, progress or a warning while the log
    /// cannot be written.
    pub async fn append(
        &self,
        kind: EventKind,
        step: Option<&str>,
        fields: impl Serialize,
    ) -> Result<(), EventError> {
        let at_millis = Timestamp::now().as_millisecond();
        let fields = line::fields(kind, &fields)?;
        if self.flags.ended.load(Ordering::Acquire) {
            return Err(self.ended());
        }
        if kind.is_droppable()
            && let Some(source) = self.flags.failure()
        {
            return Err(EventError::Write {
                path: self.log.path.clone(),
                source,
            });
        }
        let weight = fields.len().clamp(1, WAITING_BYTES);
        let weight = u32::try_from(weight).expect("at most WAITING_BYTES");
        let room = self.room.clone().acquire_many_owned(weight).await;
        let room = room.map_err(|_| self.ended())?;
        let slot = self.commands.reserve().await.map_err(|_| self.ended())?;
        if kind == EventKind::Done {
            self.flags.ended.store(true, Ordering::Release);
        }
        slot.send(Command::Append(Appended {
            kind,
            at_millis,
            step: step.map(str::to_owned),
            fields,
            _room: room,
        }));
        Ok(())
    }

    /// Waits until everything appended before is written, and so seen by subscribers.
    ///
    /// # Errors
    ///
    /// [`EventError::Write`] when events were lost since this, [`EventWriter::sync`] or
    /// [`EventWriter::close`] last said so.
    pub async fn flush(&self) -> Result<(), EventError> {
        self.ask(Command::Flush).await
    }

    /// Waits until everything appended before is written and synced: it survives the loss of power.
    ///
    /// # Errors
    ///
    /// As [`EventWriter::flush`], and when syncing fails.
    pub async fn sync(&self) -> Result<(), EventError> {
        self.ask(Command::Sync).await
    }

    /// Waits until everything appended before is written, and ends the log for all its writers. It can
    /// then be reopened or removed. Closing twice is closing once.
    ///
    /// # Errors
    ///
    /// As [`EventWriter::flush`]; the log is closed all the same.
    pub async fn close(&self) -> Result<(), EventError> {
        match self.ask(Command::Close).await {
            Err(EventError::Ended { .. }) => Ok(()),
            other => other,
        }
    }

    /// The number of the last event that is written; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.log.written().last
    }

    /// Whether the log has its last event.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.log.is_done()
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), EventError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| self.ended())?;
        // The task drops what it has not served when it is closed.
        answer.await.map_err(|_| self.ended())?
    }

    fn ended(&self) -> EventError {
        EventError::Ended { id: self.log.id }
    }
}

struct Task {
    log: Arc<Log>,
    file: Arc<File>,
    capacity: u64,
    pen: Pen,
    commands: mpsc::Receiver<Command>,
    flags: Arc<Flags>,
    /// Not yet told by a `dropped` event.
    lost: Lost,
    /// Why events were lost, not yet told to whoever flushes.
    unreported: Option<Arc<io::Error>>,
    directory_synced: bool,
    _reservation: Reservation,
}

impl Drop for Task {
    /// However the task ends, nobody waits for it in vain.
    fn drop(&mut self) {
        self.log.close();
    }
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.commands.recv().await {
            let (events, then) = self.gather(first).await;
            if !events.is_empty() {
                self.record(events).await;
            }
            match then {
                None | Some(Command::Append(_)) => {}
                Some(Command::Flush(reply)) => {
                    let _ = reply.send(self.report());
                }
                Some(Command::Sync(reply)) => {
                    let _ = reply.send(self.sync().await);
                }
                Some(Command::Close(reply)) => {
                    self.tell_lost().await;
                    let report = self.report();
                    // Whoever closed it may open it again at once.
                    drop(self);
                    let _ = reply.send(report);
                    return;
                }
            }
        }
    }

    /// A batch of events, and the command that ended it, if one did.
    async fn gather(&mut self, first: Command) -> (Vec<Appended>, Option<Command>) {
        let mut deadline = Instant::now() + BATCH_TIME;
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut command = first;
        loop {
            match command {
                Command::Append(event) => {
                    bytes += event.fields.len();
                    if !event.kind.is_droppable() {
                        // These are few, and somebody waits for them: take along what is there, no more.
                        deadline = Instant::now();
                    }
                    events.push(event);
                }
                other => return (events, Some(other)),
            }
            if events.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES {
                return (events, None);
            }
            command = match self.commands.try_recv() {
                Ok(next) => next,
                Err(mpsc::error::TryRecvError::Disconnected) => return (events, None),
                Err(mpsc::error::TryRecvError::Empty) => {
                    match timeout_at(deadline, self.commands.recv()).await {
                        Ok(Some(next)) => next,
                        Ok(None) | Err(_) => return (events, None),
                    }
                }
            };
        }
    }

    /// Numbers and writes a batch, and hands it out.
    async fn record(&mut self, appended: Vec<Appended>) {
        let failing = self.flags.failure().is_some();
        let mut batch = Batch::new(&self.log);
        let mut done = self.log.is_done();
        for event in &appended {
            if done {
                // Appended beside the last event by a clone that had not seen it yet.
                continue;
            }
            if event.kind.is_droppable()
                && (failing || batch.length() + event.fields.len() as u64 > self.capacity)
            {
                self.lost.add(&event.fields);
                continue;
            }
            if event.kind == EventKind::Done {
                done = true;
                batch.tell(&mut self.pen, &mut self.lost, event.at_millis);
            }
            batch.push(&mut self.pen, event);
        }
        self.write(batch).await;
    }

    /// Tells of what was lost, if anything was and it can be told.
    async fn tell_lost(&mut self) {
        if self.log.is_done() || self.lost.lines == 0 {
            return;
        }
        let mut batch = Batch::new(&self.log);
        batch.tell(
            &mut self.pen,
            &mut self.lost,
            Timestamp::now().as_millisecond(),
        );
        self.write(batch).await;
    }

    /// Writes a batch and hands it out, or counts it as lost.
    async fn write(&mut self, batch: Batch) {
        let Batch {
            start,
            text,
            events,
            at_stake,
            ..
        } = batch;
        if events.is_empty() {
            return;
        }
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || write_at(&file, &text, start)).await;
        let error = match written {
            Ok(Ok(())) => {
                if self.flags.failure().is_some() {
                    self.flags.set_failure(None);
                }
                self.log.publish(&events);
                return;
            }
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        };
        tracing::error!(path = %self.log.path.display(), %error, events = events.len(), "events cannot be written");
        let error = Arc::new(error);
        self.flags.set_failure(Some(error.clone()));
        self.unreported = Some(error);
        if events.iter().any(|event| event.is_done()) {
            // It was not recorded, so it may be tried again.
            self.flags.ended.store(false, Ordering::Release);
        }
        self.lost.lines += at_stake.lines;
        self.lost.bytes += at_stake.bytes;
    }

    async fn sync(&mut self) -> Result<(), EventError> {
        self.tell_lost().await;
        let file = self.file.clone();
        let directory = (!self.directory_synced).then(|| self.log.path.clone());
        let synced = tokio::task::spawn_blocking(move || {
            file.sync_data()?;
            match directory.as_deref().and_then(Path::parent) {
                Some(directory) => File::open(directory)?.sync_all(),
                None => Ok(()),
            }
        })
        .await
        .map_err(|_| EventError::Stopped)?;
        synced.map_err(EventError::io("sync", &self.log.path))?;
        self.directory_synced = true;
        self.report()
    }

    /// Says once that events were lost.
    fn report(&mut self) -> Result<(), EventError> {
        match self.unreported.take() {
            None => Ok(()),
            Some(source) => Err(EventError::Write {
                path: self.log.path.clone(),
                source,
            }),
        }
    }
}
