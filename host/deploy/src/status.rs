//! The states of a deployment, and the one function that derives them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::{Body, StepStatus};
use cofferdam_sandbox::Phase;

/// Where a deployment stands.
///
/// ```text
/// queued -> extracting -> installing -> loading -> activating -> succeeded
///              from any of them -> failed | cancelled
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted; another deployment of the project runs, or the first step has not started.
    Queued,
    /// The extract step runs, or has run and nothing later has started.
    Extracting,
    /// The install steps run.
    Installing,
    /// The load step runs.
    Loading,
    /// The steps are done; the release is frozen, started and given the route.
    Activating,
    /// The release is active, or was until a newer one replaced it.
    Succeeded,
    /// Something went wrong; the error says what.
    Failed,
    /// Somebody, or a newer deployment, stopped it.
    Cancelled,
}

/// Every status, in the order of the life of a deployment.
pub const STATUSES: [Status; 8] = [
    Status::Queued,
    Status::Extracting,
    Status::Installing,
    Status::Loading,
    Status::Activating,
    Status::Succeeded,
    Status::Failed,
    Status::Cancelled,
];

impl Status {
    /// The status as the record spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Extracting => "extracting",
            Self::Installing => "installing",
            Self::Loading => "loading",
            Self::Activating => "activating",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it is one of the three ends, which are for ever.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl std::str::FromStr for Status {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, crate::Error> {
        STATUSES
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| {
                let known: Vec<_> = STATUSES.iter().map(|status| status.as_str()).collect();
                crate::Error::HeadInvalid {
                    message: format!("{text:?} is not a status; they are {}", known.join(", ")),
                }
            })
    }
}

/// The codes of errors that end a deployment as cancelled rather than failed.
const CANCELLING: [&str; 2] = ["cancelled", "superseded"];

/// Derives a deployment's status from what was recorded of it, and from nothing else.
#[must_use]
pub(crate) fn derive(body: &Body) -> Status {
    if let Some(error) = &body.error {
        return if CANCELLING.contains(&error.code.as_str()) {
            Status::Cancelled
        } else {
            Status::Failed
        };
    }
    if body.release.is_some() {
        return Status::Succeeded;
    }
    let started = |phase: Phase| {
        body.steps.iter().any(|step| {
            step.phase == phase && !matches!(step.status, StepStatus::Pending | StepStatus::Queued)
        })
    };
    let loaded = body
        .steps
        .iter()
        .any(|step| step.phase == Phase::Load && step.status == StepStatus::Succeeded);
    if loaded {
        Status::Activating
    } else if started(Phase::Load) {
        Status::Loading
    } else if started(Phase::Install) {
        Status::Installing
    } else if started(Phase::Extract) {
        Status::Extracting
    } else {
        Status::Queued
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::record::{ErrorRecord, ReleaseRecord, StepRecord};

    fn body(states: &[(Phase, StepStatus)]) -> Body {
        let steps = states
            .iter()
            .enumerate()
            .map(|(at, (phase, status))| StepRecord {
                status: *status,
                ..StepRecord::pending(&format!("step-{at}"), *phase, "p@1.0.0", "blake3:0")
            })
            .collect();
        Body {
            steps,
            ..Body::default()
        }
    }

    #[test]
    fn the_status_follows_the_steps() {
        use StepStatus::{Pending, Queued, Running, Succeeded};
        let cases = [
            ([Pending, Pending, Pending], Status::Queued),
            ([Queued, Pending, Pending], Status::Queued),
            ([Running, Pending, Pending], Status::Extracting),
            ([Succeeded, Pending, Pending], Status::Extracting),
            ([Succeeded, Queued, Pending], Status::Extracting),
            ([Succeeded, Running, Pending], Status::Installing),
            ([Succeeded, Succeeded, Pending], Status::Installing),
            ([Succeeded, Succeeded, Running], Status::Loading),
            ([Succeeded, Succeeded, Succeeded], Status::Activating),
        ];
        for (states, expected) in cases {
            let [extract, install, load] = states;
            let body = body(&[
                (Phase::Extract, extract),
                (Phase::Install, install),
                (Phase::Load, load),
            ]);
            assert_eq!(derive(&body), expected, "{states:?}");
        }
    }

    #[test]
    fn an_error_ends_a_deployment_whatever_its_steps_say() {
        let done = [
            (Phase::Extract, StepStatus::Succeeded),
            (Phase::Load, StepStatus::Succeeded),
        ];
        for (code, expected) in [
            ("step_failed", Status::Failed),
            ("interrupted", Status::Failed),
            ("cancelled", Status::Cancelled),
            ("superseded", Status::Cancelled),
        ] {
            let mut body = body(&done);
            body.error = Some(ErrorRecord::new(code, "why"));
            assert_eq!(derive(&body), expected, "{code}");
        }
    }

    #[test]
    fn a_recorded_release_is_success() {
        let mut body = body(&[(Phase::Load, StepStatus::Succeeded)]);
        body.release = Some(ReleaseRecord::default());
        assert_eq!(derive(&body), Status::Succeeded);
    }

    #[test]
    fn a_status_has_one_spelling() {
        for status in STATUSES {
            assert_eq!(status.as_str().parse::<Status>().unwrap(), status);
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert!("done".parse::<Status>().is_err());
    }
}
