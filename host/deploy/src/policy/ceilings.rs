//! The keys of a policy's table, what is built in, and how one table lies over another.

use std::collections::BTreeMap;

use super::limit::LIMITS;
use super::pattern::{HostPattern, NamePattern};
use super::{Limit, Rule};

/// The most bytes of the environment, names and values together: as much as a kernel gives a process's
/// single argument. No policy raises it.
pub(crate) const MAX_ENV_BYTES: usize = 128 * 1024;

/// What a cache may hold when no policy says so: a package manager's downloads for one project.
const CACHE_BYTES: u64 = 2 << 30;

/// What a service's directory may hold when no policy says so: a small application's own database.
const STATE_BYTES: u64 = 1 << 30;

/// A value, and the line that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ruled<T> {
    pub(crate) value: T,
    pub(crate) rule: Rule,
}

/// The ceilings of one table, or, complete, of one step. A key that is not named is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ceilings {
    pub(super) env: Option<Ruled<Vec<NamePattern>>>,
    pub(super) secrets: Option<Ruled<Vec<NamePattern>>>,
    pub(super) net: Option<Ruled<Vec<HostPattern>>>,
    pub(super) cache: Option<Ruled<bool>>,
    pub(super) cache_bytes: Option<Ruled<u64>>,
    pub(super) state: Option<Ruled<bool>>,
    pub(super) state_bytes: Option<Ruled<u64>>,
    pub(super) storage_bytes: Option<Ruled<u64>>,
    pub(super) reproducible: Option<Ruled<bool>>,
    pub(super) limits: BTreeMap<&'static str, Ruled<u64>>,
}

impl Ceilings {
    /// What holds where no file says anything.
    pub(super) fn built_in() -> Self {
        fn ruled<T>(value: T) -> Option<Ruled<T>> {
            Some(Ruled {
                value,
                rule: Rule::BuiltIn,
            })
        }
        Self {
            env: ruled(vec![NamePattern::any()]),
            secrets: ruled(vec![NamePattern::any()]),
            net: ruled(Vec::new()),
            cache: ruled(true),
            cache_bytes: ruled(CACHE_BYTES),
            // A service has one wall around it, so its operator says whether it may write.
            state: ruled(false),
            state_bytes: ruled(STATE_BYTES),
            storage_bytes: None,
            reproducible: ruled(true),
            limits: LIMITS
                .iter()
                .filter_map(|limit| Some((limit.name, ruled(limit.built_in)?)))
                .collect(),
        }
    }

    /// Takes every key that a more specific table names.
    pub(super) fn overlay(&mut self, table: &Self) {
        fn take<T: Clone>(below: &mut Option<T>, above: Option<&T>) {
            if let Some(above) = above {
                *below = Some(above.clone());
            }
        }
        take(&mut self.env, table.env.as_ref());
        take(&mut self.secrets, table.secrets.as_ref());
        take(&mut self.net, table.net.as_ref());
        take(&mut self.cache, table.cache.as_ref());
        take(&mut self.cache_bytes, table.cache_bytes.as_ref());
        take(&mut self.state, table.state.as_ref());
        take(&mut self.state_bytes, table.state_bytes.as_ref());
        take(&mut self.reproducible, table.reproducible.as_ref());
        for (name, ruled) in &table.limits {
            self.limits.insert(name, ruled.clone());
        }
    }

    /// The rule for an environment variable of this name, and whether it may be set.
    pub(crate) fn env(&self, name: &str) -> (bool, Rule, String) {
        names(self.env.as_ref(), name)
    }

    /// The rule for a secret of this name, and whether it may be had.
    pub(crate) fn secret(&self, name: &str) -> (bool, Rule, String) {
        names(self.secrets.as_ref(), name)
    }

    /// The rule for a host, and whether it may be reached.
    pub(crate) fn net(&self, asked: &cofferdam_sandbox::HostPort) -> (bool, Rule, String) {
        listed(self.net.as_ref(), |pattern| pattern.matches(asked))
    }

    /// The rule for hosts, whatever they are.
    pub(crate) fn net_rule(&self) -> Rule {
        rule(self.net.as_ref())
    }

    /// Whether a cache may be had.
    pub(crate) fn cache(&self) -> (bool, Rule) {
        flag(self.cache.as_ref())
    }

    /// How many bytes a cache may hold.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_bytes.as_ref().map_or(0, |ruled| ruled.value)
    }

    /// Whether a service may have a directory.
    pub(crate) fn state(&self) -> (bool, Rule) {
        flag(self.state.as_ref())
    }

    /// How many bytes such a directory may hold.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.state_bytes.as_ref().map_or(0, |ruled| ruled.value)
    }

    /// Whether a deployment may ask for reproducible steps.
    pub(crate) fn reproducible(&self) -> (bool, Rule) {
        flag(self.reproducible.as_ref())
    }

    /// The ceiling of a limit.
    pub(crate) fn limit(&self, limit: &Limit) -> (u64, Rule) {
        self.limits
            .get(limit.name)
            .map_or((limit.built_in, Rule::BuiltIn), |ruled| {
                (ruled.value, ruled.rule.clone())
            })
    }
}

fn names(list: Option<&Ruled<Vec<NamePattern>>>, name: &str) -> (bool, Rule, String) {
    listed(list, |pattern| pattern.matches(name))
}

/// Whether one of a list fits, the list's rule, and the list in words.
fn listed<T: std::fmt::Display>(
    list: Option<&Ruled<Vec<T>>>,
    fits: impl Fn(&T) -> bool,
) -> (bool, Rule, String) {
    let patterns = list.map_or(&[][..], |ruled| &ruled.value);
    let words = if patterns.is_empty() {
        "none".to_owned()
    } else {
        patterns
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    (patterns.iter().any(fits), rule(list), words)
}

fn flag(ruled: Option<&Ruled<bool>>) -> (bool, Rule) {
    (ruled.is_some_and(|ruled| ruled.value), rule(ruled))
}

fn rule<T>(ruled: Option<&Ruled<T>>) -> Rule {
    ruled.map_or(Rule::BuiltIn, |ruled| ruled.rule.clone())
}
