//! A log in short: what a person reads first, and what is left when the log itself is gone.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::line::StoredEvent;

/// Entries kept of a log's beginning: how it started.
const FIRST: usize = 20;

/// Entries kept of its end: why it ended so. With the marker, 200 in all.
const LAST: usize = 179;

/// Bytes of an event that are kept as they are; a larger one is shortened, so that a summary stays within
/// a few hundred KiB whatever its log holds.
const ENTRY_BYTES: usize = 2048;

/// Bytes that are left of each text of a shortened event.
const TEXT_BYTES: usize = 512;

/// Fields a shortened event may have; no event of the host's own has as many.
const FIELDS: usize = 16;

/// The first 20 and the last 179 events of a log, and between them, when some are left out, one marker
/// `{"omitted": n}`. An event of more than 2 KiB is shortened and marked `"shortened": true`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Summary {
    /// The events as recorded, and perhaps the marker, in order.
    pub entries: Vec<Value>,
}

/// Makes a summary as the log grows.
#[derive(Debug, Clone, Default)]
pub(super) struct Digest {
    first: Vec<String>,
    last: VecDeque<String>,
    seen: u64,
}

impl Digest {
    pub(super) fn push(&mut self, event: &StoredEvent) {
        self.seen += 1;
        let entry = if event.json.len() > ENTRY_BYTES {
            shorten(&event.json)
        } else {
            event.json.clone()
        };
        if self.first.len() < FIRST {
            self.first.push(entry);
            return;
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(entry);
    }

    pub(super) fn finish(&self) -> Summary {
        let kept = (self.first.len() + self.last.len()) as u64;
        let omitted = self.seen - kept;
        let mut entries: Vec<Value> = self.first.iter().map(|entry| value(entry)).collect();
        if omitted > 0 {
            entries.push(json!({ "omitted": omitted }));
        }
        entries.extend(self.last.iter().map(|entry| value(entry)));
        Summary { entries }
    }
}

fn value(entry: &str) -> Value {
    serde_json::from_str(entry).unwrap_or(Value::Null)
}

/// Cuts an event's texts, and drops what is large without being a text.
fn shorten(json: &str) -> String {
    let Ok(Value::Object(mut event)) = serde_json::from_str(json) else {
        return "null".to_owned();
    };
    for field in event.values_mut() {
        match field {
            Value::String(text) => text.truncate(text.floor_char_boundary(TEXT_BYTES)),
            Value::Array(_) | Value::Object(_) => *field = Value::Null,
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    if event.len() > FIELDS {
        // Many small fields instead of a large one: keep what every event has.
        event = ["seq", "at", "deployment", "step", "kind"]
            .into_iter()
            .filter_map(|name| event.remove_entry(name))
            .collect::<Map<_, _>>();
    }
    event.insert("shortened".to_owned(), Value::Bool(true));
    Value::Object(event).to_string()
}
