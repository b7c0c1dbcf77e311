//! What the operator says of what is kept.

use std::collections::BTreeMap;

use crate::name::ProjectName;

/// How many releases of a project are kept when no policy says so: two working weeks of daily deployments.
const RELEASES: u32 = 10;

/// What the operator keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// For every project.
    pub(crate) defaults: RetentionRules,
    /// For some.
    pub(crate) projects: BTreeMap<ProjectName, RetentionRules>,
}

/// What is kept of one project. What a rule does not say, nothing bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetentionRules {
    /// How many releases at most, the one that is served included.
    pub(crate) releases: u32,
    /// How old a release may become, in milliseconds.
    pub(crate) age_ms: Option<u64>,
    /// How many bytes all releases together may have, counted as if nothing were shared.
    pub(crate) bytes: Option<u64>,
}

impl Default for RetentionRules {
    fn default() -> Self {
        Self {
            releases: RELEASES,
            age_ms: None,
            bytes: None,
        }
    }
}

impl Retention {
    /// What holds for a project.
    pub(crate) fn of(&self, project: &ProjectName) -> RetentionRules {
        self.projects.get(project).copied().unwrap_or(self.defaults)
    }
}
