//! The arguments of `cofferdam plugin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AllArgs, ClientArgs};
use crate::cmd::plugin::CrateName;
use crate::plugin::PluginName;

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Write a plugin's crate that builds and tests at once
    #[command(after_help = NEW_HELP)]
    New(PluginNewArgs),
    /// Run a plugin in the real sandbox over fixtures, and compare what it leaves and says with what is recorded
    #[command(after_help = TEST_HELP)]
    Test(PluginTestArgs),
    /// Admit a component: it is checked and compiled once, and can be run from then on
    #[command(
        after_help = "Example:\n  cofferdam plugin add target/wasm32-wasip2/release/fill.wasm fill@0.1.0"
    )]
    Add(PluginAddArgs),
    /// List admitted plugins
    List(AllArgs),
}

const NEW_HELP: &str = "\
Example:
  cofferdam plugin new list && cd list && cargo test

The crate brings the SDK along in vendor/: it takes cargo and this binary to build and test it.";

const TEST_HELP: &str = "\
Examples:
  cofferdam plugin test                   the crate in this directory
  cofferdam plugin test --update          record what comes out
  cofferdam plugin test fill.wasm --fixtures tests/fixtures --fixture empty

A fixture is a directory in tests/fixtures: release/ is the tree that the step finds, step.toml how it is run (phase, \
config, env, secrets, limits, reproducible; config.json and stdin may lie beside it), expected/ the tree that it leaves and \
expected.events.jsonl what it says and how it ends. Times, progress and receipts are not compared.

Exits with 1 when a fixture comes out differently than recorded.";

#[derive(Debug, Args)]
pub(crate) struct PluginNewArgs {
    /// The plugin's name, and its crate's
    #[arg(value_name = "NAME")]
    pub(crate) name: CrateName,
    /// The directory to write it into, new or empty [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PluginTestArgs {
    /// A crate's directory, or a compiled component
    #[arg(value_name = "DIR|FILE.wasm", default_value = ".")]
    pub(crate) plugin: PathBuf,
    /// Only this fixture; can be given more than once
    #[arg(long, value_name = "NAME")]
    pub(crate) fixture: Vec<String>,
    /// Where the fixtures are [default: tests/fixtures in the crate, or here]
    #[arg(long, value_name = "DIR")]
    pub(crate) fixtures: Option<PathBuf>,
    /// Record what comes out instead of failing
    #[arg(long)]
    pub(crate) update: bool,
    /// Print a JSON line for each fixture
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PluginAddArgs {
    /// The component's .wasm file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What it is to be called
    #[arg(value_name = "NAME@VERSION")]
    pub(crate) name: PluginName,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl PluginCommand {
    /// Whether standard output is for a script.
    pub(crate) fn json(&self) -> bool {
        match self {
            PluginCommand::New(_) => false,
            PluginCommand::Test(args) => args.json,
            PluginCommand::Add(args) => args.json,
            PluginCommand::List(args) => args.json,
        }
    }
}
