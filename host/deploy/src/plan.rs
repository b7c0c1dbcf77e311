//! What a deployment will run, settled before a byte of its package is read.

use cofferdam_sandbox::{HostPort, Limits, NetGrant, Phase, Secrets};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalog::{Catalog, Resolved};
use crate::check::{Check, ServiceCheck, StepCheck};
use crate::error::Error;
use crate::grant::{Asker, Decision, Grant, decide};
use crate::head::{Head, Request, Step, Strategy};
use crate::name::{PluginName, PluginRef, ProjectName};
use crate::policy::Policy;
use crate::record::StepRecord;
use crate::secrets::{self, SecretStore};
use crate::service;

/// The extract step of a pipeline that names none.
const DEFAULT_EXTRACT: &str = "unpack";

/// The load step of a pipeline that names none.
const DEFAULT_LOAD: &str = "serve";

/// How many problems of one config are named.
const MAX_PROBLEMS: usize = 10;

/// A pipeline with every plugin resolved and every request granted.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<PlannedStep>,
    pub(crate) strategy: Strategy,
    /// Whether the host goes back by itself when a service fails soon after the swap.
    pub(crate) auto_revert: bool,
    /// The head's message, for the history.
    pub(crate) message: Option<String>,
    /// The secrets that services ask for, as far as the head says so.
    pub(crate) service_secrets: Vec<(String, Vec<String>)>,
}

/// One step, ready to run.
#[derive(Debug)]
pub(crate) struct PlannedStep {
    pub(crate) name: String,
    pub(crate) phase: Phase,
    pub(crate) plugin: Resolved,
    pub(crate) config: Value,
    pub(crate) grant: Grant,
    /// Whether it sees no time, chance or machine of its own.
    pub(crate) reproducible: bool,
}

/// What a record keeps of a planned step, beside what its head and its step record say: a deployment that is resumed
/// runs what was settled when it was accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PlanRecord {
    plugin: PluginName,
    version: Version,
    limits: Limits,
    cache_bytes: u64,
}

/// A step of a head, with its name and its place.
pub(crate) struct PipelineStep {
    pub(crate) name: String,
    pub(crate) phase: Phase,
    pub(crate) step: Step,
}

/// The steps that a head's pipeline has, those that it leaves out included.
pub(crate) fn steps(head: &Head) -> Result<Vec<PipelineStep>, Error> {
    let or_default = |step: &Option<Step>, plugin: &str| match step {
        Some(step) => Ok(step.clone()),
        None => default_step(plugin),
    };
    let mut steps = vec![PipelineStep {
        name: "extract".to_owned(),
        phase: Phase::Extract,
        step: or_default(&head.pipeline.extract, DEFAULT_EXTRACT)?,
    }];
    for (at, install) in head.pipeline.install.iter().enumerate() {
        steps.push(PipelineStep {
            name: format!("install-{}", at + 1),
            phase: Phase::Install,
            step: install.clone(),
        });
    }
    steps.push(PipelineStep {
        name: "load".to_owned(),
        phase: Phase::Load,
        step: or_default(&head.pipeline.load, DEFAULT_LOAD)?,
    });
    Ok(steps)
}

impl Plan {
    /// Settles a head's pipeline, or says the first thing that stands against it.
    pub(crate) async fn settle(
        head: &Head,
        project: &ProjectName,
        catalog: &Catalog,
        policy: &Policy,
    ) -> Result<Self, Error> {
        let mut planned = Vec::new();
        for step in steps(head)? {
            let settled = settle_step(step, head, project, catalog, policy).await?;
            let grant = settled.decision.into_grant(&settled.name)?;
            planned.push(PlannedStep {
                name: settled.name,
                phase: settled.phase,
                plugin: settled.plugin,
                config: settled.config,
                grant,
                reproducible: head.reproducible,
            });
        }
        let mut service_secrets = Vec::new();
        for (name, request) in service::announced(head) {
            service::check_strategy(head.strategy, &name, &request)
                .map_err(|message| Error::HeadInvalid { message })?;
            let granted = service::grant(policy, project, &name, &request)?;
            service_secrets.push((service::label(&name), granted.secrets));
        }
        Ok(Self {
            steps: planned,
            strategy: head.strategy,
            auto_revert: head.auto_revert.unwrap_or(true),
            message: head.message.clone(),
            service_secrets,
        })
    }

    /// The plan of a deployment that was accepted before: the plugins and grants of then. Only what the operator says of
    /// networks as such is of now.
    pub(crate) async fn recall(
        head: &Head,
        records: &[StepRecord],
        kept: &[PlanRecord],
        catalog: &Catalog,
        policy: &Policy,
    ) -> Result<Self, Error> {
        let mut planned = Vec::new();
        for ((step, record), kept) in steps(head)?.into_iter().zip(records).zip(kept) {
            let PipelineStep { name, phase, step } = step;
            let hosts: Vec<HostPort> = record
                .grant
                .iter()
                .flat_map(|grant| &grant.net)
                .filter_map(|host| host.parse().ok())
                .collect();
            let net = if hosts.is_empty() {
                NetGrant::default()
            } else {
                NetGrant {
                    hosts,
                    allow_ranges: policy.network().allow_ranges.clone(),
                    extra_roots: policy.network().extra_roots.clone(),
                }
            };
            let plugin = catalog
                .recall(
                    record.plugin.clone(),
                    kept.plugin.clone(),
                    kept.version.clone(),
                    record.digest.clone(),
                )
                .await;
            planned.push(PlannedStep {
                name,
                phase,
                plugin,
                config: step.config,
                grant: Grant {
                    env: step.request.env,
                    limits: kept.limits.clone(),
                    secrets: step.request.secrets,
                    net,
                    cache: step.request.cache,
                    cache_bytes: kept.cache_bytes,
                    state_bytes: None,
                },
                reproducible: head.reproducible,
            });
        }
        Ok(Self {
            steps: planned,
            strategy: head.strategy,
            auto_revert: head.auto_revert.unwrap_or(true),
            message: head.message.clone(),
            service_secrets: Vec::new(),
        })
    }

    /// What [`Self::recall`] needs and nothing else says.
    pub(crate) fn kept(&self) -> Vec<PlanRecord> {
        let kept = |step: &PlannedStep| PlanRecord {
            plugin: step.plugin.name.clone(),
            version: step.plugin.version.clone(),
            limits: step.grant.limits.clone(),
            cache_bytes: step.grant.cache_bytes,
        };
        self.steps.iter().map(kept).collect()
    }

    /// Opens every secret that a step or a service was granted, and forgets it again: one that is missing is said before a byte of
    /// the package is read.
    pub(crate) async fn check_secrets(
        &self,
        store: &SecretStore,
        project: &ProjectName,
    ) -> Result<(), Error> {
        let mut all = Secrets::default();
        for step in &self.steps {
            all.extend(store.open(&step.name, project, &step.grant.secrets).await?);
            secrets::check_size(&step.name, &all)?;
        }
        for (service, names) in &self.service_secrets {
            store.open(service, project, names).await?;
        }
        Ok(())
    }

    /// What every step would get.
    pub(crate) async fn check(
        head: &Head,
        project: &ProjectName,
        catalog: &Catalog,
        policy: &Policy,
    ) -> Result<Check, Error> {
        let mut checked = Vec::new();
        for step in steps(head)? {
            let settled = settle_step(step, head, project, catalog, policy).await?;
            let plugin = settled.plugin.label;
            checked.push(StepCheck::new(
                &settled.name,
                settled.phase,
                plugin,
                settled.decision,
            ));
        }
        let services = service::announced(head);
        let services = services.into_iter().map(|(name, request)| {
            ServiceCheck::new(name, &request, service::judge(policy, project, &request))
        });
        Ok(Check::new(project, checked, services.collect()))
    }

    /// The steps as the record begins with them.
    pub(crate) fn records(&self) -> Vec<StepRecord> {
        self.steps
            .iter()
            .map(|step| StepRecord {
                grant: Some(step.grant.record()),
                ..StepRecord::pending(
                    &step.name,
                    step.phase,
                    &step.plugin.label,
                    &step.plugin.digest,
                )
            })
            .collect()
    }
}

#[cfg(test)]
impl PlanRecord {
    /// One like any other.
    pub(crate) fn sample() -> Self {
        Self {
            plugin: "p".parse().expect("it is a name"),
            version: Version::new(1, 0, 0),
            limits: Limits::default(),
            cache_bytes: 0,
        }
    }
}

fn default_step(plugin: &str) -> Result<Step, Error> {
    let plugin: PluginRef = plugin.parse()?;
    Ok(Step {
        plugin,
        config: Value::Null,
        request: Request::default(),
    })
}

/// A step whose plugin and configuration are settled, and whose request is decided.
struct Settled {
    name: String,
    phase: Phase,
    plugin: Resolved,
    config: Value,
    decision: Decision,
}

async fn settle_step(
    PipelineStep { name, phase, step }: PipelineStep,
    head: &Head,
    project: &ProjectName,
    catalog: &Catalog,
    policy: &Policy,
) -> Result<Settled, Error> {
    let plugin = catalog.resolve(&step.plugin).await?;
    if !plugin.phases.is_empty() && !plugin.phases.contains(&phase) {
        let phases: Vec<_> = plugin.phases.iter().map(ToString::to_string).collect();
        return Err(Error::ConfigInvalid {
            step: name,
            plugin: plugin.label,
            message: format!(
                "it is a plugin for {}, not for {phase}",
                phases.join(" and ")
            ),
        });
    }
    if let Some(schema) = &plugin.config_schema {
        check_config(schema, &step.config).map_err(|message| Error::ConfigInvalid {
            step: name.clone(),
            plugin: plugin.label.clone(),
            message,
        })?;
    }
    let asker = Asker {
        phase: Some(phase),
        reproducible: head.reproducible,
    };
    let ceilings = policy.ceilings(project, Some((&plugin.name, Some(&plugin.version))));
    let decision = decide(asker, &step.request, &ceilings, policy.network());
    Ok(Settled {
        name,
        phase,
        plugin,
        config: step.config,
        decision,
    })
}

/// Checks that a plugin's schema is one.
pub(crate) fn check_schema(schema: &Value) -> Result<(), String> {
    jsonschema::validator_for(schema)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Checks a step's config against its plugin's schema. A step without a config has an empty one.
///
/// # Errors
///
/// What is wrong with the config, each problem with its place, or with the schema.
pub fn check_config(schema: &Value, config: &Value) -> Result<(), String> {
    let validator = jsonschema::validator_for(schema).map_err(|error| error.to_string())?;
    let empty = Value::Object(serde_json::Map::new());
    let config = if config.is_null() { &empty } else { config };
    let problems: Vec<String> = validator
        .iter_errors(config)
        .take(MAX_PROBLEMS)
        .map(|error| match error.instance_path().as_str() {
            "" => error.to_string(),
            place => format!("{place}: {error}"),
        })
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("; "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_is_held_against_its_schema_and_every_problem_is_placed() {
        let schema = json!({
            "type": "object",
            "properties": { "level": { "type": "integer", "maximum": 9 }, "name": { "type": "string" } },
            "additionalProperties": false,
        });
        assert_eq!(check_config(&schema, &json!({ "level": 9 })), Ok(()));
        assert_eq!(check_config(&schema, &Value::Null), Ok(()));
        let problems = check_config(&schema, &json!({ "level": 10, "nmae": "x" })).unwrap_err();
        assert!(
            problems.contains("/level") && problems.contains("nmae"),
            "{problems}"
        );
    }

    #[test]
    fn a_schema_that_is_none_is_found_at_once() {
        assert!(check_schema(&json!({ "type": "objekt" })).is_err());
        assert!(check_schema(&json!({ "$ref": "https://example.org/schema.json" })).is_err());
        assert!(check_schema(&json!({ "type": "object" })).is_ok());
    }
}
