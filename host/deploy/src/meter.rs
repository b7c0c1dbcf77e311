//! Figures about what a host does, for whoever watches it. Counting costs a few atomic additions; nothing here
//! grows with the number of projects.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cofferdam_sandbox::Phase;

use crate::name::DeploymentId;
use crate::record::{Body, StepStatus, Time};
use crate::status::Status;

/// The upper bounds of a histogram's buckets in seconds: from a static file to a long installation.
pub const BUCKETS: [f64; 12] = [
    0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 3600.0,
];

/// How durations are distributed.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each bound, and one for what is beyond all of them.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramView {
    /// How many durations were at most as long as each of [`BUCKETS`].
    pub cumulative: [u64; BUCKETS.len()],
    /// How many there were.
    pub count: u64,
    /// All of them together, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(BUCKETS.len())].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum of durations is no account"
    )]
    pub fn view(&self) -> HistogramView {
        let mut count = 0;
        let cumulative = std::array::from_fn(|at| {
            count += self.buckets[at].load(Ordering::Relaxed);
            count
        });
        HistogramView {
            cumulative,
            count: count + self.buckets[BUCKETS.len()].load(Ordering::Relaxed),
            sum: self.microseconds.load(Ordering::Relaxed) as f64 / 1_000_000.0,
        }
    }
}

/// The ends that deployments come to.
const ENDS: [Status; 3] = [Status::Succeeded, Status::Failed, Status::Cancelled];

/// The places of steps.
const PHASES: [Phase; 3] = [Phase::Extract, Phase::Install, Phase::Load];

/// The ends that steps come to.
const STEP_ENDS: [(StepStatus, &str); 3] = [
    (StepStatus::Succeeded, "succeeded"),
    (StepStatus::Failed, "failed"),
    (StepStatus::Cancelled, "cancelled"),
];

/// What is counted while a host runs.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    deployments: [Histogram; ENDS.len()],
    steps: [[Histogram; STEP_ENDS.len()]; PHASES.len()],
    events: AtomicU64,
    dropped_lines: AtomicU64,
}

/// The figures of a host.
#[derive(Debug, Clone)]
pub struct Figures {
    /// How many deployments there are in each status, those of all time.
    pub deployments: Vec<(String, u64)>,
    /// How many are under way.
    pub live: u64,
    /// How long those that ended since the start took, by their end.
    pub deployment_seconds: Vec<(&'static str, HistogramView)>,
    /// How long their steps took, by phase and end.
    pub step_seconds: Vec<(&'static str, &'static str, HistogramView)>,
    /// Events recorded since the start.
    pub events: u64,
    /// Lines that limits have dropped since the start.
    pub dropped_lines: u64,
    /// How many projects there are.
    pub projects: u64,
    /// What the packages take on the disk.
    pub store: cofferdam_blobs::Totals,
    /// What is known to be wrong with them.
    pub damage: cofferdam_blobs::Damage,
    /// When what nothing refers to was last collected, in seconds since 1970; nothing before the first time since the
    /// start.
    pub collected_at: Option<u64>,
    /// How many collections have failed since the start.
    pub failed_collections: u64,
    /// Worker processes that wait for a step, and steps that wait for a worker; nothing when steps run on threads.
    pub workers: Option<cofferdam_sandbox::WorkerFigures>,
}

impl Meter {
    /// Counts a deployment that has come to its end, with its steps and `events` events.
    pub(crate) fn ended(&self, id: DeploymentId, body: &Body, status: Status, events: u64) {
        let now = Time::now();
        if let Some(at) = ENDS.iter().position(|end| *end == status) {
            self.deployments[at].observe(between(began(id), now));
        }
        for step in &body.steps {
            let phase = PHASES.iter().position(|phase| *phase == step.phase);
            let end = STEP_ENDS.iter().position(|(end, _)| *end == step.status);
            if let (Some(phase), Some(end), Some(start)) = (phase, end, step.started_at) {
                let end_time = step.finished_at.unwrap_or(now);
                self.steps[phase][end].observe(between(start, end_time));
            }
        }
        self.events.fetch_add(events, Ordering::Relaxed);
        self.dropped_lines
            .fetch_add(body.events.dropped, Ordering::Relaxed);
    }

    pub(crate) fn deployment_seconds(&self) -> Vec<(&'static str, HistogramView)> {
        let ends = ENDS.iter().zip(&self.deployments);
        ends.map(|(end, histogram)| (end.as_str(), histogram.view()))
            .collect()
    }

    pub(crate) fn step_seconds(&self) -> Vec<(&'static str, &'static str, HistogramView)> {
        let mut views = Vec::new();
        for (phase, ends) in PHASES.iter().zip(&self.steps) {
            for ((_, end), histogram) in STEP_ENDS.iter().zip(ends) {
                views.push((phase.as_str(), *end, histogram.view()));
            }
        }
        views
    }

    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Ordering::Relaxed)
    }
}

/// When a deployment was accepted: its id says it.
fn began(id: DeploymentId) -> Time {
    let millis = id.as_uuid().get_timestamp().map(|at| {
        let (seconds, nanoseconds) = at.to_unix();
        i64::try_from(seconds * 1000 + u64::from(nanoseconds) / 1_000_000).unwrap_or(i64::MAX)
    });
    millis.map_or_else(Time::now, Time::from_millis)
}

fn between(start: Time, end: Time) -> Duration {
    let millis = end.as_millis().saturating_sub(start.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_at_most_each_bound() {
        let histogram = Histogram::default();
        for millis in [1, 3, 300, 7_200_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let view = histogram.view();
        assert_eq!(view.cumulative, [1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(view.count, 4);
        assert!((view.sum - 7200.304).abs() < 1e-6, "{}", view.sum);
    }

    #[test]
    fn a_deployment_and_its_steps_are_counted_by_their_ends() {
        let meter = Meter::default();
        let mut body = Body::default();
        let mut step = crate::record::StepRecord::pending("extract", Phase::Extract, "unpack", "");
        step.status = StepStatus::Failed;
        step.started_at = Some(Time::from_millis(0));
        step.finished_at = Some(Time::from_millis(200));
        body.steps.push(step);
        meter.ended(DeploymentId::new(), &body, Status::Failed, 7);
        let failed = meter.deployment_seconds();
        assert_eq!((failed[1].0, failed[1].1.count), ("failed", 1));
        let steps = meter.step_seconds();
        let (phase, end, view) = &steps[1];
        assert_eq!((*phase, *end, view.count), ("extract", "failed", 1));
        assert!((view.sum - 0.2).abs() < 1e-6);
        assert_eq!(meter.events(), 7);
    }
}
