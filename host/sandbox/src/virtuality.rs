//! Reproducible steps: a world without a time, a chance or a machine of its own.
//!
//! | what a guest can see | in a reproducible step |
//! |---|---|
//! | wall clock | starts at [`EPOCH_SECONDS`] and goes on by [`STEP_NANOS`] with each look |
//! | monotonic clock | the same, from zero; a sleep moves it and takes no time, unless something else is waited for |
//! | random numbers, and so the order of hash tables | one stream for each component, config and step name |
//! | the deployment's id | [`DEPLOYMENT`] |
//! | times of files | the epoch |
//! | sizes of directories | zero: file systems differ |
//! | numbers of files (metadata hashes) | counted in the order in which the guest asks |
//! | the order of directory listings | by name |
//! | bits of a NaN, relaxed SIMD | canonical in every step: see `engine` |
//!
//! A file whose number was given up is forgotten: whether the next one gets it depends on the file system. Waiting for
//! several things at once ends when all of them are ready, and standard input comes in pieces of one size, so that how
//! fast anything is is not seen. How much memory the machine has still is, and a read of standard input that does not
//! wait: a step that makes its result of either is not reproducible.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand_core::TryRng;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};

use crate::spec::StepSpec;

/// When every reproducible step begins: 1 January 2000, which archive formats and programs that distrust old dates
/// can represent.
pub(crate) const EPOCH_SECONDS: u64 = 946_684_800;

/// How far a look at a clock moves it: a program that waits for a second by looking all the time is done soon.
const STEP_NANOS: u64 = 1_000_000;

/// The deployment that every reproducible step believes to be part of.
pub(crate) const DEPLOYMENT: &str = "00000000-0000-7000-8000-000000000000";

/// The context by which the hash function tells this use of it from others.
const SEED_CONTEXT: &str = "cofferdam reproducible step 2026-11-21 random numbers";

/// Time that only the guest moves. Clones are the same time.
#[derive(Debug, Clone, Default)]
pub(crate) struct VirtualTime(Arc<AtomicU64>);

impl VirtualTime {
    /// Nanoseconds since the step began. Looking takes time.
    pub(crate) fn look(&self) -> u64 {
        let now = self.now();
        self.pass_to(now.saturating_add(STEP_NANOS));
        now
    }

    /// The same, without taking time.
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes it that time, unless it is later already.
    pub(crate) fn pass_to(&self, nanos: u64) {
        self.0.fetch_max(nanos, Ordering::Relaxed);
    }
}

impl HostMonotonicClock for VirtualTime {
    fn resolution(&self) -> u64 {
        STEP_NANOS
    }

    fn now(&self) -> u64 {
        self.look()
    }
}

impl HostWallClock for VirtualTime {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(STEP_NANOS)
    }

    fn now(&self) -> Duration {
        Duration::from_secs(EPOCH_SECONDS) + Duration::from_nanos(self.look())
    }
}

/// Random numbers that are the same in every run of the same step.
pub(crate) struct SeededRandom(blake3::OutputReader);

impl SeededRandom {
    /// The stream of this name for a step that runs the component with this digest.
    pub(crate) fn new(spec: &StepSpec, digest: &str, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SEED_CONTEXT);
        for part in [
            name,
            digest,
            &spec.context.step,
            &spec.context.config.to_string(),
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize_xof())
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }

    pub(crate) fn seed(&mut self) -> u128 {
        u128::from_le_bytes(self.bytes())
    }
}

impl TryRng for SeededRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.bytes()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}
