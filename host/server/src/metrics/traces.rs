//! What became of a server's traces, counted by whoever exports them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Spans that were exported, and spans that were not. The server shows them among its figures; the program that
/// exports them counts.
#[derive(Debug, Default)]
pub struct TraceFigures {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl TraceFigures {
    /// Counts spans that a collector took.
    pub fn sent(&self, spans: u64) {
        self.sent.fetch_add(spans, Ordering::Relaxed);
    }

    /// Counts spans that were dropped: the queue was full, or the collector did not take them.
    pub fn dropped(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    /// How many were sent, and how many dropped.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.sent), load(&self.dropped))
    }
}
