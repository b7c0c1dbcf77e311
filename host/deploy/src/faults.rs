//! Points at which a test kills the host: between any two things that recovery has to tell apart.
//!
//! They are compiled in with the feature `faults`, which the end-to-end tests turn on for the binary that they run and
//! which no release has. `COFFERDAM_FAULT=NAME` kills the process when it passes the point of that name for the first
//! time, `NAME:3` the third time.

/// Every point: in the order in which a deployment passes them, and then those of a rollback, of retention and of the
/// removal of a project.
pub const POINTS: [&str; 23] = [
    "staging-made",
    "accepted",
    "lease-taken",
    "step-begun",
    "step-ended",
    "tree-durable",
    "step-recorded",
    "package-stored",
    "package-recorded",
    "release-frozen",
    "publish-intended",
    "release-published",
    "services-started",
    "activation-recorded",
    "routes-replaced",
    "staging-discarded",
    "end-written",
    "teardown-intended",
    "failure-recorded",
    "resume-recorded",
    "pointer-moved",
    "retention-recorded",
    "project-removed",
];

/// A point that `COFFERDAM_FAULT` names by itself: steps count as stuck when they have ended.
pub(crate) const STUCK: &str = "step-stuck";

#[cfg(feature = "faults")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Fault {
        name: String,
        passes: AtomicU32,
    }

    static ARMED: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let text = std::env::var("COFFERDAM_FAULT").ok()?;
        let (name, passes) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Fault {
            name: name.to_owned(),
            passes: AtomicU32::new(passes.parse().ok()?),
        })
    });

    pub(crate) fn point(name: &str) {
        debug_assert!(super::POINTS.contains(&name), "{name} is not in the list");
        let Some(fault) = ARMED.as_ref().filter(|fault| fault.name == name) else {
            return;
        };
        if fault.passes.fetch_sub(1, Ordering::SeqCst) == 1 {
            // As the kernel would: nothing is flushed, no destructor runs.
            let this = rustix::process::getpid();
            let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
            // A signal to oneself may take a moment.
            loop {
                std::thread::park();
            }
        }
    }

    pub(crate) fn is_armed(name: &str) -> bool {
        ARMED.as_ref().is_some_and(|fault| fault.name == name)
    }
}

/// Kills the process if a test asks for it.
#[cfg(feature = "faults")]
pub(crate) use armed::point;

/// Whether a test asks for a fault that is more than the death of the process.
#[cfg(feature = "faults")]
pub(crate) use armed::is_armed;

/// Nothing, in anything but a test.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn point(_: &str) {}

/// Nothing is, in anything but a test.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) fn is_armed(_: &str) -> bool {
    false
}
