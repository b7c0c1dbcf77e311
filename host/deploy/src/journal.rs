//! The journal: what a deployment is about to do to the disk or to routes, and what of its work is safe.
//!
//! It is a part of the deployment's record. An intent is committed before the act and taken out by the commit that
//! follows the act, so a start that finds one knows that the act may have happened, wholly or in part. What is made
//! before the first commit (the staging directory, the log) needs none: a directory that no record names is discarded.
//!
//! | act | before it | after it |
//! |---|---|---|
//! | staging is made | - | the commit that accepts the deployment |
//! | a step writes to the tree | [`Intent::Step`], and nothing kept | the step's outcome, and what is kept of the tree |
//! | the release is renamed to its place | [`Intent::Publish`], and the whole tree kept | the commit of the release |
//! | the route is swapped | the commit of release, pointer and end | nothing: a start makes all routes anew |
//! | staging goes to the trash, after a failure | [`Intent::TearDown`] | the end |
//! | the last events are written | the end, and the marker beside the log | the marker is removed |

use serde::{Deserialize, Serialize};

use crate::record::{Body, ErrorRecord, Service};

/// How often a deployment is resumed after the host died while it ran. One that kills its host every time must not
/// keep it from ever coming up.
const MAX_RESUMES: u32 = 10;

/// Work that is rather done again than synced, in milliseconds of the steps' own time: a sync of everything that steps
/// wrote takes about as long.
const WORTH_KEEPING_MS: u64 = 1000;

/// What is about to happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Intent {
    /// A step runs in the staged tree.
    Step {
        /// Its place in the pipeline.
        at: usize,
    },
    /// The staged tree, frozen and durable, becomes the release.
    Publish,
    /// The deployment ends badly, and all that it left goes.
    TearDown {
        /// Why.
        error: ErrorRecord,
    },
    /// Nothing: the server was stopped in order, and the deployment waits for the next start.
    Pause,
}

/// The journal of one deployment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Journal {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) intent: Option<Intent>,
    /// How many steps' work the staged tree holds, durably; 0 when it would have to be made anew.
    pub(crate) kept: usize,
    /// What the load step described.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) services: Vec<Service>,
    /// How often it was resumed after the host had died in the middle of it.
    pub(crate) resumes: u32,
}

impl Journal {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a start does about a deployment that has not ended.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// It is over.
    End(ErrorRecord),
    /// It goes on with this step, or with the activation when there is none of that number. From the first one on it
    /// starts with a clean staging directory.
    Resume { from: usize },
}

/// Decides from what was recorded, and from whether the staged tree is there, and from nothing else.
pub(crate) fn next(body: &Body, staged: bool) -> Next {
    let journal = &body.journal;
    if let Some(Intent::TearDown { error }) = &journal.intent {
        return Next::End(error.clone());
    }
    if body.blob.is_none() {
        return Next::End(ErrorRecord::new(
            "upload_interrupted",
            "the server stopped before the package was durable; send it again",
        ));
    }
    if body.plan.len() != body.steps.len() {
        return Next::End(ErrorRecord::new(
            "interrupted",
            "an earlier version of the server was stopped before the deployment had ended; deploy again",
        ));
    }
    if journal.resumes >= MAX_RESUMES {
        return Next::End(ErrorRecord::new(
            "interrupted",
            format!("the server died {MAX_RESUMES} times while it ran the deployment"),
        ));
    }
    // A step that began to write to a kept tree has taken that back in the commit before.
    let kept = if staged { journal.kept } else { 0 };
    Next::Resume {
        from: kept.min(body.steps.len()),
    }
}

/// Whether the tree is made durable after a step that wrote to it for `wall_ms`: when the steps behind it only read, so
/// that it stays as it is, and all so far took longer than a sync does.
pub(crate) fn is_worth_keeping(body: &Body, at: usize, wall_ms: u64) -> bool {
    let rest = body.steps.get(at + 1..).unwrap_or_default();
    let only_read = rest
        .iter()
        .all(|step| step.phase == cofferdam_sandbox::Phase::Load);
    let spent: u64 = body
        .steps
        .iter()
        .take(at)
        .filter_map(|step| step.receipt.as_ref())
        .map(|receipt| receipt.wall_ms)
        .sum();
    only_read && spent.saturating_add(wall_ms) >= WORTH_KEEPING_MS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use cofferdam_sandbox::{Phase, Receipt};

    use super::*;
    use crate::plan::PlanRecord;
    use crate::record::StepRecord;

    fn body(intent: Option<Intent>, kept: usize) -> Body {
        let phases = [Phase::Extract, Phase::Install, Phase::Load];
        let steps = phases.map(|phase| StepRecord::pending("step", phase, "p@1.0.0", "blake3:0"));
        let blob = "0198c0de-0000-7000-8000-000000000000".parse().unwrap();
        Body {
            blob: Some(blob),
            plan: steps.iter().map(|_| PlanRecord::sample()).collect(),
            steps: steps.into(),
            journal: Journal {
                intent,
                kept,
                ..Journal::default()
            },
            ..Body::default()
        }
    }

    fn code(next: Next) -> String {
        match next {
            Next::End(error) => error.code,
            Next::Resume { from } => panic!("resumed from {from}"),
        }
    }

    #[test]
    fn a_deployment_goes_on_behind_what_is_durable_and_anew_without_it() {
        let step = |at| Some(Intent::Step { at });
        for (intent, kept, staged, from) in [
            (None, 0, true, 0),
            (step(0), 0, true, 0),
            (step(1), 0, true, 0),
            // The load step only reads.
            (step(2), 2, true, 2),
            (Some(Intent::Publish), 3, true, 3),
            (Some(Intent::Pause), 1, true, 1),
            (Some(Intent::Publish), 3, false, 0),
            (step(2), 2, false, 0),
            (None, 9, true, 3),
        ] {
            let body = body(intent, kept);
            assert_eq!(next(&body, staged), Next::Resume { from }, "{body:?}");
        }
    }

    #[test]
    fn one_that_was_about_to_end_badly_ends_as_it_would_have() {
        let error = ErrorRecord::new("cancelled", "somebody wanted it");
        let mut body = body(
            Some(Intent::TearDown {
                error: error.clone(),
            }),
            2,
        );
        assert_eq!(next(&body, true), Next::End(error.clone()));
        body.blob = None;
        assert_eq!(next(&body, false), Next::End(error));
    }

    #[test]
    fn one_without_a_package_a_plan_or_an_end_of_dying_does_not_go_on() {
        let mut lost = body(None, 0);
        lost.blob = None;
        assert_eq!(code(next(&lost, true)), "upload_interrupted");
        let mut old = body(None, 0);
        old.plan.clear();
        assert_eq!(code(next(&old, true)), "interrupted");
        let mut poison = body(Some(Intent::Step { at: 0 }), 0);
        poison.journal.resumes = MAX_RESUMES;
        assert_eq!(code(next(&poison, true)), "interrupted");
    }

    #[test]
    fn a_tree_is_kept_when_it_was_much_work_and_stays_as_it_is() {
        let mut body = body(None, 0);
        body.steps[0].receipt = Some(Receipt {
            wall_ms: WORTH_KEEPING_MS - 1,
            ..Receipt::default()
        });
        assert!(!is_worth_keeping(&body, 1, 0));
        assert!(is_worth_keeping(&body, 1, 1));
        // The next step writes.
        assert!(!is_worth_keeping(&body, 0, u64::MAX));
    }

    #[test]
    fn a_journal_is_read_as_it_was_written_and_an_old_record_has_an_empty_one() {
        let mut journal = body(Some(Intent::Step { at: 1 }), 1).journal;
        journal.resumes = 3;
        let text = serde_json::to_string(&journal).unwrap();
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), journal);
        assert_eq!(
            serde_json::from_str::<Journal>("{}").unwrap(),
            Journal::default()
        );
    }
}
