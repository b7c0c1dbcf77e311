//! One event as a line of the file: made by hand, because it is made for every line a guest prints.

use std::{borrow::Cow, fmt, fmt::Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::EventError;

/// Bytes the fields of one event may have as JSON. The largest events are typed outputs and the
/// backtraces of traps, which are bounded far below; this bounds what a reader must hold to see one line.
pub(super) const FIELDS_BYTES: usize = 1 << 20;

/// Bytes a whole line may have: its fields, and what stands before them (a step's name is short).
pub(super) const LINE_BYTES: usize = FIELDS_BYTES + 4096;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The deployment or a step entered another phase.
    Phase,
    /// A step printed a line.
    Line,
    /// How far a step is.
    Progress,
    /// A step warns.
    Warning,
    /// A step's typed output.
    Output,
    /// What a step used, next to what it was granted.
    Receipt,
    /// What another node says.
    Peer,
    /// Lines that a limit dropped, counted.
    Dropped,
    /// The deployment goes on after a restart.
    Resumed,
    /// Why the deployment fails.
    Error,
    /// The end: the last event of every log.
    Done,
}

impl EventKind {
    /// The word it is recorded as.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Phase => "phase",
            EventKind::Line => "line",
            EventKind::Progress => "progress",
            EventKind::Warning => "warning",
            EventKind::Output => "output",
            EventKind::Receipt => "receipt",
            EventKind::Peer => "peer",
            EventKind::Dropped => "dropped",
            EventKind::Resumed => "resumed",
            EventKind::Error => "error",
            EventKind::Done => "done",
        }
    }

    /// Whether a guest can make any number of them, so that they may be dropped when there is no room.
    pub(super) fn is_droppable(self) -> bool {
        matches!(
            self,
            EventKind::Line | EventKind::Progress | EventKind::Warning
        )
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number, from 1.
    pub seq: u64,
    /// Its kind, as [`EventKind::as_str`] has it.
    pub kind: String,
    /// All of it: one JSON object on one line, without the line's end.
    pub json: String,
}

impl StoredEvent {
    pub(super) fn is_done(&self) -> bool {
        self.kind == EventKind::Done.as_str()
    }
}

/// Serialises the fields of an event: the inside of a JSON object, without its braces.
pub(super) fn fields(kind: EventKind, fields: &impl Serialize) -> Result<String, EventError> {
    let mut json = serde_json::to_string(fields).map_err(|error| EventError::Fields {
        kind,
        why: error.to_string(),
    })?;
    if json == "null" {
        return Ok(String::new());
    }
    if !json.starts_with('{') {
        json.truncate(json.floor_char_boundary(80));
        return Err(EventError::Fields { kind, why: json });
    }
    if json.len() > FIELDS_BYTES {
        return Err(EventError::TooLarge {
            kind,
            bytes: json.len(),
        });
    }
    json.pop();
    json.remove(0);
    Ok(json)
}

/// Writes lines, one after the other. It remembers the last moment as text: in a flood, many lines have it.
#[derive(Debug)]
pub(super) struct Pen {
    deployment: String,
    at_millis: i64,
    at: String,
}

impl Pen {
    pub(super) fn new(deployment: Uuid) -> Pen {
        Pen {
            deployment: deployment.to_string(),
            at_millis: i64::MIN,
            at: String::new(),
        }
    }

    /// One event. Its moment is never before that of the event before it.
    pub(super) fn line(
        &mut self,
        seq: u64,
        at_millis: i64,
        step: Option<&str>,
        kind: EventKind,
        fields: &str,
    ) -> StoredEvent {
        if at_millis > self.at_millis {
            self.at_millis = at_millis;
            self.at.clear();
            let at = Timestamp::from_millisecond(at_millis).unwrap_or(Timestamp::UNIX_EPOCH);
            let _ = write!(self.at, "{at:.3}");
        }
        let mut json = String::with_capacity(128 + fields.len());
        // Writing to a string cannot fail.
        let _ = write!(
            json,
            r#"{{"seq":{seq},"at":"{}","deployment":"{}","step":"#,
            self.at, self.deployment
        );
        match step.map(serde_json::to_string) {
            Some(Ok(step)) => json.push_str(&step),
            _ => json.push_str("null"),
        }
        let _ = write!(json, r#","kind":"{kind}""#);
        if !fields.is_empty() {
            json.push(',');
            json.push_str(fields);
        }
        json.push('}');
        StoredEvent {
            seq,
            kind: kind.as_str().to_owned(),
            json,
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    seq: u64,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// Reads a line that is to be event number `seq`.
pub(super) fn parse(line: &[u8], seq: u64) -> Result<StoredEvent, String> {
    let json = str::from_utf8(line).map_err(|error| error.to_string())?;
    let envelope: Envelope<'_> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if envelope.seq != seq {
        return Err(format!("has number {}", envelope.seq));
    }
    Ok(StoredEvent {
        seq,
        kind: envelope.kind.into_owned(),
        json: json.to_owned(),
    })
}
