//! A log that is being written, as its writer and its readers share it.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    file::{Contents, Written},
    line::StoredEvent,
    summary::Summary,
};

/// Bytes of events that may wait for one live subscriber. One who falls further behind is told to read on
/// from the file. A line of 100 bytes counts about 200, so this is some ten thousand lines.
const QUEUE_BYTES: usize = 4 << 20;

/// What an event in a queue takes beside its text.
const EVENT_OVERHEAD: usize = 96;

/// What is known of a log that is being written.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) id: Uuid,
    pub(super) path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    contents: Contents,
    /// Nothing more will be written.
    closed: bool,
    subscribers: Vec<Weak<Queue>>,
}

/// Where a subscriber who has read this far finds what follows.
#[derive(Debug)]
pub(super) enum Follow {
    /// In the file, which is whole up to this length.
    File { until: u64 },
    /// In this queue: everything from here on.
    Live(Arc<Queue>),
    /// Nowhere.
    End,
}

impl Log {
    pub(super) fn new(id: Uuid, path: PathBuf, contents: Contents) -> Log {
        Log {
            id,
            path,
            state: Mutex::new(State {
                contents,
                closed: false,
                subscribers: Vec::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn written(&self) -> Written {
        self.lock().contents.written
    }

    pub(super) fn is_done(&self) -> bool {
        self.lock().contents.done
    }

    pub(super) fn summary(&self) -> Summary {
        // The entries are parsed outside the lock.
        let digest = self.lock().contents.summary.clone();
        digest.finish()
    }

    pub(super) fn place(&self, after: u64) -> (u64, u64) {
        self.lock().contents.place(after)
    }

    /// Says where to read on after having read the file up to this offset. Whether to join the live ones
    /// is decided under the same lock under which events are handed out, so none is missed or seen twice.
    pub(super) fn follow(&self, offset: u64) -> Follow {
        let mut state = self.lock();
        let until = state.contents.written.bytes;
        if offset < until {
            return Follow::File { until };
        }
        if state.closed || state.contents.done {
            return Follow::End;
        }
        let queue = Arc::new(Queue::default());
        state.subscribers.retain(|queue| queue.strong_count() > 0);
        state.subscribers.push(Arc::downgrade(&queue));
        Follow::Live(queue)
    }

    /// Takes note of events that were just written, and hands them to everybody who is live.
    pub(super) fn publish(&self, events: &[Arc<StoredEvent>]) {
        let mut state = self.lock();
        for event in events {
            state.contents.push(event);
        }
        state.subscribers.retain(|queue| match queue.upgrade() {
            Some(queue) => queue.push(events),
            None => false,
        });
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for queue in state
            .subscribers
            .drain(..)
            .filter_map(|queue| queue.upgrade())
        {
            queue.end(Mode::Closed);
        }
    }
}

/// The events that wait for one live subscriber.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Arc<StoredEvent>>,
    bytes: usize,
    mode: Mode,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    #[default]
    Open,
    /// The subscriber was too slow.
    Overrun,
    /// The log has ended.
    Closed,
}

/// What a queue has for its subscriber.
#[derive(Debug)]
pub(super) enum Popped {
    Event(Arc<StoredEvent>),
    Overrun,
    Closed,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a batch; answers whether the subscriber still keeps up.
    fn push(&self, events: &[Arc<StoredEvent>]) -> bool {
        let bytes: usize = events.iter().map(|event| weight(event)).sum();
        let mut waiting = self.lock();
        let keeps_up = waiting.events.is_empty() || waiting.bytes + bytes <= QUEUE_BYTES;
        if keeps_up {
            waiting.events.extend(events.iter().cloned());
            waiting.bytes += bytes;
            drop(waiting);
            self.wake.notify_one();
        } else {
            drop(waiting);
            self.end(Mode::Overrun);
        }
        keeps_up
    }

    fn end(&self, mode: Mode) {
        let mut waiting = self.lock();
        waiting.mode = mode;
        if mode == Mode::Overrun {
            // The subscriber will read these from the file, if it comes back.
            waiting.events = VecDeque::new();
            waiting.bytes = 0;
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// The next event, or why there is none. Nothing is lost when the future is dropped.
    pub(super) async fn pop(&self) -> Popped {
        loop {
            {
                let mut waiting = self.lock();
                if let Some(event) = waiting.events.pop_front() {
                    waiting.bytes -= weight(&event);
                    return Popped::Event(event);
                }
                match waiting.mode {
                    Mode::Open => {}
                    Mode::Overrun => return Popped::Overrun,
                    Mode::Closed => return Popped::Closed,
                }
            }
            // A wake-up between the look and this is kept for it.
            self.wake.notified().await;
        }
    }
}

fn weight(event: &StoredEvent) -> usize {
    event.json.len() + EVENT_OVERHEAD
}
