//! Events of a deployment, read leniently: what an older or newer server leaves out or adds never breaks
//! the following of a deployment.

use serde_json::{Map, Value, json};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// Its number; `None` for what the stream says about itself.
    pub(crate) seq: Option<u64>,
    pub(crate) deployment: Option<String>,
    pub(crate) step: Option<String>,
    pub(crate) kind: Kind,
    /// Everything it says, for `--json`.
    pub(crate) raw: Map<String, Value>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// The deployment, or a step of it, moved on.
    Phase {
        status: Option<String>,
        plugin: Option<String>,
    },
    /// A line that a plugin printed.
    Line {
        stderr: bool,
        text: String,
        truncated: bool,
    },
    Progress {
        done: u64,
        total: Option<u64>,
        label: String,
    },
    Warning {
        text: String,
    },
    Output {
        name: String,
        value: Value,
    },
    /// What a step used.
    Receipt(Receipt),
    /// What a limit kept out of the log.
    Dropped {
        lines: u64,
        bytes: u64,
    },
    /// The server was started again, and the deployment goes on.
    Resumed {
        from: String,
    },
    Error(Problem),
    /// The end.
    Done {
        status: String,
    },
    /// The reader was too slow: the stream ends here and is to be taken up again.
    Resync,
    /// A kind that this program does not know.
    Other,
}

/// What a step used. A figure that is missing is not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// How the step ended.
    pub(crate) status: Option<String>,
    pub(crate) wall_ms: Option<u64>,
    pub(crate) waited_ms: Option<u64>,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) bytes_written: Option<u64>,
    pub(crate) files_created: Option<u64>,
    pub(crate) lines: Option<u64>,
    pub(crate) dropped_lines: Option<u64>,
    /// What was granted and not used.
    pub(crate) unused: Vec<String>,
}

/// Why a deployment failed: of an `error` event, or of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) step: Option<String>,
    /// The last lines that the step printed.
    pub(crate) lines: Vec<String>,
}

impl Event {
    /// Reads an event's JSON. `kind` is the stream's name for it, and wins only when the JSON has none.
    ///
    /// Anything is an event; what makes no sense is [`Kind::Other`].
    pub(crate) fn read(kind: &str, data: &str) -> Event {
        let mut raw = match serde_json::from_str(data) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        };
        if !raw.contains_key("kind") && !kind.is_empty() {
            raw.insert("kind".to_owned(), json!(kind));
        }
        let text = |name: &str| Some(raw.get(name)?.as_str()?.to_owned());
        let number = |name: &str| raw.get(name).and_then(Value::as_u64);
        let kind = match text("kind").as_deref() {
            Some("phase") => Kind::Phase {
                status: text("status").or_else(|| text("phase")),
                plugin: text("plugin"),
            },
            Some("line") => Kind::Line {
                stderr: text("stream").as_deref() == Some("stderr"),
                text: text("text").unwrap_or_default(),
                truncated: raw.get("truncated").and_then(Value::as_bool) == Some(true),
            },
            Some("progress") => Kind::Progress {
                done: number("done").unwrap_or_default(),
                total: number("total"),
                label: text("label").unwrap_or_default(),
            },
            Some("warning") => Kind::Warning {
                text: text("text").or_else(|| text("message")).unwrap_or_default(),
            },
            Some("output") => Kind::Output {
                name: text("name").unwrap_or_default(),
                value: raw.get("value").cloned().unwrap_or_default(),
            },
            Some("receipt") => {
                let within = raw.get("receipt").and_then(Value::as_object);
                Kind::Receipt(Receipt::read(within.unwrap_or(&raw)))
            }
            Some("dropped") => Kind::Dropped {
                lines: number("lines").unwrap_or_default(),
                bytes: number("bytes").unwrap_or_default(),
            },
            Some("resumed") => Kind::Resumed {
                from: text("from").unwrap_or_default(),
            },
            Some("error") => {
                let within = raw.get("error").and_then(Value::as_object);
                Kind::Error(Problem::read(within.unwrap_or(&raw)))
            }
            Some("done") => Kind::Done {
                status: text("status").unwrap_or_default(),
            },
            Some("resync") => Kind::Resync,
            _ => Kind::Other,
        };
        Event {
            seq: number("seq"),
            deployment: text("deployment"),
            step: text("step"),
            kind,
            raw,
        }
    }
}

impl Receipt {
    /// Reads a receipt's figures, of an event or of a record's step.
    pub(crate) fn read(object: &Map<String, Value>) -> Receipt {
        let number = |name: &str| object.get(name).and_then(Value::as_u64);
        let status = object.get("status").and_then(Value::as_str);
        let unused = object.get("unused").and_then(Value::as_array);
        Receipt {
            status: status.map(str::to_owned),
            wall_ms: number("wall_ms"),
            waited_ms: number("waited_ms"),
            peak_memory_bytes: number("peak_memory_bytes"),
            bytes_written: number("bytes_written"),
            files_created: number("files_created"),
            lines: number("lines"),
            dropped_lines: number("dropped_lines"),
            unused: unused
                .into_iter()
                .flatten()
                .filter_map(|what| Some(what.as_str()?.to_owned()))
                .collect(),
        }
    }
}

impl Problem {
    /// Reads `{code, message, step, lines}`, where a line is text or `{text}`.
    pub(crate) fn read(object: &Map<String, Value>) -> Problem {
        let text = |name: &str| Some(object.get(name)?.as_str()?.to_owned());
        let lines = object.get("lines").and_then(Value::as_array);
        Problem {
            code: text("code").unwrap_or_default(),
            message: text("message").unwrap_or_default(),
            step: text("step"),
            lines: lines
                .into_iter()
                .flatten()
                .filter_map(|line| line.as_str().or_else(|| line.get("text")?.as_str()))
                .map(str::to_owned)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_takes_its_kind_from_the_stream_when_its_data_has_none() {
        let event = Event::read(
            "line",
            r#"{"seq":7,"step":"extract","stream":"stderr","text":"hm","truncated":true}"#,
        );
        assert_eq!(
            (event.seq, event.step.as_deref()),
            (Some(7), Some("extract"))
        );
        let kind = Kind::Line {
            stderr: true,
            text: "hm".to_owned(),
            truncated: true,
        };
        assert_eq!(event.kind, kind);
        assert_eq!(event.raw["kind"], "line");
    }

    #[test]
    fn what_is_missing_or_unknown_breaks_nothing() {
        assert_eq!(Event::read("novelty", "{}").kind, Kind::Other);
        assert_eq!(Event::read("line", "no json").seq, None);
        let receipt = Event::read("receipt", r#"{"receipt":{"wall_ms":3,"granted":{}}}"#);
        let expected = Receipt {
            wall_ms: Some(3),
            ..Receipt::default()
        };
        assert_eq!(receipt.kind, Kind::Receipt(expected));
    }

    #[test]
    fn the_last_lines_of_an_error_are_text_or_objects_with_text() {
        let data = r#"{"code":"step_failed","message":"exit 1","step":"install","lines":["a",{"text":"b"},3]}"#;
        let Kind::Error(problem) = Event::read("error", data).kind else {
            panic!("no error");
        };
        assert_eq!(problem.lines, ["a", "b"]);
    }
}
