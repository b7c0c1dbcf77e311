//! One fixture, run in the sandbox as a server would run it.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use cofferdam_deploy::check_config;
use cofferdam_deploy::freeze;
use cofferdam_sandbox::{
    Access, Component, Phase, Preopen, Receipt, Sandbox, Stdin, StepSpec, Verdict,
};
use tokio::sync::mpsc;

use super::events::Said;
use super::fixture::{Fixture, unreadable};
use super::tree::{self, Tree};
use crate::exit::Failure;

/// What came of a fixture.
pub(super) struct Ran {
    /// What the step said; how it ended comes last.
    pub(super) said: Vec<Said>,
    /// The tree that it left, when it succeeded and may change the tree.
    pub(super) tree: Option<Tree>,
    /// That tree's digest, as a release would have it.
    pub(super) digest: Option<String>,
    /// A trap with its backtrace.
    pub(super) trap: Option<String>,
    /// What it used, when it ran.
    pub(super) receipt: Option<Receipt>,
}

/// Runs the component over a copy of the fixture's tree.
pub(super) async fn run(
    sandbox: &Sandbox,
    component: &Component,
    fixture: &Fixture,
) -> Result<Ran, Failure> {
    let mut ran = Ran {
        said: Vec::new(),
        tree: None,
        digest: None,
        trap: None,
        receipt: None,
    };
    if let Some(message) = refused(component, fixture) {
        ran.said.push(Said::refused("config_invalid", message));
        return Ok(ran);
    }
    let place = tempfile::tempdir().map_err(|error| machine(error.into()))?;
    let (release, tmp) = (place.path().join("release"), place.path().join("tmp"));
    let source = fixture.release();
    let tree = tree::read(&source).map_err(|error| unreadable(&source, &error))?;
    tree::write(&release, &tree).map_err(|error| machine(error.into()))?;
    fs::create_dir(&tmp).map_err(|error| machine(error.into()))?;

    let phase = fixture.phase();
    let stdin = fixture.stdin()?;
    if stdin.is_some() && phase != Phase::Extract {
        return Err(Failure::refused(format!(
            "the fixture {} has a file stdin, which only an extract step reads: say phase = \"extract\" in step.toml",
            fixture.name
        )));
    }
    let preopens = preopens(phase, &release, &tmp).map_err(|error| machine(error.into()))?;
    let verdict = step(
        sandbox,
        component,
        fixture.spec()?,
        preopens,
        stdin,
        &mut ran,
    )
    .await?;
    if verdict.is_success() && phase != Phase::Load {
        // What a server would not keep is no success here either.
        match freeze::inspect(&release) {
            Ok(frozen) => {
                ran.digest = Some(frozen.digest);
                let tree = tree::read(&release).map_err(|error| unreadable(&release, &error))?;
                ran.tree = Some(tree);
            }
            Err(error) if error.is_refusal() => {
                ran.said
                    .push(Said::refused("release_invalid", error.to_string()));
                return Ok(ran);
            }
            Err(error) => return Err(machine(error.into())),
        }
    }
    ran.said.push(Said::end(&verdict));
    Ok(ran)
}

/// Why a server would not run the step with this config.
fn refused(component: &Component, fixture: &Fixture) -> Option<String> {
    let description = component.description()?;
    let phase = fixture.phase();
    if !description.phases.is_empty() && !description.phases.contains(&phase) {
        return Some(format!("it is no plugin for {phase}"));
    }
    let schema = description.config_schema.as_ref()?;
    check_config(schema, fixture.config()).err()
}

async fn step(
    sandbox: &Sandbox,
    component: &Component,
    spec: StepSpec,
    preopens: Vec<Preopen>,
    stdin: Option<Vec<u8>>,
    ran: &mut Ran,
) -> Result<Verdict, Failure> {
    let stdin = match stdin {
        None => Stdin::Closed,
        Some(bytes) => {
            let (sender, receiver) = mpsc::channel(1);
            // The channel holds all of it, and the sender's going is the end of the input.
            sender
                .try_send(Ok(Bytes::from(bytes)))
                .expect("an empty channel takes one piece");
            Stdin::Channel(receiver)
        }
    };
    let mut step = sandbox
        .start(component, spec, preopens, stdin)
        .map_err(|error| Failure::refused(format!("the plugin cannot be run: {error}")))?;
    while let Some(event) = step.next_event().await {
        ran.said.extend(Said::of(event));
    }
    let outcome = step
        .outcome()
        .await
        .map_err(|error| machine(error.into()))?;
    if let Verdict::Trapped { message } = &outcome.verdict {
        ran.trap = Some(message.clone());
    }
    ran.receipt = Some(outcome.receipt);
    Ok(outcome.verdict)
}

fn preopens(phase: Phase, release: &Path, tmp: &Path) -> std::io::Result<Vec<Preopen>> {
    let access = if phase == Phase::Load {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    Ok(vec![
        Preopen::open("/release", access, release)?,
        Preopen::open("/tmp", Access::ReadWrite, tmp)?,
    ])
}

fn machine(error: anyhow::Error) -> Failure {
    Failure::Machine(error.context("cannot run the fixture"))
}
