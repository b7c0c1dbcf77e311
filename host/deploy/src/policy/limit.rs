//! The limits by name, each with its built-in ceiling and the reason for it.

use cofferdam_sandbox::Limits;

use crate::head::RequestedLimits;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// What a limit's number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Milliseconds,
    Count,
}

/// One limit: how a request, a policy and a grant speak of it.
#[derive(Debug)]
pub(crate) struct Limit {
    /// Its name with the unit in it, as the HTTP interface has it.
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// The ceiling when no policy has one.
    pub(crate) built_in: u64,
    pub(crate) asked: fn(&RequestedLimits) -> Option<u64>,
    pub(crate) granted: fn(&mut Limits) -> &mut u64,
    /// Whether it is about directories, which a service need not have.
    pub(crate) is_of_files: bool,
}

impl Limit {
    /// The name without its unit, for a value that has one (`wall = "60s"`).
    pub(crate) fn short(&self) -> &'static str {
        let suffix = match self.unit {
            Unit::Bytes => "_bytes",
            Unit::Milliseconds => "_ms",
            Unit::Count => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }
}

/// Every limit that can be asked for.
pub(crate) static LIMITS: [Limit; 12] = [
    Limit {
        name: "memory_bytes",
        unit: Unit::Bytes,
        // The size of the address space of a 32-bit guest.
        built_in: 4 * GIB,
        asked: |asked| asked.memory_bytes,
        granted: |limits| &mut limits.memory_bytes,
        is_of_files: false,
    },
    Limit {
        name: "wall_ms",
        unit: Unit::Milliseconds,
        // Longer than a step that somebody waits for.
        built_in: HOUR_MS,
        asked: |asked| asked.wall_ms,
        granted: |limits| &mut limits.wall_ms,
        is_of_files: false,
    },
    Limit {
        name: "cpu_ms",
        unit: Unit::Milliseconds,
        // A step has one thread, so it cannot use more than its wall time.
        built_in: HOUR_MS,
        asked: |asked| asked.cpu_ms,
        granted: |limits| &mut limits.cpu_ms,
        is_of_files: false,
    },
    Limit {
        name: "disk_bytes",
        unit: Unit::Bytes,
        // A machine's disk is larger, and two of them still fit.
        built_in: 64 * GIB,
        asked: |asked| asked.disk_bytes,
        granted: |limits| &mut limits.disk_bytes,
        is_of_files: true,
    },
    Limit {
        name: "files",
        unit: Unit::Count,
        // Some large dependency trees together.
        built_in: 5_000_000,
        asked: |asked| asked.files,
        granted: |limits| &mut limits.files,
        is_of_files: true,
    },
    Limit {
        name: "handles",
        unit: Unit::Count,
        // Below the usual limit of descriptors of a process.
        built_in: 4096,
        asked: |asked| asked.handles,
        granted: |limits| &mut limits.handles,
        is_of_files: true,
    },
    Limit {
        name: "output_bytes",
        unit: Unit::Bytes,
        // Each of them is stored.
        built_in: GIB,
        asked: |asked| asked.output_bytes,
        granted: |limits| &mut limits.output_bytes,
        is_of_files: false,
    },
    Limit {
        name: "line_bytes",
        unit: Unit::Bytes,
        // Each line is one event, and an event is held in memory.
        built_in: MIB,
        asked: |asked| asked.line_bytes,
        granted: |limits| &mut limits.line_bytes,
        is_of_files: false,
    },
    Limit {
        name: "requests",
        unit: Unit::Count,
        // Ten times the default: every package of a very large dependency graph, with its metadata.
        built_in: 100_000,
        asked: |asked| asked.requests,
        granted: |limits| &mut limits.requests,
        is_of_files: false,
    },
    Limit {
        name: "egress_bytes",
        unit: Unit::Bytes,
        // An install step fetches; what sends more than this is no install step.
        built_in: GIB,
        asked: |asked| asked.egress_bytes,
        granted: |limits| &mut limits.egress_bytes,
        is_of_files: false,
    },
    Limit {
        name: "ingress_bytes",
        unit: Unit::Bytes,
        // As much as it may write to disk.
        built_in: 64 * GIB,
        asked: |asked| asked.ingress_bytes,
        granted: |limits| &mut limits.ingress_bytes,
        is_of_files: false,
    },
    Limit {
        name: "connections",
        unit: Unit::Count,
        // Each holds a descriptor and its buffers in the host.
        built_in: 128,
        asked: |asked| asked.connections,
        granted: |limits| &mut limits.connections,
        is_of_files: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_built_in_ceiling() {
        let mut defaults = Limits::default();
        for limit in &LIMITS {
            assert!(
                *(limit.granted)(&mut defaults) <= limit.built_in,
                "{}",
                limit.name
            );
        }
    }
}
