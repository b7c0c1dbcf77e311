//! What a guest may use, and why that much.

use serde::{Deserialize, Serialize};

/// Linear memory of a step, all its memories together: enough for a package manager that holds a large
/// dependency graph, and four of them fit into a small machine.
pub const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

/// Table elements of a step, all its tables together: a componentized Python uses about 15,000.
pub const DEFAULT_TABLE_ELEMENTS: u64 = 100_000;

/// Wall-clock time of a step: a deployment that takes longer than ten minutes wants to be told so.
pub const DEFAULT_WALL_MS: u64 = 10 * 60 * 1000;

/// CPU time of a step: half of the wall-clock time, because a step that does nothing but compute is rare.
pub const DEFAULT_CPU_MS: u64 = 5 * 60 * 1000;

/// Bytes a step may write: a large site with its dependencies unpacked.
pub const DEFAULT_DISK_BYTES: u64 = 4 << 30;

/// Files, directories and links a step may create: ten times a large `node_modules`.
pub const DEFAULT_FILES: u64 = 250_000;

/// Descriptors a step may hold open: the usual soft limit of a process.
pub const DEFAULT_HANDLES: u64 = 1024;

/// Bytes of printed lines that are kept: a long build log, and far less than a disk notices.
pub const DEFAULT_OUTPUT_BYTES: u64 = 8 << 20;

/// Bytes of one line: longer ones are data, not something a person reads.
pub const DEFAULT_LINE_BYTES: u64 = 16 << 10;

/// Typed outputs of a step: services and results, each described once.
pub const DEFAULT_OUTPUTS: u64 = 64;

/// Bytes of all typed outputs of a step: they are stored in the deployment's record.
pub const DEFAULT_OUTPUTS_BYTES: u64 = 256 << 10;

/// Requests a step may send: a package manager that fetches a large dependency graph.
pub const DEFAULT_REQUESTS: u64 = 10_000;

/// Bytes a step may send out, heads and bodies: an install fetches, and what it has to say is short.
pub const DEFAULT_EGRESS_BYTES: u64 = 64 << 20;

/// Bytes a step may receive, heads and bodies: what it could write to its disk at most.
pub const DEFAULT_INGRESS_BYTES: u64 = DEFAULT_DISK_BYTES;

/// Requests a step may have under way at the same time, each on a connection of its own, which is kept for the next:
/// what package managers use, and few enough for any one server.
pub const DEFAULT_CONNECTIONS: u64 = 32;

/// Linear memory of one request to a service: several hundred of them fit beside each other.
pub const DEFAULT_SERVICE_MEMORY_BYTES: u64 = 64 << 20;

/// Guest time of one request: a browser's user has left by then.
pub const DEFAULT_SERVICE_WALL_MS: u64 = 30_000;

/// CPU time of one request: a request that computes for this long belongs into a step.
pub const DEFAULT_SERVICE_CPU_MS: u64 = 10_000;

/// Requests that one request to a service may send: a page that is put together from a few sources.
pub const DEFAULT_SERVICE_REQUESTS: u64 = 64;

/// Bytes that one request to a service may send out: a form with a picture, passed on.
pub const DEFAULT_SERVICE_EGRESS_BYTES: u64 = 16 << 20;

/// Bytes that one request to a service may receive: what it could hold in its memory.
pub const DEFAULT_SERVICE_INGRESS_BYTES: u64 = DEFAULT_SERVICE_MEMORY_BYTES;

/// Requests that one request to a service may have under way at the same time: several hundred of them run beside each
/// other, and each of these is a descriptor.
pub const DEFAULT_SERVICE_CONNECTIONS: u64 = 4;

/// Bytes that one request to a service may write to its directory: an upload that a visitor makes.
pub const DEFAULT_SERVICE_DISK_BYTES: u64 = 16 << 20;

/// Files, directories and links that one request to a service may create.
pub const DEFAULT_SERVICE_FILES: u64 = 100;

/// Descriptors that one request to a service may hold open: several hundred of them run beside each other.
pub const DEFAULT_SERVICE_HANDLES: u64 = 16;

/// How long a client may take no byte at all before its request's instance is given to another.
pub const DEFAULT_SERVICE_STALL_MS: u64 = 120_000;

/// Bytes that one request may print into the host's log.
pub const DEFAULT_SERVICE_OUTPUT_BYTES: u64 = 64 << 10;

/// The most a step may use. Every run states what it was granted, and its receipt what it used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of linear memory, all memories together.
    pub memory_bytes: u64,
    /// Table elements, all tables together.
    pub table_elements: u64,
    /// Milliseconds from start to end, host calls and sleeping included, waiting for stdin excluded.
    pub wall_ms: u64,
    /// Milliseconds of CPU time.
    pub cpu_ms: u64,
    /// Bytes written, and bytes that files are made longer by without being written (sparse sizes). Nothing
    /// is given back when files are removed or shortened.
    pub disk_bytes: u64,
    /// Files, directories, symbolic links and hard links created. Removing gives nothing back.
    pub files: u64,
    /// Descriptors open at the same time.
    pub handles: u64,
    /// Bytes of printed lines that are kept; beyond it the first and the last lines are.
    pub output_bytes: u64,
    /// Bytes of one line; what is longer is cut and marked.
    pub line_bytes: u64,
    /// Typed outputs.
    pub outputs: u64,
    /// Bytes of all typed outputs together, names included.
    pub outputs_bytes: u64,
    /// Requests sent to the network, refused ones included.
    pub requests: u64,
    /// Bytes sent to the network, heads included.
    pub egress_bytes: u64,
    /// Bytes received from the network, heads included.
    pub ingress_bytes: u64,
    /// Requests under way at the same time; the next one waits until one has ended.
    pub connections: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: DEFAULT_MEMORY_BYTES,
            table_elements: DEFAULT_TABLE_ELEMENTS,
            wall_ms: DEFAULT_WALL_MS,
            cpu_ms: DEFAULT_CPU_MS,
            disk_bytes: DEFAULT_DISK_BYTES,
            files: DEFAULT_FILES,
            handles: DEFAULT_HANDLES,
            output_bytes: DEFAULT_OUTPUT_BYTES,
            line_bytes: DEFAULT_LINE_BYTES,
            outputs: DEFAULT_OUTPUTS,
            outputs_bytes: DEFAULT_OUTPUTS_BYTES,
            requests: DEFAULT_REQUESTS,
            egress_bytes: DEFAULT_EGRESS_BYTES,
            ingress_bytes: DEFAULT_INGRESS_BYTES,
            connections: DEFAULT_CONNECTIONS,
        }
    }
}

/// The most one request to a service may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ServiceLimits {
    /// Bytes of linear memory, all memories together.
    pub memory_bytes: u64,
    /// Table elements, all tables together.
    pub table_elements: u64,
    /// Milliseconds the client waits for the guest, until the last byte of the body. The time the guest waits
    /// for a slow client does not count.
    pub wall_ms: u64,
    /// Milliseconds of CPU time, to the precision of the sandbox's tick.
    pub cpu_ms: u64,
    /// Milliseconds for which a client may take nothing of a body that is ready for it.
    pub stall_ms: u64,
    /// Bytes that one request may print into the host's log.
    pub output_bytes: u64,
    /// Bytes of one printed line.
    pub line_bytes: u64,
    /// Requests sent to the network, refused ones included.
    pub requests: u64,
    /// Bytes sent to the network, heads included.
    pub egress_bytes: u64,
    /// Bytes received from the network, heads included.
    pub ingress_bytes: u64,
    /// Requests under way at the same time; the next one waits until one has ended.
    pub connections: u64,
    /// Bytes written to its directory, sparse sizes included.
    pub disk_bytes: u64,
    /// Files, directories, symbolic links and hard links created there.
    pub files: u64,
    /// Descriptors open at the same time.
    pub handles: u64,
}

impl ServiceLimits {
    /// What of the network one request may use, as a step is told it.
    pub(crate) fn of_network(&self) -> Limits {
        Limits {
            requests: self.requests,
            egress_bytes: self.egress_bytes,
            ingress_bytes: self.ingress_bytes,
            connections: self.connections,
            ..Limits::default()
        }
    }
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            memory_bytes: DEFAULT_SERVICE_MEMORY_BYTES,
            table_elements: DEFAULT_TABLE_ELEMENTS,
            wall_ms: DEFAULT_SERVICE_WALL_MS,
            cpu_ms: DEFAULT_SERVICE_CPU_MS,
            stall_ms: DEFAULT_SERVICE_STALL_MS,
            output_bytes: DEFAULT_SERVICE_OUTPUT_BYTES,
            line_bytes: DEFAULT_LINE_BYTES,
            requests: DEFAULT_SERVICE_REQUESTS,
            egress_bytes: DEFAULT_SERVICE_EGRESS_BYTES,
            ingress_bytes: DEFAULT_SERVICE_INGRESS_BYTES,
            connections: DEFAULT_SERVICE_CONNECTIONS,
            disk_bytes: DEFAULT_SERVICE_DISK_BYTES,
            files: DEFAULT_SERVICE_FILES,
            handles: DEFAULT_SERVICE_HANDLES,
        }
    }
}
