//! Merging reports of progress.

use std::time::{Duration, Instant};

use crate::event::StepEvent;

/// The shortest time between two reports: ten in a second look continuous to a person.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Lets the first report through at once, then one in each interval: the newest of those that waited.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    last: Option<Instant>,
    waiting: Option<StepEvent>,
}

impl Progress {
    /// Gives the report back when it is to be said now.
    pub(crate) fn report(&mut self, event: StepEvent, now: Instant) -> Option<StepEvent> {
        self.waiting = Some(event);
        self.due(now)
    }

    /// The report whose time has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<StepEvent> {
        if self.last.is_some_and(|last| now < last + PROGRESS_INTERVAL) {
            return None;
        }
        let event = self.waiting.take()?;
        self.last = Some(now);
        Some(event)
    }

    /// The last report, whatever its time.
    pub(crate) fn finish(&mut self) -> Option<StepEvent> {
        self.waiting.take()
    }

    /// When a waiting report will be due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting
            .as_ref()
            .and(self.last)
            .map(|last| last + PROGRESS_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(done: u64) -> StepEvent {
        StepEvent::Progress {
            done,
            total: None,
            label: String::new(),
        }
    }

    #[test]
    fn the_newest_report_wins_and_the_last_one_always_arrives() {
        let start = Instant::now();
        let mut progress = Progress::default();
        assert_eq!(progress.report(at(1), start), Some(at(1)));
        assert_eq!(progress.report(at(2), start), None);
        assert_eq!(progress.report(at(3), start), None);
        assert_eq!(progress.next(), Some(start + PROGRESS_INTERVAL));
        assert_eq!(progress.due(start + PROGRESS_INTERVAL), Some(at(3)));
        assert_eq!(progress.report(at(4), start + PROGRESS_INTERVAL), None);
        assert_eq!(progress.finish(), Some(at(4)));
        assert_eq!(progress.finish(), None);
    }
}
