//! The interfaces that Cofferdam adds to WASI: `cofferdam:step`.

mod executable;

use std::collections::BTreeSet;

use wasmtime::component::HasData;

use self::bindings::cofferdam::step;
use crate::console::Console;
use crate::filesystem::Files;
use crate::limits::Limits;
use crate::spec::{Phase, Secrets, StepContext};

/// Bytes of a progress label: it is shown on one line of a terminal.
pub(crate) const LABEL_BYTES: usize = 256;

/// Bytes of an output's name.
const OUTPUT_NAME_BYTES: usize = 128;

pub(crate) mod bindings {
    //! Generated from `guest-sdk/wit`, the contract's one home.
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        reason = "generated code"
    )]

    wasmtime::component::bindgen!({
        path: "../../guest-sdk/wit",
        world: "additions",
        imports: {
            "cofferdam:step/report.progress": async | trappable,
            "cofferdam:step/report.warning": async | trappable,
            "cofferdam:step/report.output": async | trappable,
            default: trappable,
        },
    });
}

/// What the added interfaces know of a run.
pub(crate) struct Additions {
    context: StepContext,
    console: Option<Console>,
    secrets: Secrets,
    /// The secrets that were handed out.
    secrets_read: BTreeSet<String>,
    outputs: OutputBudget,
    line_bytes: usize,
}

impl Additions {
    pub(crate) fn for_step(
        context: StepContext,
        secrets: Secrets,
        limits: &Limits,
        console: Console,
    ) -> Self {
        Self {
            context,
            console: Some(console),
            secrets,
            secrets_read: BTreeSet::new(),
            outputs: OutputBudget::new(limits),
            line_bytes: usize::try_from(limits.line_bytes).unwrap_or(usize::MAX),
        }
    }

    /// For a service, which has no step and reports nothing.
    pub(crate) fn for_service(name: String, secrets: Secrets) -> Self {
        Self {
            context: StepContext {
                deployment: String::new(),
                project: String::new(),
                step: name,
                phase: Phase::Load,
                config: serde_json::Value::Null,
            },
            console: None,
            secrets,
            secrets_read: BTreeSet::new(),
            outputs: OutputBudget { count: 0, bytes: 0 },
            line_bytes: 0,
        }
    }

    pub(crate) fn outputs(&mut self) -> &mut OutputBudget {
        &mut self.outputs
    }

    /// The names of the secrets that the guest asked for and got.
    pub(crate) fn secrets_read(&self) -> Vec<String> {
        self.secrets_read.iter().cloned().collect()
    }
}

/// How many outputs a step may still have, and how large.
#[derive(Debug)]
pub(crate) struct OutputBudget {
    count: u64,
    bytes: u64,
}

impl OutputBudget {
    fn new(limits: &Limits) -> Self {
        Self {
            count: limits.outputs,
            bytes: limits.outputs_bytes,
        }
    }

    /// Reads one output, charges for it, or says why not.
    pub(crate) fn take(&mut self, name: &str, value: &str) -> Result<serde_json::Value, String> {
        let value = serde_json::from_str(value)
            .map_err(|error| format!("the value of {name} is not JSON: {error}"))?;
        self.charge(name, &value)?;
        Ok(value)
    }

    /// Charges for an output, or says that it is one too many.
    pub(crate) fn charge(&mut self, name: &str, value: &serde_json::Value) -> Result<(), String> {
        if name.is_empty() || name.len() > OUTPUT_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(format!(
                "an output's name has 1 to {OUTPUT_NAME_BYTES} bytes and no control characters"
            ));
        }
        let bytes = (name.len() + value.to_string().len()) as u64;
        if self.count == 0 {
            return Err(format!("{name} is one output more than this step may have"));
        }
        if bytes > self.bytes {
            return Err(format!(
                "{name} has {bytes} bytes and this step's outputs may have {} more",
                self.bytes
            ));
        }
        self.count -= 1;
        self.bytes -= bytes;
        Ok(())
    }
}

/// How host calls see the additions.
pub(crate) struct AdditionsView<'a> {
    pub(crate) additions: &'a mut Additions,
    pub(crate) files: &'a Files,
}

/// Names [`AdditionsView`] to the linker.
pub(crate) struct HasAdditions;

impl HasData for HasAdditions {
    type Data<'a> = AdditionsView<'a>;
}

impl step::context::Host for AdditionsView<'_> {
    fn current(&mut self) -> wasmtime::Result<step::context::Run> {
        let context = &self.additions.context;
        Ok(step::context::Run {
            deployment: context.deployment.clone(),
            project: context.project.clone(),
            step: context.step.clone(),
            phase: match context.phase {
                Phase::Extract => step::context::Phase::Extract,
                Phase::Install => step::context::Phase::Install,
                Phase::Load => step::context::Phase::Load,
            },
        })
    }

    fn config(&mut self) -> wasmtime::Result<String> {
        Ok(self.additions.context.config.to_string())
    }
}

impl step::report::Host for AdditionsView<'_> {
    async fn progress(
        &mut self,
        done: u64,
        total: Option<u64>,
        label: String,
    ) -> wasmtime::Result<()> {
        if let Some(console) = &self.additions.console {
            // What is cut off could be what a secret is known by.
            let label = shortened(console.redacted(label), LABEL_BYTES);
            console.progress(done, total, label).await;
        }
        Ok(())
    }

    async fn warning(&mut self, text: String) -> wasmtime::Result<()> {
        if let Some(console) = &self.additions.console {
            let text = shortened(console.redacted(text), self.additions.line_bytes);
            console.warn(text).await;
        }
        Ok(())
    }

    async fn output(
        &mut self,
        name: String,
        value: String,
    ) -> wasmtime::Result<Result<(), String>> {
        let Some(console) = &self.additions.console else {
            return Ok(Err("a service has no outputs".to_owned()));
        };
        Ok(match self.additions.outputs.take(&name, &value) {
            Ok(value) => {
                console.output(name, value).await;
                Ok(())
            }
            Err(message) => Err(message),
        })
    }
}

impl step::files::Host for AdditionsView<'_> {
    fn set_executable(
        &mut self,
        path: String,
        executable: bool,
    ) -> wasmtime::Result<Result<(), String>> {
        Ok(executable::set(self.files, &path, executable))
    }

    fn is_executable(&mut self, path: String) -> wasmtime::Result<Result<bool, String>> {
        Ok(executable::get(self.files, &path))
    }
}

impl step::secrets::Host for AdditionsView<'_> {
    fn get(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Vec<u8>, step::secrets::SecretError>> {
        let Additions {
            secrets,
            secrets_read,
            ..
        } = self.additions;
        let Some(value) = secrets.get(&name) else {
            return Ok(Err(step::secrets::SecretError::NotGranted));
        };
        let value = value.to_vec();
        secrets_read.insert(name);
        Ok(Ok(value))
    }
}

/// The text, cut at a character's border when it is longer than `limit` bytes.
fn shortened(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit)
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0);
        text.truncate(end);
    }
    text
}
