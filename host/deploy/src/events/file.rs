//! Reading log files of any length, a block at a time.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    EventError,
    line::{self, LINE_BYTES, StoredEvent},
    summary::Digest,
};

/// Bytes read at once: enough that the calls do not count, few enough for thousands of readers who come at the same
/// time, each of whom holds a block's events until its connection takes them.
const BLOCK: usize = 16 * 1024;

/// Events between two entries of the index of a log that is being written.
const INDEX_EVERY: u64 = 256;

/// What is known of a log's contents.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) written: Written,
    /// Where events 1, 257, 513 ... begin, so that a subscriber who joins late need not read from the
    /// beginning.
    index: Vec<u64>,
    pub(super) summary: Digest,
    /// Whether the last event is the end.
    pub(super) done: bool,
}

/// How far a log goes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// The number of the last event.
    pub(super) last: u64,
    /// The length of the file up to and with it.
    pub(super) bytes: u64,
}

impl Contents {
    /// Takes note of an event that follows in the file.
    pub(super) fn push(&mut self, event: &StoredEvent) {
        if (event.seq - 1).is_multiple_of(INDEX_EVERY) {
            self.index.push(self.written.bytes);
        }
        self.written.last = event.seq;
        self.written.bytes += event.json.len() as u64 + 1;
        self.summary.push(event);
        self.done |= event.is_done();
    }

    /// A place at or before the event that follows `after`: the number of the event that begins there,
    /// and its offset.
    pub(super) fn place(&self, after: u64) -> (u64, u64) {
        let wanted = after.min(self.written.last) / INDEX_EVERY;
        let entry = usize::try_from(wanted)
            .unwrap_or(usize::MAX)
            .min(self.index.len().saturating_sub(1));
        match self.index.get(entry) {
            Some(offset) => (entry as u64 * INDEX_EVERY + 1, *offset),
            None => (1, 0),
        }
    }
}

/// A place in a log file, from which events are read in order.
#[derive(Debug)]
pub(super) struct Cursor {
    file: File,
    path: PathBuf,
    /// Where the next block is read.
    offset: u64,
    /// The number of the event that begins in `partial`, or at `offset`.
    next: u64,
    /// The beginning of a line whose end was not read yet.
    partial: Vec<u8>,
}

impl Cursor {
    /// At the beginning.
    pub(super) fn new(file: File, path: PathBuf) -> Cursor {
        Cursor {
            file,
            path,
            offset: 0,
            next: 1,
            partial: Vec::new(),
        }
    }

    /// Goes to a place that [`Contents::place`] has named.
    pub(super) fn seek(&mut self, (next, offset): (u64, u64)) {
        self.next = next;
        self.offset = offset;
        self.partial.clear();
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn len(&self) -> Result<u64, EventError> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(EventError::io("read", &self.path))?.len())
    }

    /// Reads on until there are events after number `after`, or `until` is reached: the length of what is
    /// whole. Blocks.
    pub(super) fn read(
        &mut self,
        until: u64,
        after: u64,
        events: &mut VecDeque<Arc<StoredEvent>>,
    ) -> Result<(), EventError> {
        let mut block = vec![0; BLOCK];
        while events.is_empty() && self.offset < until {
            let wanted = usize::try_from(until - self.offset).map_or(BLOCK, |left| left.min(BLOCK));
            let read = match self.file.read_at(&mut block[..wanted], self.offset) {
                // Somebody cut the file: what is there is what there is.
                Ok(0) => {
                    self.offset = until;
                    break;
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(EventError::io("read", &self.path)(error)),
            };
            self.offset += read as u64;
            for piece in block[..read].split_inclusive(|byte| *byte == b'\n') {
                let Some(end) = piece.strip_suffix(b"\n") else {
                    self.partial.extend_from_slice(piece);
                    if self.partial.len() > LINE_BYTES {
                        return Err(self.corrupt("is too long".to_owned()));
                    }
                    continue;
                };
                if self.next > after {
                    let line = if self.partial.is_empty() {
                        line::parse(end, self.next)
                    } else {
                        self.partial.extend_from_slice(end);
                        line::parse(&self.partial, self.next)
                    };
                    events.push_back(Arc::new(line.map_err(|why| self.corrupt(why))?));
                }
                self.partial.clear();
                self.next += 1;
            }
        }
        Ok(())
    }

    fn corrupt(&self, why: String) -> EventError {
        EventError::Corrupt {
            path: self.path.clone(),
            line: self.next,
            why,
        }
    }
}

/// What reading a whole file found.
pub(super) struct Scan {
    /// Everything up to the first line that is not whole.
    pub(super) contents: Contents,
    /// Why it stops there, if that is before the last line's end.
    stopped: Option<EventError>,
}

/// Reads a whole log. Blocks.
pub(super) fn scan(file: &File, path: &Path) -> Result<Scan, EventError> {
    let file = file.try_clone().map_err(EventError::io("open", path))?;
    let mut cursor = Cursor::new(file, path.to_owned());
    let until = cursor.len()?;
    let mut contents = Contents::default();
    let mut events = VecDeque::new();
    while cursor.offset() < until {
        let read = cursor.read(until, 0, &mut events);
        for event in events.drain(..) {
            contents.push(&event);
        }
        match read {
            Ok(()) => {}
            Err(stopped @ EventError::Corrupt { .. }) => {
                return Ok(Scan {
                    contents,
                    stopped: Some(stopped),
                });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Scan {
        contents,
        stopped: None,
    })
}

/// Reads a whole log and cuts off what follows its last whole event: the torn line of a process that was
/// killed, or what the loss of power made of the blocks that were not synced. Blocks.
pub(super) fn repair(file: &File, path: &Path) -> Result<Contents, EventError> {
    let Scan { contents, stopped } = scan(file, path)?;
    let length = file.metadata().map_err(EventError::io("read", path))?.len();
    let surplus = length - contents.written.bytes.min(length);
    if surplus > 0 {
        tracing::warn!(
            path = %path.display(),
            last = contents.written.last,
            bytes = surplus,
            reason = stopped.map(|error| error.to_string()),
            "an event log was torn; its last bytes are cut off"
        );
        file.set_len(contents.written.bytes)
            .map_err(EventError::io("cut", path))?;
    }
    Ok(contents)
}
