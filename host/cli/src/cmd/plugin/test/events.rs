//! What a step says, in the form that is recorded: the events of a deployment's log without their number, time,
//! deployment and step, and without what depends on time.

use cofferdam_sandbox::{OutputStream, StepEvent, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that a step said, or how it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Said {
    Line {
        stream: OutputStream,
        text: String,
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    },
    Warning {
        text: String,
    },
    Output {
        name: String,
        value: Value,
    },
    Dropped {
        lines: u64,
        bytes: u64,
    },
    /// Always the last one.
    Done {
        status: End,
        /// The stable code of a failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

/// How a fixture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    Succeeded,
    Failed,
    /// Before it began: the host does not run such a step.
    Refused,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Said {
    /// What is recorded of an event. Progress is not: which reports are merged depends on time.
    pub(super) fn of(event: StepEvent) -> Option<Said> {
        Some(match event {
            StepEvent::Line {
                stream,
                text,
                truncated,
            } => Said::Line {
                stream,
                text,
                truncated,
            },
            StepEvent::Warning { text } => Said::Warning { text },
            StepEvent::Output { name, value } => Said::Output { name, value },
            StepEvent::Dropped { lines, bytes } => Said::Dropped { lines, bytes },
            StepEvent::Progress { .. } => return None,
        })
    }

    /// How a step ended that ran.
    pub(super) fn end(verdict: &Verdict) -> Said {
        let failed = |code: &str, exit_code, message| Said::Done {
            status: End::Failed,
            code: Some(code.to_owned()),
            exit_code,
            message,
        };
        match verdict {
            Verdict::Succeeded => Said::Done {
                status: End::Succeeded,
                code: None,
                exit_code: None,
                message: None,
            },
            Verdict::Exited { code } => failed("step_failed", Some(*code), None),
            // The frames change with every build; the trap itself does not.
            Verdict::Trapped { message } => {
                let trap = message.lines().next().unwrap_or_default();
                failed("step_trapped", None, Some(trap.to_owned()))
            }
            Verdict::TimedOut { .. } => failed("step_timeout", None, None),
            Verdict::CpuExceeded { .. } => failed("step_cpu_exceeded", None, None),
            Verdict::MemoryExceeded { .. } => failed("step_memory_exceeded", None, None),
            Verdict::DiskExceeded { message } => {
                failed("step_disk_exceeded", None, Some(message.clone()))
            }
            Verdict::Cancelled => failed("cancelled", None, None),
        }
    }

    /// That the host would not run the step, or not keep what it left.
    pub(super) fn refused(code: &str, message: String) -> Said {
        Said::Done {
            status: End::Refused,
            code: Some(code.to_owned()),
            exit_code: None,
            message: Some(message),
        }
    }
}

/// The recorded form: one JSON object in each line.
pub(super) fn text(said: &[Said]) -> String {
    said.iter()
        .map(|said| {
            let mut line = serde_json::to_string(said)
                .expect("names and values are text and JSON, which always serialise");
            line.push('\n');
            line
        })
        .collect()
}

/// Reads the recorded form; the error names the line.
pub(super) fn read(text: &str) -> Result<Vec<Said>, String> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_recorded_form_is_read_back_and_says_only_what_matters() {
        let said = [
            Said::Line {
                stream: OutputStream::Stdout,
                text: "a \"b\"".to_owned(),
                truncated: false,
            },
            Said::Output {
                name: "n".to_owned(),
                value: json!({ "z": 1, "a": [null] }),
            },
            Said::end(&Verdict::Exited { code: 1 }),
        ];
        let text = text(&said);
        assert!(
            text.starts_with(
                "{\"kind\":\"line\",\"stream\":\"stdout\",\"text\":\"a \\\"b\\\"\"}\n"
            ),
            "{text}"
        );
        assert!(
            text.ends_with(
                "{\"kind\":\"done\",\"status\":\"failed\",\"code\":\"step_failed\",\"exit_code\":1}\n"
            ),
            "{text}"
        );
        assert_eq!(read(&text).unwrap(), said);
        assert!(
            read("{\"kind\":\"lyne\"}")
                .unwrap_err()
                .starts_with("line 1: ")
        );
    }

    #[test]
    fn a_trap_is_recorded_without_its_frames() {
        let verdict = Verdict::Trapped {
            message: "wasm trap: unreachable\nframes".to_owned(),
        };
        let Said::Done { message, .. } = Said::end(&verdict) else {
            panic!("no end");
        };
        assert_eq!(message.as_deref(), Some("wasm trap: unreachable"));
    }
}
