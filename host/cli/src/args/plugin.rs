//! The arguments of `cofferdam plugin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AllArgs, ClientArgs};
use crate::plugin::PluginName;

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Admit a component: it is checked and compiled once, and can be run from then on
    #[command(
        after_help = "Example:\n  cofferdam plugin add target/wasm32-wasip2/release/fill.wasm fill@0.1.0"
    )]
    Add(PluginAddArgs),
    /// List admitted plugins
    List(AllArgs),
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
            PluginCommand::Add(args) => args.json,
            PluginCommand::List(args) => args.json,
        }
    }
}
