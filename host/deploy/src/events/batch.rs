//! Events on their way into the file, together.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    line::{EventKind, Pen, StoredEvent},
    log::Log,
};

/// An event that has no number yet.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) kind: EventKind,
    pub(super) at_millis: i64,
    pub(super) step: Option<String>,
    pub(super) fields: String,
    /// Its share of what may wait, given back when it is written.
    pub(super) _room: OwnedSemaphorePermit,
}

/// What was appended and not recorded.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Lost {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

impl Lost {
    pub(super) fn add(&mut self, fields: &str) {
        self.lines += 1;
        self.bytes += fields.len() as u64;
    }
}

/// Events about to be written together.
pub(super) struct Batch {
    /// Where in the file.
    pub(super) start: u64,
    /// The number of the last event.
    last: u64,
    pub(super) text: Vec<u8>,
    pub(super) events: Vec<Arc<StoredEvent>>,
    /// What is lost if it cannot be written: its own droppable events, and what it tells of as lost.
    pub(super) at_stake: Lost,
}

impl Batch {
    pub(super) fn new(log: &Log) -> Batch {
        let written = log.written();
        Batch {
            start: written.bytes,
            last: written.last,
            text: Vec::new(),
            events: Vec::new(),
            at_stake: Lost::default(),
        }
    }

    /// How long the file will be.
    pub(super) fn length(&self) -> u64 {
        self.start + self.text.len() as u64
    }

    pub(super) fn push(&mut self, pen: &mut Pen, event: &Appended) {
        let line = pen.line(
            self.last + 1,
            event.at_millis,
            event.step.as_deref(),
            event.kind,
            &event.fields,
        );
        self.add(line);
        if event.kind.is_droppable() {
            self.at_stake.add(&event.fields);
        }
    }

    /// Tells of what was lost, if anything was.
    pub(super) fn tell(&mut self, pen: &mut Pen, lost: &mut Lost, at_millis: i64) {
        if lost.lines == 0 {
            return;
        }
        let fields = json!({ "lines": lost.lines, "bytes": lost.bytes }).to_string();
        let fields = fields.trim_matches(['{', '}']);
        let line = pen.line(self.last + 1, at_millis, None, EventKind::Dropped, fields);
        self.add(line);
        let told = std::mem::take(lost);
        self.at_stake.lines += told.lines;
        self.at_stake.bytes += told.bytes;
    }

    fn add(&mut self, line: StoredEvent) {
        self.last = line.seq;
        self.text.extend_from_slice(line.json.as_bytes());
        self.text.push(b'\n');
        self.events.push(Arc::new(line));
    }
}

/// Writes the text where the log ends. A part of it that was written all the same is cut off, so that a
/// reader of the file alone does not stumble over it.
pub(super) fn write_at(file: &File, text: &[u8], start: u64) -> io::Result<()> {
    let result = file.write_all_at(text, start);
    if result.is_err() {
        // If this fails too, the next write goes over it, or the next start cuts it off.
        let _ = file.set_len(start);
    }
    result
}
