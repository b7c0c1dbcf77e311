//! Reproducible steps: a world without a time, a chance or a machine of its own.
//!
//! | what a guest can see | in a reproducible step |
//! |---|---|
//! | wall clock | starts at [`EPOCH_SECONDS`] and goes on by [`STEP_NANOS`] with each look |
//! | monotonic clock | the same, from zero; a sleep moves it and takes no time |
//! | random numbers, and so the order of hash tables | one stream for each component, config and step name |
//! | the deployment's id | [`DEPLOYMENT`] |
//! | times of files | the epoch |
//! | sizes of directories | zero: file systems differ |
//! | numbers of files (metadata hashes) | counted in the order in which the guest asks |
//! | the order of directory listings | by name |
//! | bits of a NaN, relaxed SIMD | canonical in every step: see `engine` |
//!
//! How many bytes one read of standard input returns still depends on how they arrive, and how much memory there is
//! on the machine: a step that makes its result of either is not reproducible.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand_core::TryRng;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};
use wasmtime_wasi::p2::Pollable;

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
        self.0.fetch_add(STEP_NANOS, Ordering::Relaxed)
    }

    /// Something that is ready at that time, which is at once: waiting for it makes it that time.
    pub(crate) fn until(&self, nanos: u64) -> Sleep {
        Sleep {
            time: self.clone(),
            nanos,
        }
    }

    /// The same, so many nanoseconds from now.
    pub(crate) fn after(&self, nanos: u64) -> Sleep {
        self.until(self.0.load(Ordering::Relaxed).saturating_add(nanos))
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

/// A sleep in virtual time.
pub(crate) struct Sleep {
    time: VirtualTime,
    nanos: u64,
}

#[async_trait]
impl Pollable for Sleep {
    async fn ready(&mut self) {
        // Whoever may stop the guest has a turn.
        tokio::task::yield_now().await;
        self.time.0.fetch_max(self.nanos, Ordering::Relaxed);
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
