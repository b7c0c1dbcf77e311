//! Stopping a guest: who said so, and the clocks that may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

/// Why a guest was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancelled,
    TimedOut,
    CpuExceeded,
}

/// The one place that stops a guest. The first reason counts.
#[derive(Debug, Default)]
pub(crate) struct Control {
    stop: AtomicU8,
    notify: Notify,
}

impl Control {
    pub(crate) fn stop(&self, reason: Stop) {
        let code = match reason {
            Stop::Cancelled => 1,
            Stop::TimedOut => 2,
            Stop::CpuExceeded => 3,
        };
        // One waiter at most, the guest's own thread; the permit is kept when it does not wait yet.
        if self
            .stop
            .compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.notify.notify_one();
        }
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        match self.stop.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Stop::Cancelled),
            2 => Some(Stop::TimedOut),
            _ => Some(Stop::CpuExceeded),
        }
    }

    /// Resolves once the guest is stopped, at once when it already is.
    pub(crate) async fn wait(&self) -> Stop {
        loop {
            if let Some(reason) = self.stopped() {
                return reason;
            }
            self.notify.notified().await;
        }
    }
}

/// The error by which a running guest is unwound when it was stopped.
#[derive(Debug, thiserror::Error)]
#[error("the guest was stopped")]
pub(crate) struct Stopped;

/// Wall-clock time with pauses: for a step while it waits for input, for a service while its client is slow.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    paused_nanos: AtomicU64,
    /// Nanoseconds after `start`, plus one, at which the present pause began; 0 when there is none.
    pause: AtomicU64,
}

/// The shortest sleep between two looks at a clock that may be paused.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            paused_nanos: AtomicU64::new(0),
            pause: AtomicU64::new(0),
        }
    }

    pub(crate) fn pause(&self) {
        let _ = self
            .pause
            .compare_exchange(0, self.now() + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn resume(&self) {
        let began = self.pause.swap(0, Ordering::AcqRel);
        if began != 0 {
            self.paused_nanos
                .fetch_add((self.now() + 1).saturating_sub(began), Ordering::AcqRel);
        }
    }

    /// How long the present pause has lasted.
    pub(crate) fn pausing(&self) -> Duration {
        match self.pause.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            began => Duration::from_nanos((self.now() + 1).saturating_sub(began)),
        }
    }

    pub(crate) fn paused(&self) -> Duration {
        Duration::from_nanos(self.paused_nanos.load(Ordering::Acquire)) + self.pausing()
    }

    pub(crate) fn used(&self) -> Duration {
        self.start.elapsed().saturating_sub(self.paused())
    }

    /// Resolves when more than `limit` has been used.
    pub(crate) async fn exceeds(&self, limit: Duration) {
        loop {
            let used = self.used();
            if used > limit {
                return;
            }
            tokio::time::sleep((limit - used).max(SHORTEST_LOOK)).await;
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

/// When a guest is to do no more: for host calls that may take long, which nothing else interrupts.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    pub(crate) control: Arc<Control>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) wall: Duration,
}

impl Deadline {
    /// Whether that is now; if so the guest is stopped, should nobody have done so yet.
    pub(crate) fn is_over(&self) -> bool {
        if self.clock.used() > self.wall {
            self.control.stop(Stop::TimedOut);
        }
        self.control.stopped().is_some()
    }
}

/// The CPU time of the calling thread.
pub(crate) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Whole milliseconds of a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_to_stop_counts() {
        let control = Control::default();
        assert_eq!(control.stopped(), None);
        control.stop(Stop::TimedOut);
        control.stop(Stop::Cancelled);
        assert_eq!(control.stopped(), Some(Stop::TimedOut));
    }

    #[test]
    fn a_pause_does_not_count_as_used_time() {
        let clock = Clock::start();
        clock.pause();
        while clock.pausing() < Duration::from_millis(20) {
            std::thread::yield_now();
        }
        clock.resume();
        assert!(clock.paused() >= Duration::from_millis(20));
        assert!(clock.used() + clock.paused() <= clock.start.elapsed() + Duration::from_millis(1));
        assert_eq!(clock.pausing(), Duration::ZERO);
    }
}
