//! The spans of a deployment, for the log and for traces: one for all of it, and one for each part, which says how it
//! came out.

use tracing::field::{self, display};
use tracing::{Instrument as _, Span, info_span};

use super::Halt;
use crate::error::Error;
use crate::name::{DeploymentId, ProjectName};
use crate::plan::PlannedStep;

/// The outcome of what is left to the next start.
pub(super) const PAUSED: &str = "paused";

/// The span of a whole deployment. It is nobody's child: a request ends, and its deployment goes on.
pub(crate) fn of_deployment(id: DeploymentId, project: &ProjectName) -> Span {
    info_span!(
        parent: None,
        "pipeline",
        deployment = %id,
        project = %project,
        outcome = field::Empty,
        code = field::Empty,
    )
}

/// Its time in the project's queue.
pub(super) fn of_queue() -> Span {
    info_span!("queue", outcome = field::Empty, code = field::Empty)
}

/// A step of it.
pub(super) fn of_step(planned: &PlannedStep) -> Span {
    info_span!(
        "step",
        step = planned.name,
        plugin = planned.plugin.label,
        outcome = field::Empty,
        code = field::Empty,
    )
}

/// From the staged files to a release.
pub(super) fn of_freeze() -> Span {
    info_span!("freeze", outcome = field::Empty, code = field::Empty)
}

/// From a release to one that is served.
pub(super) fn of_activation() -> Span {
    info_span!("activate", outcome = field::Empty, code = field::Empty)
}

/// Runs a part of a deployment in its span, and says there how it came out.
pub(super) async fn within<T, E: Ending>(
    span: Span,
    part: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let ended = part.instrument(span.clone()).await;
    match &ended {
        Ok(_) => tell(&span, "succeeded", None),
        Err(error) => {
            let (outcome, code) = error.outcome();
            tell(&span, outcome, code);
        }
    }
    ended
}

/// Says how something came out.
pub(super) fn tell(span: &Span, outcome: &str, code: Option<&str>) {
    span.record("outcome", outcome);
    if let Some(code) = code {
        span.record("code", display(code));
    }
}

/// An end that is not a good one.
pub(super) trait Ending {
    /// How it is called, and its stable code.
    fn outcome(&self) -> (&'static str, Option<&str>);
}

impl Ending for Halt {
    fn outcome(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Paused => (PAUSED, None),
            Self::Failed(error) => match error.code.as_str() {
                code @ ("cancelled" | "superseded") => ("cancelled", Some(code)),
                code => ("failed", Some(code)),
            },
        }
    }
}

impl Ending for Error {
    fn outcome(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Stopping => ("stopped", None),
            error => ("failed", Some(error.code())),
        }
    }
}
