//! What a deployment would get, without deploying it.

use cofferdam_sandbox::{Limits, Phase, ServiceLimits};
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Error;
use crate::grant::{Asker, Decision, Finding, decide};
use crate::head::{Head, Request};
use crate::name::{PluginRef, ProjectName, ServiceName};
use crate::plan::{self, PipelineStep};
use crate::policy::Policy;
use crate::service;

/// What every step of a head would get, and which rule decided.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Check {
    /// The project it was checked for.
    pub project: ProjectName,
    /// Whether nothing is refused.
    pub allowed: bool,
    /// The steps, in the order in which they would run.
    pub steps: Vec<StepCheck>,
    /// The components that the load step's configuration names. A load step may describe others: what they ask for is
    /// judged when it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceCheck>,
}

/// What one service of the release would get.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ServiceCheck {
    /// Its name.
    pub service: ServiceName,
    /// Everything it asks for, and what became of that.
    pub findings: Vec<Finding>,
    /// What each request to it could use, asked for or not.
    pub limits: ServiceLimits,
}

impl ServiceCheck {
    pub(crate) fn new(service: ServiceName, request: &Request, decision: Decision) -> Self {
        Self {
            service,
            limits: service::limits(&request.limits, &decision.grant.limits),
            findings: decision.findings,
        }
    }
}

/// What one step would get.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct StepCheck {
    /// `extract`, `install-1`, ..., `load`.
    pub step: String,
    /// Its place in the pipeline.
    pub phase: Phase,
    /// The plugin; with its version when that is known.
    pub plugin: String,
    /// Everything it asks for, and what became of that.
    pub findings: Vec<Finding>,
    /// The limits it would run under, asked for or not.
    pub limits: Limits,
}

impl StepCheck {
    pub(crate) fn new(step: &str, phase: Phase, plugin: String, decision: Decision) -> Self {
        Self {
            step: step.to_owned(),
            phase,
            plugin,
            findings: decision.findings,
            limits: decision.grant.limits,
        }
    }
}

impl Check {
    pub(crate) fn new(
        project: &ProjectName,
        steps: Vec<StepCheck>,
        services: Vec<ServiceCheck>,
    ) -> Self {
        let of_steps = steps.iter().flat_map(|step| &step.findings);
        let of_services = services.iter().flat_map(|service| &service.findings);
        Self {
            project: project.clone(),
            allowed: of_steps.chain(of_services).all(|finding| finding.granted),
            steps,
            services,
        }
    }
}

impl Policy {
    /// Holds a head against this policy alone: no server is asked, so plugins, their configuration and
    /// secrets are not looked up. A plugin that is named without its version is judged by the table for
    /// every version.
    ///
    /// # Errors
    ///
    /// [`Error::HeadInvalid`].
    pub fn check(&self, project: &ProjectName, head: &Head) -> Result<Check, Error> {
        head.check(project)?;
        let steps = plan::steps(head)?.into_iter().map(|planned| {
            let PipelineStep { name, phase, step } = planned;
            let plugin = match &step.plugin {
                PluginRef::Named { name, version } => Some((name, version.as_ref())),
                PluginRef::Digest(_) => None,
            };
            let asker = Asker {
                phase: Some(phase),
                reproducible: head.reproducible,
            };
            let ceilings = self.ceilings(project, plugin);
            let decision = decide(asker, &step.request, &ceilings, self.network());
            StepCheck::new(&name, phase, step.plugin.to_string(), decision)
        });
        let services = service::announced(head);
        let services = services.into_iter().map(|(name, request)| {
            let decision = service::judge(self, project, &request);
            ServiceCheck::new(name, &request, decision)
        });
        Ok(Check::new(project, steps.collect(), services.collect()))
    }
}
