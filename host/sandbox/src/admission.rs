//! Admitting components: nothing runs whose imports were not checked and whose code was not compiled here.

mod adapt;
mod artifact;
mod cache;
mod compiling;
mod description;
mod imports;
mod wants;

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use wasmparser::Parser;
use wasmtime::Engine;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

pub(crate) use self::adapt::adapt;
pub(crate) use self::cache::Cache;
pub use self::description::PluginDescription;
pub use self::wants::wants;
use crate::error::Error;
use crate::lines::Lines;
use crate::sandbox::Inner;
use crate::state::State;
use crate::worker;

/// The export that makes a component a program.
const RUN: &str = "wasi:cli/run";

/// The export that makes a component a service.
const HANDLER: &str = "wasi:http/incoming-handler";

/// The most missing imports that are told: a component may have thousands.
const MAX_PROBLEMS: usize = 20;

/// Bytes that adapting adds to a module: the adapter has some fifty thousand, and the rest is what ties both together.
const ADAPTER_BYTES: usize = 1 << 20;

/// What a component is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComponentKind {
    /// A program: it exports `wasi:cli/run` and can be a step.
    Command,
    /// A service: it exports `wasi:http/incoming-handler` and answers requests.
    HttpHandler,
}

/// An admitted component: checked, compiled, ready to run. Clones are the same component.
#[derive(Clone)]
pub struct Component(Arc<Admitted>);

struct Admitted {
    digest: String,
    kind: ComponentKind,
    imports: Vec<String>,
    adapted: bool,
    description: Option<PluginDescription>,
    engine: Engine,
    /// The compiled component's file, when steps run in workers.
    artifact: Option<File>,
    command: Option<CommandPre<State>>,
    proxy: Option<ProxyPre<State>>,
    lines: Lines,
}

impl Component {
    /// The BLAKE3 hash of the bytes that were given, as `blake3:` and 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// What the component is for. One that is both a program and a service counts as a program; a service can be
    /// made of it all the same.
    #[must_use]
    pub fn kind(&self) -> ComponentKind {
        self.0.kind
    }

    /// The names of the interfaces it imports, in its own order.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.0.imports
    }

    /// Whether it was a core module for WASI preview 1, which admission made a component of.
    #[must_use]
    pub fn is_adapted(&self) -> bool {
        self.0.adapted
    }

    /// What the component says about itself.
    #[must_use]
    pub fn description(&self) -> Option<&PluginDescription> {
        self.0.description.as_ref()
    }

    /// The name by which the program is called: its own, or its digest.
    pub(crate) fn program(&self) -> &str {
        match &self.0.description {
            Some(description) if !description.name.is_empty() => &description.name,
            _ => &self.0.digest,
        }
    }

    /// What it says about its sources.
    pub(crate) fn lines(&self) -> &Lines {
        &self.0.lines
    }

    pub(crate) fn command(&self, engine: &Engine) -> Result<&CommandPre<State>, Error> {
        self.of(engine)?;
        self.0.command.as_ref().ok_or(Error::WrongKind {
            found: HANDLER,
            needed: RUN,
        })
    }

    pub(crate) fn proxy(&self, engine: &Engine) -> Result<&ProxyPre<State>, Error> {
        self.of(engine)?;
        self.0.proxy.as_ref().ok_or(Error::WrongKind {
            found: RUN,
            needed: HANDLER,
        })
    }

    /// A descriptor of the compiled component, for a worker.
    pub(crate) fn artifact(&self) -> Result<File, Error> {
        let artifact = self.0.artifact.as_ref();
        let artifact = artifact.ok_or_else(|| Error::host("a compiled component was not kept"))?;
        artifact.try_clone().map_err(|error| {
            Error::host(format!("a compiled component cannot be handed on: {error}"))
        })
    }

    fn of(&self, engine: &Engine) -> Result<(), Error> {
        if Engine::same(&self.0.engine, engine) {
            Ok(())
        } else {
            Err(Error::specification(
                "the component was admitted by another sandbox; admit it by this one",
            ))
        }
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("digest", &self.0.digest)
            .field("kind", &self.0.kind)
            .finish_non_exhaustive()
    }
}

/// Checks and compiles, or finds compiled, the component in `wasm`.
pub(crate) fn admit(sandbox: &Inner, wasm: &[u8]) -> Result<Component, Error> {
    let Inner { engine, linker, .. } = sandbox;
    let limit = sandbox.max_component_bytes;
    if wasm.len() > limit {
        return Err(Error::TooLarge {
            bytes: wasm.len(),
            limit,
        });
    }
    let given = wasm;
    let adapted;
    let wasm = if is_core_module(given) {
        // Like a compiler, what adapts was written for build tools, which read what their own users wrote.
        adapted = match &sandbox.workers {
            Some(workers) => worker::adapt(workers, given, limit.saturating_add(ADAPTER_BYTES))?,
            None => adapt(given)?,
        };
        &adapted
    } else {
        given
    };
    if !Parser::is_component(wasm) {
        return Err(Error::NotWasm {
            message: what_it_is(wasm),
        });
    }
    let description = description::find(wasm)?;

    // Whoever names a component names the bytes that he has.
    let digest = blake3::hash(given);
    let (compiled, artifact) = compiling::compiled(sandbox, &digest, wasm)?;

    let shape = compiled.component_type();
    let imports: Vec<String> = shape
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    let exports = |wanted: &str| {
        shape
            .exports(engine)
            .any(|(name, _)| name.split_once('@').is_some_and(|(name, _)| name == wanted))
    };
    let (is_command, is_handler) = (exports(RUN), exports(HANDLER));
    let mut problems: Vec<String> = imports
        .iter()
        .filter_map(|import| imports::missing(import))
        .take(MAX_PROBLEMS)
        .collect();
    if !is_command && !is_handler {
        problems.push(format!(
            "it exports neither {RUN} (a program, which a step runs) nor {HANDLER} (a service, which answers requests)"
        ));
    }
    if !problems.is_empty() {
        return Err(Error::Incompatible { problems });
    }

    let incompatible = |error: wasmtime::Error| Error::Incompatible {
        problems: vec![format!("{error:#}")],
    };
    let instance = linker.instantiate_pre(&compiled).map_err(incompatible)?;
    let command = is_command
        .then(|| CommandPre::new(instance.clone()))
        .transpose()
        .map_err(incompatible)?;
    let proxy = is_handler
        .then(|| ProxyPre::new(instance))
        .transpose()
        .map_err(incompatible)?;
    Ok(Component(Arc::new(Admitted {
        digest: format!("blake3:{}", digest.to_hex()),
        kind: if is_command {
            ComponentKind::Command
        } else {
            ComponentKind::HttpHandler
        },
        imports,
        adapted: is_core_module(given),
        description,
        engine: engine.clone(),
        artifact,
        command,
        proxy,
        lines: Lines::of(wasm),
    })))
}

/// Makes a component of one that the host has admitted and compiled: in a worker.
pub(crate) fn revive(
    sandbox: &Inner,
    artifact: &File,
    program: &str,
    digest: &str,
) -> wasmtime::Result<Component> {
    let Inner { engine, linker, .. } = sandbox;
    let compiled = artifact::load_open(engine, artifact)?;
    let instance = linker.instantiate_pre(&compiled)?;
    Ok(Component(Arc::new(Admitted {
        digest: digest.to_owned(),
        kind: ComponentKind::Command,
        imports: Vec::new(),
        adapted: false,
        description: Some(PluginDescription {
            name: program.to_owned(),
            ..PluginDescription::default()
        }),
        engine: engine.clone(),
        artifact: None,
        command: Some(CommandPre::new(instance)?),
        proxy: None,
        // The host says which lines a trap came from.
        lines: Lines::default(),
    })))
}

/// Whether the bytes are a core module rather than a component. [`Sandbox::admit`](crate::Sandbox::admit) makes a
/// component of one that is a program for WASI preview 1.
#[must_use]
pub fn is_core_module(wasm: &[u8]) -> bool {
    Parser::is_core_wasm(wasm)
}

/// What someone most likely meant to give.
fn what_it_is(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "it is empty".to_owned();
    }
    if bytes.starts_with(b"\0asm") {
        return "it is WebAssembly of a version that is not known here".to_owned();
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return "it is machine code that another program compiled, which is never accepted"
            .to_owned();
    }
    if bytes.starts_with(b"(component") || bytes.starts_with(b"(module") {
        return "it is WebAssembly text; convert it with `wasm-tools parse`".to_owned();
    }
    "it does not start with \\0asm".to_owned()
}
