//! What a deployment will run, settled before a byte of its package is read.

use cofferdam_sandbox::Phase;
use serde_json::Value;

use crate::catalog::{Catalog, Resolved};
use crate::error::Error;
use crate::grant::{Grant, grant};
use crate::head::{Head, Request, Step, Strategy};
use crate::name::PluginRef;
use crate::record::StepRecord;

/// The extract step of a pipeline that names none.
const DEFAULT_EXTRACT: &str = "unpack";

/// The load step of a pipeline that names none.
const DEFAULT_LOAD: &str = "serve";

/// A pipeline with every plugin resolved and every request granted.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<PlannedStep>,
    pub(crate) strategy: Strategy,
}

/// One step, ready to run.
#[derive(Debug)]
pub(crate) struct PlannedStep {
    pub(crate) name: String,
    pub(crate) phase: Phase,
    pub(crate) plugin: Resolved,
    pub(crate) config: Value,
    pub(crate) grant: Grant,
}

impl Plan {
    /// Settles a head's pipeline, or says the first thing that stands against it.
    pub(crate) async fn settle(head: &Head, catalog: &Catalog) -> Result<Self, Error> {
        let extract = head
            .pipeline
            .extract
            .clone()
            .map_or_else(|| default_step(DEFAULT_EXTRACT), Ok)?;
        let load = head
            .pipeline
            .load
            .clone()
            .map_or_else(|| default_step(DEFAULT_LOAD), Ok)?;
        let installs = head.pipeline.install.iter().cloned().enumerate();

        let mut steps =
            vec![settle_step("extract".to_owned(), Phase::Extract, extract, catalog).await?];
        for (at, install) in installs {
            steps.push(
                settle_step(
                    format!("install-{}", at + 1),
                    Phase::Install,
                    install,
                    catalog,
                )
                .await?,
            );
        }
        steps.push(settle_step("load".to_owned(), Phase::Load, load, catalog).await?);
        Ok(Self {
            steps,
            strategy: head.strategy,
        })
    }

    /// The steps as the record begins with them.
    pub(crate) fn records(&self) -> Vec<StepRecord> {
        self.steps
            .iter()
            .map(|step| {
                StepRecord::pending(
                    &step.name,
                    step.phase,
                    &step.plugin.label,
                    &step.plugin.digest,
                )
            })
            .collect()
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

async fn settle_step(
    name: String,
    phase: Phase,
    step: Step,
    catalog: &Catalog,
) -> Result<PlannedStep, Error> {
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
    let grant = grant(&name, &step.request)?;
    Ok(PlannedStep {
        name,
        phase,
        plugin,
        config: step.config,
        grant,
    })
}
