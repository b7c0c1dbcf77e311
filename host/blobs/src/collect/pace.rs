//! How fast the collector may go.

use std::time::{Duration, Instant};

/// What was not spent for this long is not saved up: a pause must not be followed by a burst.
const LONGEST_SAVING: Duration = Duration::from_secs(1);

/// Bytes per second, read and written together.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    since: Instant,
    spent: u64,
}

impl Pace {
    /// As fast as it goes, or this many bytes in a second.
    pub(super) fn new(rate: Option<u64>) -> Pace {
        Pace {
            rate: rate.map(|rate| rate.max(1)),
            since: Instant::now(),
            spent: 0,
        }
    }

    /// Says that these bytes were read or written, and waits until they are paid for.
    pub(super) async fn spend(&mut self, bytes: u64) {
        let Some(rate) = self.rate else {
            return;
        };
        self.spent = self.spent.saturating_add(bytes);
        let nanoseconds = u128::from(self.spent) * 1_000_000_000 / u128::from(rate);
        let due = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let passed = self.since.elapsed();
        if let Some(debt) = due.checked_sub(passed) {
            tokio::time::sleep(debt).await;
        } else if passed - due > LONGEST_SAVING {
            self.since = Instant::now();
            self.spent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_their_time_and_none_is_saved_up() {
        let started = Instant::now();
        let mut pace = Pace::new(Some(10_000_000));
        for _ in 0..10 {
            pace.spend(100_000).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(99));

        pace.since -= Duration::from_secs(60);
        pace.spend(1).await;
        let started = Instant::now();
        pace.spend(1_000_000).await;
        assert!(started.elapsed() >= Duration::from_millis(90));
    }
}
