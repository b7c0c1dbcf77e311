//! The arguments of `cofferdam plugin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AllArgs, ClientArgs};
use crate::cmd::plugin::CrateName;
use crate::fetch::{Digest, Source};
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
    #[command(after_help = ADD_HELP)]
    Add(PluginAddArgs),
    /// List admitted plugins
    List(AllArgs),
    /// Show one plugin: what it is for, what it wants, who signed and admitted it
    Show(PluginShowArgs),
    /// Remove a plugin: later deployments do not find it, those under way run it all the same
    Remove(PluginRemoveArgs),
}

const ADD_HELP: &str = "\
Examples:
  cofferdam plugin add target/wasm32-wasip2/release/fill.wasm fill@0.1.0
  cofferdam plugin add http://example.org/fill.wasm fill@0.1.0 --digest sha256:9f86d081...
  cofferdam plugin add oci://127.0.0.1:5000/plugins/fill:0.1.0 fill@0.1.0

A component, or a module built for WASI preview 1. What it imports is told in words. From a URL it is taken by its \
digest alone, and so it is from a registry that is not this machine: name that by @sha256:... in the reference. \
COFFERDAM_REGISTRY_USER and COFFERDAM_REGISTRY_PASSWORD are for a registry that wants them. minisign's signature in \
FILE.minisig goes along when it lies beside the file.";

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
    /// The component's .wasm file, or where to fetch it
    #[arg(value_name = "FILE|http://URL|oci://REFERENCE")]
    pub(crate) source: Source,
    /// What it is to be called
    #[arg(value_name = "NAME@VERSION")]
    pub(crate) name: PluginName,
    /// Take these bytes and no others
    #[arg(long, value_name = "blake3:HEX|sha256:HEX")]
    pub(crate) digest: Option<Digest>,
    /// minisign's signature of the bytes [default: FILE.minisig, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) signature: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PluginShowArgs {
    /// Its name, with its version unless there is one only, or its digest
    #[arg(value_name = "NAME[@VERSION]|blake3:HEX")]
    pub(crate) plugin: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PluginRemoveArgs {
    /// Which one
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
            PluginCommand::Show(args) => args.json,
            PluginCommand::Remove(args) => args.json,
        }
    }
}
