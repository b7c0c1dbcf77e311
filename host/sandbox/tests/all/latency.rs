//! What a busy machine explains of a guest that is stopped late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How precise the time is at which a file was changed: a tick of the slowest kernels' clock.
const FILE_TIME: Duration = Duration::from_millis(10);

/// How long this machine makes a thread wait that wants to run, at worst, for as long as it is watched. Stopping a
/// guest takes two such threads after each other.
pub(crate) struct Latency {
    over: Arc<AtomicBool>,
    watching: thread::JoinHandle<Duration>,
}

impl Latency {
    pub(crate) fn watch() -> Self {
        const PAUSE: Duration = Duration::from_millis(1);
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let watching = thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !until.load(Ordering::Acquire) {
                let before = Instant::now();
                thread::sleep(PAUSE);
                worst = worst.max(before.elapsed().saturating_sub(PAUSE));
            }
            worst
        });
        Self { over, watching }
    }

    /// What is allowed for on top of what a test is about.
    pub(crate) fn allowance(self) -> Duration {
        self.over.store(true, Ordering::Release);
        2 * self.watching.join().unwrap() + FILE_TIME
    }
}
