//! Keeping the first and the last lines of a flood.

use std::collections::VecDeque;

use crate::event::StepEvent;

/// What a line costs beyond its text: a recorded event is more than its text, and a flood of empty lines is one.
pub(crate) const LINE_COST: u64 = 64;

/// The share of the limit that the last lines get: one part in this many.
const TAIL_SHARE: u64 = 8;

/// Decides which lines are said at once, which wait for the end, and which are dropped.
#[derive(Debug)]
pub(crate) struct Flood {
    /// What the first lines may still cost.
    head: u64,
    /// What the last lines may cost.
    tail_limit: u64,
    tail_cost: u64,
    tail: VecDeque<StepEvent>,
    flooded: bool,
    dropped_lines: u64,
    dropped_bytes: u64,
}

impl Flood {
    pub(crate) fn new(limit: u64) -> Self {
        let tail_limit = limit / TAIL_SHARE;
        Self {
            head: limit - tail_limit,
            tail_limit,
            tail_cost: 0,
            tail: VecDeque::new(),
            flooded: false,
            dropped_lines: 0,
            dropped_bytes: 0,
        }
    }

    /// Gives the line back when it is to be said now.
    pub(crate) fn admit(&mut self, event: StepEvent) -> Option<StepEvent> {
        let cost = cost(&event);
        if !self.flooded && cost <= self.head {
            self.head -= cost;
            return Some(event);
        }
        // Once a line had to wait, every later one waits: order is never changed.
        self.flooded = true;
        self.tail_cost += cost;
        self.tail.push_back(event);
        while self.tail_cost > self.tail_limit
            && let Some(oldest) = self.tail.pop_front()
        {
            let cost = self::cost(&oldest);
            self.tail_cost -= cost;
            self.dropped_lines += 1;
            self.dropped_bytes += cost - LINE_COST;
        }
        None
    }

    pub(crate) fn dropped(&self) -> (u64, u64) {
        (self.dropped_lines, self.dropped_bytes)
    }

    /// What is to be said at the end: how much is missing, then the last lines.
    pub(crate) fn finish(&mut self) -> impl Iterator<Item = StepEvent> {
        let (lines, bytes) = self.dropped();
        let marker = (lines > 0).then_some(StepEvent::Dropped { lines, bytes });
        marker.into_iter().chain(std::mem::take(&mut self.tail))
    }
}

fn cost(event: &StepEvent) -> u64 {
    let text = match event {
        StepEvent::Line { text, .. } | StepEvent::Warning { text } => text.len(),
        _ => 0,
    };
    LINE_COST + text as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::OutputStream;

    fn line(number: usize) -> StepEvent {
        StepEvent::Line {
            stream: OutputStream::Stdout,
            text: format!("line {number:04}"),
            truncated: false,
        }
    }

    #[test]
    fn what_fits_is_said_at_once_and_nothing_is_left() {
        let mut flood = Flood::new(10_000);
        for number in 0..10 {
            assert_eq!(flood.admit(line(number)), Some(line(number)));
        }
        assert_eq!(flood.finish().count(), 0);
    }

    #[test]
    fn the_first_and_the_last_lines_of_a_flood_are_kept_and_the_others_counted() {
        let mut flood = Flood::new(8000);
        let said: Vec<_> = (0..1000)
            .filter_map(|number| flood.admit(line(number)))
            .collect();
        assert_eq!(said.first(), Some(&line(0)));
        assert!(said.len() > 50);
        let end: Vec<_> = flood.finish().collect();
        let kept = said.len() + end.len() - 1;
        assert_eq!(
            end[0],
            StepEvent::Dropped {
                lines: (1000 - kept) as u64,
                bytes: (1000 - kept) as u64 * 9
            }
        );
        assert_eq!(end.last(), Some(&line(999)));
        let tail: Vec<_> = (1000 - (end.len() - 1)..1000).map(line).collect();
        assert_eq!(end[1..], tail);
    }

    #[test]
    fn a_flood_of_empty_lines_is_bounded_too() {
        let mut flood = Flood::new(6400);
        let empty = || StepEvent::Line {
            stream: OutputStream::Stderr,
            text: String::new(),
            truncated: false,
        };
        let said = (0..100_000).filter_map(|_| flood.admit(empty())).count();
        assert!(said + flood.finish().count() <= 101);
    }
}
