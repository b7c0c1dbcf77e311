//! How a step ended, and what it used.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::redact::Redactor;
use crate::spec::InputError;

/// The end of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// What it used, next to what it was granted.
    pub receipt: Receipt,
    /// The error that ended its input early, when the input channel carried one and the guest read up to it or
    /// it was waiting. Such a step may have failed through no fault of its own.
    pub input_error: Option<InputError>,
    /// Whether a write failed because the host's own disk is full, which is no fault of the step either.
    pub host_disk_full: bool,
}

/// How a step ended. The first is success; everything else fails the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It returned, or exited with 0.
    Succeeded,
    /// It exited with another code. WASI 0.2's `exit` tells only success and failure apart: failure is 1.
    Exited {
        /// The exit code.
        code: i32,
    },
    /// It trapped: a panic, an access out of bounds, or a host call it may not make.
    Trapped {
        /// What trapped, with the WebAssembly backtrace.
        message: String,
    },
    /// It took too long.
    TimedOut {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// It computed for too long.
    CpuExceeded {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// It was refused memory, and failed.
    MemoryExceeded {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// It was refused bytes or files, and failed.
    DiskExceeded {
        /// Which limit, with its value.
        message: String,
    },
    /// It was cancelled, or its handle dropped.
    Cancelled,
}

impl Verdict {
    /// Whether the step succeeded.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Succeeded)
    }
}

impl Verdict {
    /// The verdict without the secrets that its message may hold.
    pub(crate) fn redacted(self, redactor: &Redactor) -> Self {
        match self {
            Self::Trapped { message } => Self::Trapped {
                message: redactor.text(message).into_owned(),
            },
            Self::DiskExceeded { message } => Self::DiskExceeded {
                message: redactor.text(message).into_owned(),
            },
            other => other,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Trapped { message } => write!(f, "trapped: {message}"),
            Self::TimedOut { limit_ms } => write!(f, "took longer than its {limit_ms} ms"),
            Self::CpuExceeded { limit_ms } => {
                write!(f, "computed longer than its {limit_ms} ms of CPU time")
            }
            Self::MemoryExceeded { limit_bytes } => {
                write!(f, "needed more than its {limit_bytes} bytes of memory")
            }
            Self::DiskExceeded { message } => f.write_str(message),
            Self::Cancelled => f.write_str("was cancelled"),
        }
    }
}

/// What a step used, next to what it was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Receipt {
    /// Milliseconds from start to end, waiting for input excluded.
    pub wall_ms: u64,
    /// Milliseconds of CPU time of the step's thread.
    pub cpu_ms: u64,
    /// Milliseconds for which the step waited for input that had not come yet.
    pub waited_ms: u64,
    /// The most bytes of linear memory it held at once.
    pub peak_memory_bytes: u64,
    /// Bytes written, sparse growth included.
    pub bytes_written: u64,
    /// Bytes read from files.
    #[serde(default)]
    pub bytes_read: u64,
    /// Files, directories and links created.
    pub files_created: u64,
    /// Files and directories opened, those that it created among them.
    #[serde(default)]
    pub files_opened: u64,
    /// The most descriptors it held at once.
    pub peak_handles: u64,
    /// Lines printed and kept.
    pub lines: u64,
    /// Bytes printed, kept or not.
    pub output_bytes: u64,
    /// Lines that the output limit dropped.
    pub dropped_lines: u64,
    /// The bytes of those lines.
    pub dropped_bytes: u64,
    /// The secrets that it read, by name. One that it was granted and did not ask for is not among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets_read: Vec<String>,
    /// What it sent to the network and got from there, by `host:port`.
    #[serde(default)]
    pub hosts: BTreeMap<String, HostUsage>,
    /// What it was granted.
    pub granted: Limits,
}

/// What a step had to do with one host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct HostUsage {
    /// Requests that it sent, refused ones included.
    pub requests: u64,
    /// Requests that were refused.
    pub denied: u64,
    /// Bytes sent, heads included.
    pub bytes_out: u64,
    /// Bytes received, heads included.
    pub bytes_in: u64,
}
