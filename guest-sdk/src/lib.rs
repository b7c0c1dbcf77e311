//! What the author of a Cofferdam plugin imports.
//!
//! A plugin is an ordinary program compiled to `wasm32-wasip2`: `println!` is the deployment's live log,
//! `std::fs` sees the release as the current directory, and the exit code is the verdict. This crate adds
//! what a program cannot say with those: who it runs for ([`context`]), what it was configured to do
//! ([`config`]), how far it is ([`progress`]), what deserves a look ([`warning`]), what it found out
//! ([`output`]), which files are executable ([`set_executable`]), and the secrets it was granted
//! ([`secret`]).
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use cofferdam_sdk as sdk;
//! use serde::Deserialize;
//!
//! sdk::plugin! {
//!     name: "stamp",
//!     description: "Writes a file that says which deployment this is.",
//!     phases: ["install"],
//!     config: {
//!         "type": "object",
//!         "properties": { "file": { "type": "string" } },
//!         "additionalProperties": false
//!     },
//! }
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields, default)]
//! struct Config {
//!     file: String,
//! }
//!
//! impl Default for Config {
//!     fn default() -> Self {
//!         Config { file: "deployment.txt".into() }
//!     }
//! }
//!
//! fn stamp() -> Result<(), Box<dyn std::error::Error>> {
//!     let config: Config = sdk::config()?;
//!     let path = sdk::release().join(&config.file);
//!     std::fs::write(&path, sdk::context().deployment)?;
//!     println!("stamped {}", config.file);
//!     sdk::output("stamped", &config.file)?;
//!     Ok(())
//! }
//!
//! fn main() -> ExitCode {
//!     sdk::run(stamp)
//! }
//! ```
//!
//! Built natively the same calls talk to a stand-in for the host, so a plugin's own tests are ordinary
//! `cargo test` tests; and they can run the compiled plugin in the real sandbox: see [`testing`]. `cofferdam plugin
//! new` writes a crate with both.
//!
//! A profile with `debug = "line-tables-only"` and `strip = "none"` makes a trap name the lines that led to it, for
//! about 1 MB of file and nothing at run time; without, it names functions.
//!
//! # Layout
//!
//! - `context`: who this run is for, and its typed configuration
//! - `report`, `bytes`: progress, warnings, typed outputs; byte counts for people
//! - `files`: the directories of a step, and the executable bit
//! - `secrets`: what was granted by name
//! - `entry`: from a returned error to a last line and an exit code
//! - `description`: the section in which a component describes itself
//! - `host`: the calls themselves, to the real host or to the stand-in
//! - [`testing`]: running a step's function in a native test, and the plugin in the real sandbox

mod bytes;
mod context;
pub mod description;
mod entry;
mod error;
mod files;
mod host;
mod report;
mod secrets;
#[cfg(not(target_os = "wasi"))]
pub mod testing;

pub use bytes::Bytes;
pub use context::{Context, Phase, config, context};
pub use entry::run;
pub use error::Error;
pub use files::{is_executable, release, scratch, set_executable};
pub use report::{output, progress, warning};
pub use secrets::secret;
