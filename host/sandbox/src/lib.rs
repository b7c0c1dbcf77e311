//! Runs one untrusted WebAssembly component under grants.
//!
//! An embedding program makes one [`Sandbox`], admits components into it, and starts them as steps. A step gets
//! the directories, the environment and the input it is given and nothing else: no network, no processes, no other
//! file. It has limits on memory, wall-clock and CPU time, bytes and files written, open descriptors and output,
//! and it can be stopped at any moment, whether it computes, sleeps or waits. What it prints and reports arrives as
//! [`StepEvent`]s; it ends in a typed [`Verdict`] with a [`Receipt`] of what it used.
//!
//! A component that exports `wasi:http/incoming-handler` becomes an [`HttpService`] instead, with an instance for
//! each request.
//!
//! ```no_run
//! use cofferdam_sandbox::{Access, Phase, Preopen, Sandbox, SandboxOptions, StepContext, StepEvent, StepSpec, Stdin};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let sandbox = Sandbox::new(SandboxOptions::default())?;
//! let component = sandbox.admit(&std::fs::read("plugin.wasm")?)?;
//! let context = StepContext {
//!     deployment: "1".into(),
//!     project: "blog".into(),
//!     step: "install".into(),
//!     phase: Phase::Install,
//!     config: serde_json::json!({ "minify": true }),
//! };
//! let preopens = vec![Preopen::open("/release", Access::ReadWrite, "public")?];
//! let mut step = sandbox.start(&component, StepSpec::new(context), preopens, Stdin::Closed)?;
//! while let Some(event) = step.next_event().await {
//!     if let StepEvent::Line { text, .. } = event {
//!         println!("{}", text.escape_debug());
//!     }
//! }
//! println!("{}", step.outcome().await?.verdict);
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! | module | is |
//! |---|---|
//! | `sandbox` | [`Sandbox`]: the engine, the cache, the runtime of services |
//! | `admission` | [`Component`]: validation, imports in plain words, the description, the cache of compiled code |
//! | `spec`, `limits` | what a run is told and given: plain data |
//! | `step` | [`Step`]: its handle, and its thread with a runtime of its own |
//! | `control` | who stops a guest, and the clocks that may |
//! | `console` | lines, progress, floods and back-pressure |
//! | `input` | standard input from a channel |
//! | [`redact`] | keeping secrets out of what a step says |
//! | `filesystem` | directories, quotas and the rules between preopens |
//! | `additions` | the interfaces of `cofferdam:step` |
//! | `lines` | source lines for backtraces |
//! | `virtuality`, `clock` | reproducible steps: time and chance that are the same everywhere |
//! | `memory` | linear memory and tables |
//! | `state` | what a store holds, and everything that is linked |
//! | `net` | the network by name: the grant, and the broker that sends a guest's requests |
//! | `http` | [`HttpService`]: services |
//! | [`worker`] | steps in processes of their own, behind the kernel's walls |
//! | `event`, `outcome`, `error` | what comes out |
//!
//! No type of the engine is part of this crate's interface.

mod additions;
mod admission;
mod clock;
mod console;
mod control;
mod engine;
mod error;
mod event;
mod filesystem;
mod http;
mod input;
pub mod limits;
mod lines;
mod memory;
mod net;
mod outcome;
pub mod redact;
mod sandbox;
mod spec;
mod state;
mod step;
mod virtuality;
pub mod worker;

pub use self::admission::{Component, ComponentKind, PluginDescription, is_core_module, wants};
pub use self::error::Error;
pub use self::event::{OutputStream, StepEvent};
pub use self::http::{HttpService, ServiceBody, ServiceError, ServiceUsage};
pub use self::limits::{Limits, ServiceLimits};
pub use self::net::{
    HostPort, IpRange, NetGrant, NetGrantError, PostError, PostRules, check_post_url, post,
};
pub use self::outcome::{HostUsage, Outcome, Receipt, Verdict};
pub use self::redact::Redactor;
pub use self::sandbox::{DEFAULT_MAX_COMPONENT_BYTES, Sandbox, SandboxOptions};
pub use self::spec::{
    Access, InputError, Phase, Preopen, Secrets, ServiceSpec, ServiceState, Stdin, StepContext,
    StepSpec,
};
pub use self::step::{Canceller, Step};
pub use self::worker::WorkerFigures;
