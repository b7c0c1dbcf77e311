//! What a step says while it runs.

use serde::{Deserialize, Serialize};

/// Which stream a line was printed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// `stdout` or `stderr`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One thing a step said, in the order in which it said it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StepEvent {
    /// A printed line, without its line end.
    Line {
        /// Where it was printed.
        stream: OutputStream,
        /// The text; what was not UTF-8 is U+FFFD.
        text: String,
        /// Whether the end was cut off, because the line was longer than allowed.
        truncated: bool,
    },
    /// How far the step has come.
    Progress {
        /// What is done, in units of the step's choice.
        done: u64,
        /// What there is to do, when it is known.
        total: Option<u64>,
        /// What is being done.
        label: String,
    },
    /// Something a person should look at.
    Warning {
        /// The text.
        text: String,
    },
    /// A typed result.
    Output {
        /// Its name.
        name: String,
        /// Its value.
        value: serde_json::Value,
    },
    /// Lines that the output limit dropped. At most one, when the step has ended, where the lines are missing:
    /// before the last lines.
    Dropped {
        /// How many lines.
        lines: u64,
        /// How many bytes they had.
        bytes: u64,
    },
}
