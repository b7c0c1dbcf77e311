//! Following a log.

use std::{collections::VecDeque, sync::Arc};

use tokio::task::JoinHandle;

use super::{
    EventError,
    file::Cursor,
    line::StoredEvent,
    log::{Follow, Log, Popped, Queue},
};

/// What a subscription has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The next event.
    Event(Arc<StoredEvent>),
    /// The subscriber was too slow for what happens live. The end follows; whoever wants the rest
    /// subscribes again after the last event it saw.
    Resync,
    /// Nothing more comes.
    End,
}

/// A reader of one log: the events after a number, in order, each once.
///
/// What is recorded is read from the file, a block at a time, at the reader's own pace. A reader who has
/// caught up with a log that is being written gets new events from a bounded queue.
#[derive(Debug)]
pub struct Subscription {
    source: Source,
    /// Read from the file and not yet taken.
    ready: VecDeque<Arc<StoredEvent>>,
    /// The last number that the subscriber has, or does not want.
    after: u64,
}

#[derive(Debug)]
enum Source {
    /// The file, up to a length or up to where its writer is.
    File {
        cursor: Cursor,
        end: End,
    },
    /// A block of the file is being read.
    Reading {
        task: JoinHandle<Block>,
        end: End,
    },
    Live(Arc<Queue>),
    /// The file cannot be read on, which is still to be said.
    Failed(EventError),
    Ended,
}

#[derive(Debug)]
struct Block {
    cursor: Cursor,
    events: VecDeque<Arc<StoredEvent>>,
    result: Result<(), EventError>,
}

/// Where reading the file ends.
#[derive(Debug, Clone)]
enum End {
    At(u64),
    Writer(Arc<Log>),
}

impl Subscription {
    pub(super) fn live(log: Arc<Log>, mut cursor: Cursor, after: u64) -> Subscription {
        cursor.seek(log.place(after));
        Subscription::new(cursor, End::Writer(log), after)
    }

    /// All that the file holds.
    pub(super) fn recorded(cursor: Cursor, after: u64) -> Result<Subscription, EventError> {
        let end = End::At(cursor.len()?);
        Ok(Subscription::new(cursor, end, after))
    }

    pub(super) fn recorded_until(cursor: Cursor, bytes: u64) -> Subscription {
        Subscription::new(cursor, End::At(bytes), 0)
    }

    fn new(cursor: Cursor, end: End, after: u64) -> Subscription {
        Subscription {
            source: Source::File { cursor, end },
            ready: VecDeque::new(),
            after,
        }
    }

    /// The next event, as soon as there is one. After [`Next::End`] it answers the same for ever.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is damaged; the end follows.
    pub async fn next(&mut self) -> Result<Next, EventError> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                if event.seq > self.after {
                    return Ok(self.deliver(event));
                }
            }
            // Every arm that awaits leaves `source` as it was until it has its answer.
            match &mut self.source {
                Source::Ended => return Ok(Next::End),
                Source::Failed(_) => {
                    if let Source::Failed(error) =
                        std::mem::replace(&mut self.source, Source::Ended)
                    {
                        return Err(error);
                    }
                }
                Source::Live(queue) => match queue.pop().await {
                    Popped::Event(event) => self.ready.push_back(event),
                    Popped::Closed => self.source = Source::Ended,
                    Popped::Overrun => {
                        self.source = Source::Ended;
                        return Ok(Next::Resync);
                    }
                },
                Source::Reading { task, end } => {
                    let block = task.await;
                    let end = end.clone();
                    self.source = Source::Ended;
                    let Block {
                        cursor,
                        events,
                        result,
                    } = block.map_err(|_| EventError::Stopped)?;
                    self.ready = events;
                    self.source = match result {
                        Ok(()) => Source::File { cursor, end },
                        // What was read before the damage is good, and comes first.
                        Err(error) => Source::Failed(error),
                    };
                }
                Source::File { .. } => self.read_on(),
            }
        }
    }

    /// Hands out an event, and ends the subscription with the last one.
    fn deliver(&mut self, event: Arc<StoredEvent>) -> Next {
        self.after = event.seq;
        if event.is_done() {
            self.ready.clear();
            self.source = Source::Ended;
        }
        Next::Event(event)
    }

    /// Decides where to read on, having read all of the file that was known to be there.
    fn read_on(&mut self) {
        let Source::File { mut cursor, end } = std::mem::replace(&mut self.source, Source::Ended)
        else {
            return;
        };
        let until = match &end {
            End::At(until) if cursor.offset() < *until => *until,
            End::At(_) => return,
            End::Writer(log) => match log.follow(cursor.offset()) {
                Follow::File { until } => until,
                Follow::Live(queue) => {
                    self.source = Source::Live(queue);
                    return;
                }
                Follow::End => return,
            },
        };
        let after = self.after;
        let task = tokio::task::spawn_blocking(move || {
            let mut events = VecDeque::new();
            let result = cursor.read(until, after, &mut events);
            Block {
                cursor,
                events,
                result,
            }
        });
        self.source = Source::Reading { task, end };
    }
}
