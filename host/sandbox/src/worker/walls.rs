//! What the kernel lets a worker do, whatever happens to the WebAssembly around its guest.
//!
//! | wall | stops |
//! |---|---|
//! | Landlock | opening any file but those in the step's own directories; TCP; signals and abstract sockets to others |
//! | seccomp | every system call that a worker has no use for, among them all that start programs or make sockets |
//! | resource limits | memory, processor time, file sizes and descriptors beyond the grant, and core dumps |
//! | no new privileges, not dumpable | set-uid programs; being traced or read by others of the same user |
//!
//! The walls stand before any thread but the first exists: threads inherit them.

mod landlocked;
mod syscalls;

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

pub use self::landlocked::{LandlockStatus, landlock_status};
use super::Landlock;
use crate::limits::Limits;
use crate::spec::Preopen;

/// Memory that a worker may hold beside its guest's: the program, the engine, stacks and buffers, several times
/// over.
const OWN_MEMORY_BYTES: u64 = 512 << 20;

/// Bytes of one table element on the host.
const TABLE_ELEMENT_BYTES: u64 = 16;

/// Descriptors that a worker may hold beside its guest's.
const OWN_DESCRIPTORS: u64 = 64;

/// Processor seconds that a worker may use beside its guest's: it ends by itself long before.
const OWN_CPU_SECONDS: u64 = 2;

/// Processor seconds that a compilation may take, over all its threads.
const COMPILE_CPU_SECONDS: u64 = 300;

/// Bytes of a compiled component: ten times the largest WebAssembly that is admitted.
const COMPILED_BYTES: u64 = 640 << 20;

/// What a job needs.
pub(super) struct Needs<'a> {
    pub(super) preopens: &'a [Preopen],
    pub(super) landlock: Landlock,
    memory_bytes: u64,
    cpu_seconds: u64,
    file_bytes: u64,
    descriptors: u64,
}

impl<'a> Needs<'a> {
    /// What a step needs.
    pub(super) fn step(landlock: Landlock, limits: &Limits, preopens: &'a [Preopen]) -> Self {
        Self {
            preopens,
            landlock,
            memory_bytes: limits
                .memory_bytes
                .saturating_add(limits.table_elements.saturating_mul(TABLE_ELEMENT_BYTES))
                .saturating_add(OWN_MEMORY_BYTES),
            cpu_seconds: (limits.cpu_ms / 1000).saturating_add(OWN_CPU_SECONDS),
            file_bytes: limits.disk_bytes,
            descriptors: limits.handles.saturating_add(OWN_DESCRIPTORS),
        }
    }

    /// What a compilation needs.
    pub(super) fn compilation(landlock: Landlock, memory_bytes: u64) -> Self {
        Self {
            preopens: &[],
            landlock,
            memory_bytes,
            cpu_seconds: COMPILE_CPU_SECONDS,
            file_bytes: COMPILED_BYTES,
            descriptors: OWN_DESCRIPTORS,
        }
    }
}

/// What of the walls stands before it is known what they are to go around, and what else is ready by then.
pub(super) struct Foundation {
    last: syscalls::Last,
}

impl Foundation {
    /// Lays it, for this very process: from now on it does what a worker does, and maps components.
    pub(super) fn lay() -> Result<Self, String> {
        let last = syscalls::begin()?;
        Ok(Self { last })
    }
}

/// Raises the walls around the calling thread and all that it starts. There is no way back.
pub(super) fn raise(foundation: &Foundation, needs: &Needs<'_>) -> Result<LandlockStatus, String> {
    let status = landlocked::restrict(needs)?;
    limit(needs).map_err(|error| format!("resource limits cannot be set: {error}"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("tracing cannot be forbidden: {error}"))?;
    foundation.last.restrict()?;
    Ok(status)
}

fn limit(needs: &Needs<'_>) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Data, needs.memory_bytes),
        (Resource::Cpu, needs.cpu_seconds),
        (Resource::Fsize, needs.file_bytes),
        (Resource::Nofile, needs.descriptors),
    ] {
        // A limit that is lower already stays.
        let present = rustix::process::getrlimit(resource);
        let lower =
            |present: Option<u64>| Some(present.map_or(limit, |present| present.min(limit)));
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: lower(present.current),
                maximum: lower(present.maximum),
            },
        )?;
    }
    Ok(())
}
