//! How a service does, by its probes and by its requests.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::ServiceState;
use crate::activation::{FAILED_PROBES, FEW_REQUESTS};
use crate::readiness::Unready;

/// The time over which requests are judged: what failed an hour ago tells nothing of now.
const PERIOD: Duration = Duration::from_secs(60);

/// What is remembered of a service between two looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Observation {
    failed_probes: u32,
    /// How many requests had been answered and had failed, at each look of the period and at the last before it.
    looks: VecDeque<(Instant, u64, u64)>,
    /// What is on record.
    pub(super) told: Option<(ServiceState, Option<String>)>,
}

impl Observation {
    /// The state after a look: what a probe said, if the service has a gate, and how many requests were answered and
    /// had failed since it was started.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        probed: Option<Result<(), Unready>>,
        counts: (u64, u64),
    ) -> (ServiceState, Option<String>) {
        let requests = self.requests(now, counts);
        let is_gated = probed.is_some();
        match probed {
            Some(Err(why)) => {
                self.failed_probes = self.failed_probes.saturating_add(1);
                if self.failed_probes >= FAILED_PROBES {
                    let why = format!("{FAILED_PROBES} probes in a row failed: {why}");
                    return (ServiceState::Unhealthy, Some(why));
                }
            }
            Some(Ok(())) => self.failed_probes = 0,
            None => {}
        }
        match requests {
            Some(Err(why)) => return (ServiceState::Unhealthy, Some(why)),
            Some(Ok(())) if !is_gated => return (ServiceState::Healthy, None),
            _ => {}
        }
        if is_gated && self.failed_probes == 0 {
            return (ServiceState::Healthy, None);
        }
        // What says nothing new leaves the last word standing; what was missing is there again.
        match &self.told {
            Some((ServiceState::Unhealthy, why)) => (ServiceState::Unhealthy, why.clone()),
            _ => (ServiceState::Healthy, None),
        }
    }

    /// What the requests of the last period say; nothing, if there were too few.
    fn requests(
        &mut self,
        now: Instant,
        (answered, failed): (u64, u64),
    ) -> Option<Result<(), String>> {
        // A service that was started anew counts from nothing.
        let is_older = |look: &(Instant, u64, u64)| look.1 > answered || look.2 > failed;
        if self.looks.back().is_some_and(is_older) {
            self.looks.clear();
        }
        if self.looks.is_empty() {
            self.looks.push_back((now, 0, 0));
        }
        while self
            .looks
            .get(1)
            .is_some_and(|look| now.duration_since(look.0) >= PERIOD)
        {
            self.looks.pop_front();
        }
        let (before_answered, before_failed) =
            self.looks.front().map_or((0, 0), |look| (look.1, look.2));
        self.looks.push_back((now, answered, failed));
        let (answered, failed) = (answered - before_answered, failed - before_failed);
        let all = answered.saturating_add(failed);
        if all < FEW_REQUESTS {
            return None;
        }
        Some(if failed > answered {
            Err(format!("{failed} of its last {all} requests failed"))
        } else {
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(observation: &mut Observation, looks: &[(u64, Option<bool>, (u64, u64))]) -> String {
        let start = Instant::now();
        let mut states = String::new();
        for (second, probe, counts) in looks {
            let probed = probe.map(|good| good.then_some(()).ok_or(Unready::Silent { ms: 1 }));
            let now = start + Duration::from_secs(*second);
            let state = observation.judge(now, probed, *counts);
            states.push(match state.0 {
                ServiceState::Unhealthy => '-',
                _ => '+',
            });
            observation.told = Some(state);
        }
        states
    }

    #[test]
    fn probes_must_fail_in_a_row_and_one_that_does_not_is_enough() {
        let probes = [true, false, false, true, false, false, false, false, true];
        let looks: Vec<_> = (0..)
            .zip(probes)
            .map(|(at, good)| (at, Some(good), (0, 0)))
            .collect();
        assert_eq!(states(&mut Observation::default(), &looks), "++++++--+");
    }

    #[test]
    fn most_requests_of_a_period_must_fail_and_there_must_be_some() {
        let looks = [
            (0, None, (0, 9)),
            (5, None, (0, 10)),
            // Nothing comes: the last word stands, however long.
            (300, None, (0, 10)),
            // A few more that fail are too few for a word of their own; what was long ago does not count.
            (305, None, (5, 12)),
            (310, None, (20, 12)),
            (315, None, (40, 30)),
        ];
        assert_eq!(states(&mut Observation::default(), &looks), "+---++");
    }

    #[test]
    fn what_failed_before_the_period_does_not_count() {
        // Nine in a minute, one every minute after: never ten in one.
        let mut looks = vec![(0, None, (0, 9))];
        looks.extend((1..20).map(|minute| (minute * 61, None, (0, 9 + minute))));
        let all = "+".repeat(looks.len());
        assert_eq!(states(&mut Observation::default(), &looks), all);
    }

    #[test]
    fn a_service_that_answers_its_probes_and_fails_its_requests_is_not_healthy() {
        let looks = [
            (0, Some(true), (1, 0)),
            (5, Some(true), (4, 30)),
            (70, Some(true), (5, 30)),
            // Started anew.
            (75, Some(true), (0, 2)),
        ];
        assert_eq!(states(&mut Observation::default(), &looks), "+-++");
    }
}
