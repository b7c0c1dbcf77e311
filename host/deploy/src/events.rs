//! The event log: what happened to a deployment, line by line.
//!
//! One append-only file per deployment, one JSON object per line, numbered from 1 with no gap. An event is
//! written first and then handed to live subscribers, in batches, so whoever sees an event can find it
//! again after a crash of the process; [`EventWriter::sync`] makes what was appended survive the loss of
//! power too.
//!
//! A line, whose first five fields are always these, in this order:
//!
//! ```json
//! {"seq":7,"at":"2026-01-02T03:04:05.678Z","deployment":"0198…","step":"unpack","kind":"line","stream":"stdout","text":"hello"}
//! ```
//!
//! - `writer`: [`EventWriter`], and the task behind it that numbers, writes and hands out
//! - `batch`: events that are written together, and the count of those that cannot be
//! - `log`: what is known of a log that is being written, and its subscribers' queues
//! - `subscription`: [`Subscription`], from the file until it has caught up, then live
//! - `line`: one line of the file, made and read
//! - `file`: reading files of any length, and repairing what a crash tore
//! - `summary`: [`Summary`], the first and the last entries around one marker

mod batch;
mod file;
mod line;
mod log;
mod subscription;
mod summary;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

pub use line::{EventKind, StoredEvent};
pub use subscription::{Next, Subscription};
pub use summary::Summary;
pub use writer::EventWriter;

use file::Cursor;
use log::Log;

/// Bytes a log may have before lines, progress and warnings are dropped from it, and counted. Phases,
/// receipts, errors and the end are always recorded. Each step's own limits end a flood much earlier; this
/// bounds many steps together.
const LOG_BYTES: u64 = 1 << 30;

/// Why the event log refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// There is no log of this deployment.
    #[error("there is no event log of deployment {id}")]
    NotFound {
        /// The deployment.
        id: Uuid,
    },
    /// A log of this deployment exists already.
    #[error("there is an event log of deployment {id} already")]
    Exists {
        /// The deployment.
        id: Uuid,
    },
    /// The log is being written, and so cannot be opened for writing or removed.
    #[error("the event log of deployment {id} is being written")]
    Busy {
        /// The deployment.
        id: Uuid,
    },
    /// The log has its last event, or its writer was closed.
    #[error("the event log of deployment {id} has ended")]
    Ended {
        /// The deployment.
        id: Uuid,
    },
    /// An event's fields do not make a JSON object.
    #[error("the fields of a {kind} event are no JSON object: {why}")]
    Fields {
        /// The kind of event.
        kind: EventKind,
        /// What they are.
        why: String,
    },
    /// One event is larger than any may be.
    #[error(
        "a {kind} event of {bytes} bytes is too large, {} are allowed",
        line::FIELDS_BYTES
    )]
    TooLarge {
        /// The kind of event.
        kind: EventKind,
        /// How large its fields are.
        bytes: usize,
    },
    /// Events were appended and could not be written: they are lost, and counted in a `dropped` event if
    /// one can be written later. Phases, receipts, errors and the end are still tried.
    #[error("cannot write the event log {}: {source}", path.display())]
    Write {
        /// The log.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// A log or its directory cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The log is damaged in the middle.
    #[error("the event log {} is damaged: line {line} {why}", path.display())]
    Corrupt {
        /// The log.
        path: PathBuf,
        /// The first line that is wrong.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A task of the log's ended early: the runtime is stopping.
    #[error("the event log's task ended early")]
    Stopped,
}

impl EventError {
    /// Whether the disk is full, rather than broken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let kind = match self {
            EventError::Write { source, .. } => source.kind(),
            EventError::Io { source, .. } => source.kind(),
            _ => return false,
        };
        matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EventError {
        let path = path.to_owned();
        move |source| EventError::Io {
            action,
            path,
            source,
        }
    }
}

/// All event logs of a data directory. Clones share them.
#[derive(Debug, Clone)]
pub struct EventLogs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    /// The most bytes of a log before lines are dropped.
    capacity: u64,
    live: Mutex<HashMap<Uuid, Slot>>,
}

#[derive(Debug)]
enum Slot {
    /// Its file is being read and repaired.
    Opening,
    /// It is being written.
    Live(Arc<Log>),
}

impl EventLogs {
    /// The logs in this directory, which is created if it is missing. Each is the file `{id}.jsonl`.
    ///
    /// # Errors
    ///
    /// When the directory cannot be created.
    pub fn open(directory: PathBuf) -> Result<EventLogs, EventError> {
        EventLogs::with_capacity(directory, LOG_BYTES)
    }

    fn with_capacity(directory: PathBuf, capacity: u64) -> Result<EventLogs, EventError> {
        fs::create_dir_all(&directory).map_err(EventError::io("create", &directory))?;
        Ok(EventLogs {
            shared: Arc::new(Shared {
                directory,
                capacity,
                live: Mutex::default(),
            }),
        })
    }

    /// Starts the log of a new deployment. To be called within a tokio runtime, which then writes it.
    ///
    /// # Errors
    ///
    /// [`EventError::Exists`], or when the file cannot be created.
    pub fn create(&self, id: Uuid) -> Result<EventWriter, EventError> {
        let opening = self.reserve(id)?;
        let path = self.path(id);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => EventError::Exists { id },
                _ => EventError::io("create", &path)(source),
            })?;
        let contents = file::Contents::default();
        Ok(opening.start(Log::new(id, path, contents), file))
    }

    /// Goes on with a log that an earlier process left: what a crash tore at its end is cut off, and
    /// numbers continue where it stops. Reads the whole file, and blocks meanwhile. To be called within a
    /// tokio runtime, which then writes it.
    ///
    /// A log that has its last event opens too; [`EventWriter::is_done`] tells.
    ///
    /// # Errors
    ///
    /// [`EventError::NotFound`], [`EventError::Busy`], or when the file cannot be read or cut.
    pub fn reopen(&self, id: Uuid) -> Result<EventWriter, EventError> {
        let opening = self.reserve(id)?;
        let path = self.path(id);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| self.missing(id, "open", error))?;
        let contents = file::repair(&file, &path)?;
        Ok(opening.start(Log::new(id, path, contents), file))
    }

    /// The events after number `after`: first those recorded, then those to come, with no gap and no
    /// repeat, until the last. Of a log that nobody writes, those recorded.
    ///
    /// # Errors
    ///
    /// [`EventError::NotFound`], or when the file cannot be opened.
    pub fn subscribe(&self, id: Uuid, after: u64) -> Result<Subscription, EventError> {
        // In this order: a log that ends in between is complete in its file.
        let live = self.live(id);
        let cursor = self.cursor(id)?;
        Ok(match live {
            Some(log) => Subscription::live(log, cursor, after),
            None => Subscription::recorded(cursor, after)?,
        })
    }

    /// The events that are recorded by now, and then the end.
    ///
    /// # Errors
    ///
    /// [`EventError::NotFound`], or when the file cannot be opened.
    pub fn replay(&self, id: Uuid) -> Result<Subscription, EventError> {
        let cursor = self.cursor(id)?;
        match self.live(id) {
            Some(log) => Ok(Subscription::recorded_until(cursor, log.written().bytes)),
            None => Subscription::recorded(cursor, 0),
        }
    }

    /// The log in short. Of a log that is being written it is at hand; else the whole file is read, and
    /// the call blocks meanwhile.
    ///
    /// # Errors
    ///
    /// [`EventError::NotFound`], or when the file cannot be read.
    pub fn summary(&self, id: Uuid) -> Result<Summary, EventError> {
        if let Some(log) = self.live(id) {
            return Ok(log.summary());
        }
        let path = self.path(id);
        let file = File::open(&path).map_err(|error| self.missing(id, "open", error))?;
        Ok(file::scan(&file, &path)?.contents.summary.finish())
    }

    /// Removes a log. One that does not exist is removed already.
    ///
    /// # Errors
    ///
    /// [`EventError::Busy`] while it is being written, or when the file cannot be removed.
    pub fn remove(&self, id: Uuid) -> Result<(), EventError> {
        let _opening = self.reserve(id)?;
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(EventError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.shared.directory.join(format!("{id}.jsonl"))
    }

    fn cursor(&self, id: Uuid) -> Result<Cursor, EventError> {
        let path = self.path(id);
        let file = File::open(&path).map_err(|error| self.missing(id, "open", error))?;
        Ok(Cursor::new(file, path))
    }

    fn missing(&self, id: Uuid, action: &'static str, error: io::Error) -> EventError {
        match error.kind() {
            io::ErrorKind::NotFound => EventError::NotFound { id },
            _ => EventError::io(action, &self.path(id))(error),
        }
    }

    fn live(&self, id: Uuid) -> Option<Arc<Log>> {
        match self.shared.lock().get(&id) {
            Some(Slot::Live(log)) => Some(log.clone()),
            Some(Slot::Opening) | None => None,
        }
    }

    /// Keeps everybody else from writing or removing the log.
    fn reserve(&self, id: Uuid) -> Result<Reservation, EventError> {
        let mut live = self.shared.lock();
        if live.contains_key(&id) {
            return Err(EventError::Busy { id });
        }
        live.insert(id, Slot::Opening);
        Ok(Reservation {
            shared: self.shared.clone(),
            id,
        })
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Slot>> {
        // Nothing panics under the lock, and the map is whole between any two of its operations.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log's place among those in use; given back when dropped.
#[derive(Debug)]
struct Reservation {
    shared: Arc<Shared>,
    id: Uuid,
}

impl Reservation {
    /// Starts the task that writes the log.
    fn start(self, log: Log, file: File) -> EventWriter {
        let log = Arc::new(log);
        let capacity = self.shared.capacity;
        self.shared.lock().insert(self.id, Slot::Live(log.clone()));
        writer::start(log, file, capacity, self)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.id);
    }
}
