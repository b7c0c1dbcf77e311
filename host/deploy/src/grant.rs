//! From what a step asks for to what it gets, and the line of the policy that decided.

mod unused;

use std::collections::BTreeMap;

use cofferdam_sandbox::{HostPort, Limits, NetGrant, Phase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::head::Request;
use crate::policy::{Ceilings, LIMITS, Limit, MAX_ENV_BYTES, NetworkPolicy, Rule};

pub(crate) use unused::unused;

/// What a step got.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) limits: Limits,
    /// Names of secrets, which the project must have.
    pub(crate) secrets: Vec<String>,
    pub(crate) net: NetGrant,
    pub(crate) cache: bool,
    /// What the cache may hold.
    pub(crate) cache_bytes: u64,
    /// What a service's directory may hold; nothing when it has none.
    pub(crate) state_bytes: Option<u64>,
}

/// A grant in a record: what is not a limit, and no values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GrantRecord {
    /// The names in the environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The names of secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The hosts, each with its port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<String>,
    /// Whether there was a cache.
    pub cache: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// A step's place; nothing for a service.
    pub(crate) phase: Option<Phase>,
    pub(crate) reproducible: bool,
}

/// One thing that was asked for, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// `env`, `secrets`, `net`, `cache`, `reproducible`, or a limit as in `limits.wall_ms`.
    pub capability: String,
    /// What of it.
    pub asked: String,
    /// Whether it is granted.
    pub granted: bool,
    /// What decided: a file's name and line, or "built-in default".
    pub rule: Rule,
    /// When it is refused, why, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a step would get, and everything that stands against it.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) grant: Grant,
    pub(crate) findings: Vec<Finding>,
}

impl Grant {
    /// The grant for a record.
    pub(crate) fn record(&self) -> GrantRecord {
        GrantRecord {
            env: self.env.keys().cloned().collect(),
            secrets: self.secrets.clone(),
            net: self.net.hosts.iter().map(ToString::to_string).collect(),
            cache: self.cache,
        }
    }
}

impl Decision {
    /// The grant, or the refusal that names everything that was refused.
    pub(crate) fn into_grant(self, step: &str) -> Result<Grant, Error> {
        let denied: Vec<String> = self.findings.iter().filter_map(Finding::refusal).collect();
        if denied.is_empty() {
            Ok(self.grant)
        } else {
            Err(Error::GrantDenied {
                step: step.to_owned(),
                denied,
            })
        }
    }
}

impl Finding {
    /// The sentence about a refusal: what, why, and which rule.
    pub(crate) fn refusal(&self) -> Option<String> {
        let reason = self.reason.as_ref().filter(|_| !self.granted)?;
        let Self {
            capability,
            asked,
            rule,
            ..
        } = self;
        Some(format!("{capability} {asked}: {reason} ({rule})"))
    }
}

/// Holds a request against its ceilings.
pub(crate) fn decide(
    asker: Asker,
    request: &Request,
    ceilings: &Ceilings,
    network: &NetworkPolicy,
) -> Decision {
    let mut findings = Findings::default();
    if asker.reproducible {
        let (allowed, rule) = ceilings.reproducible();
        let reason = "the operator does not allow it; leave it out of the head";
        findings.add("reproducible", "true", rule, (!allowed).then_some(reason));
    }
    check_env(&request.env, ceilings, &mut findings);
    for name in &request.secrets {
        let shown = format!("{name:?}");
        let (allowed, rule, list) = ceilings.secret(name);
        let reason = (!allowed)
            .then(|| format!("allowed are {list}; ask for one of them, or have it added there"));
        findings.add("secrets", shown, rule, reason);
    }
    let hosts = check_net(asker, &request.net, ceilings, &mut findings);
    if request.cache {
        let (allowed, rule) = ceilings.cache();
        let (rule, reason) = match (asker.phase, allowed) {
            (Some(Phase::Install), true) => (rule, None),
            (Some(Phase::Install), false) => (
                rule,
                Some("the operator grants no cache here; leave it out of the request"),
            ),
            _ => (Rule::BuiltIn, Some("only install steps have a cache")),
        };
        findings.add("cache", "true", rule, reason);
    }
    if request.state {
        let (allowed, rule) = ceilings.state();
        let (rule, reason) = match (asker.phase, allowed) {
            (None, true) => (rule, None),
            (None, false) => (
                rule,
                Some(
                    "the operator grants no directory here; leave it out, or have state = true added there",
                ),
            ),
            (Some(_), _) => (Rule::BuiltIn, Some("only services have a state directory")),
        };
        findings.add("state", "true", rule, reason);
    }
    let mut limits = Limits::default();
    for limit in &LIMITS {
        let asked = (limit.asked)(&request.limits);
        let has_files = asker.phase.is_some() || request.state;
        if let (false, true, Some(asked)) = (has_files, limit.is_of_files, asked) {
            let name = format!("limits.{}", limit.name);
            let reason = "a service without a state directory has no files; leave it out";
            findings.add(name, asked.to_string(), Rule::BuiltIn, Some(reason));
            continue;
        }
        check_limit(limit, asked, ceilings, &mut limits, &mut findings);
    }

    let net = if hosts.is_empty() {
        NetGrant::default()
    } else {
        NetGrant {
            hosts,
            allow_ranges: network.allow_ranges.clone(),
            extra_roots: network.extra_roots.clone(),
        }
    };
    Decision {
        grant: Grant {
            env: request.env.clone(),
            limits,
            secrets: request.secrets.clone(),
            net,
            cache: request.cache,
            cache_bytes: ceilings.cache_bytes(),
            state_bytes: (asker.phase.is_none() && request.state).then(|| ceilings.state_bytes()),
        },
        findings: findings.0,
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        capability: impl Into<String>,
        asked: impl Into<String>,
        rule: Rule,
        reason: Option<impl Into<String>>,
    ) {
        self.0.push(Finding {
            capability: capability.into(),
            asked: asked.into(),
            granted: reason.is_none(),
            rule,
            reason: reason.map(Into::into),
        });
    }
}

fn check_net(
    asker: Asker,
    asked: &[String],
    ceilings: &Ceilings,
    findings: &mut Findings,
) -> Vec<HostPort> {
    let mut hosts = Vec::new();
    for text in asked {
        let shown = format!("{text:?}");
        if !matches!(asker.phase, None | Some(Phase::Install)) {
            let reason = "only install steps and services have network";
            findings.add("net", shown, Rule::BuiltIn, Some(reason));
            continue;
        }
        match text.parse::<HostPort>() {
            Ok(host) => {
                let (allowed, rule, list) = ceilings.net(&host);
                let reason = (!allowed).then(|| {
                    format!("allowed are {list}; leave it out, or have it added to net there")
                });
                findings.add("net", shown, rule, reason);
                if allowed && !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
            Err(error) => {
                findings.add("net", shown, ceilings.net_rule(), Some(error.to_string()));
            }
        }
    }
    hosts
}

fn check_limit(
    limit: &Limit,
    asked: Option<u64>,
    ceilings: &Ceilings,
    limits: &mut Limits,
    findings: &mut Findings,
) {
    let (ceiling, rule) = ceilings.limit(limit);
    let granted = (limit.granted)(limits);
    // A ceiling below the default is what a step gets that asks for nothing.
    *granted = (*granted).min(ceiling);
    let Some(asked) = asked else {
        return;
    };
    let name = format!("limits.{}", limit.name);
    let reason = if asked == 0 {
        Some("nothing could run with it; leave it out for the default".to_owned())
    } else if asked > ceiling {
        Some(format!(
            "the ceiling is {ceiling}; ask for no more, or have it raised there"
        ))
    } else {
        *granted = asked;
        None
    };
    let rule = if asked == 0 { Rule::BuiltIn } else { rule };
    findings.add(name, asked.to_string(), rule, reason);
}

fn check_env(env: &BTreeMap<String, String>, ceilings: &Ceilings, findings: &mut Findings) {
    for (name, value) in env {
        let shown = format!("{name:?}");
        let reason = if name.is_empty() || name.contains(['=', '\0']) {
            Some("it is no name; leave out `=` and NUL")
        } else if name.starts_with("COFFERDAM_") {
            Some("names that begin with COFFERDAM_ are the host's")
        } else if value.contains('\0') {
            Some("its value holds a NUL byte")
        } else {
            None
        };
        if reason.is_some() {
            findings.add("env", shown, Rule::BuiltIn, reason);
            continue;
        }
        let (allowed, rule, list) = ceilings.env(name);
        let reason = (!allowed)
            .then(|| format!("allowed are {list}; leave it out, or have it added to env there"));
        findings.add("env", shown, rule, reason);
    }
    let bytes: usize = env
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_ENV_BYTES {
        let reason = format!("the ceiling is {MAX_ENV_BYTES} bytes, names and values together");
        findings.add("env", format!("{bytes} bytes"), Rule::BuiltIn, Some(reason));
    }
}

#[cfg(test)]
mod tests;
