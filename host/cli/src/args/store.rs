//! The arguments of `cofferdam store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DATA;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Check the packages' store of a stopped server: packs, index, references; and repair it
    #[command(after_help = CHECK_HELP)]
    Check(StoreCheckArgs),
    /// Make the index of a stopped server's store anew from its packs
    #[command(after_help = REINDEX_HELP)]
    Reindex(StoreReindexArgs),
}

const CHECK_HELP: &str = "\
Examples:
  cofferdam store check                   what describes the bytes: headers, tables, index, references
  cofferdam store check --read-data       every byte
  cofferdam store check --read-data --repair

A repair never drops what a package consists of. What it cannot mend is listed with the packages it concerns; sending \
the same bytes again mends it.

Exits with 1 when something is wrong (after a repair: when something still is), and with 3 when a server has the \
store open: stop it first.";

const REINDEX_HELP: &str = "\
For an index that is lost, or that nothing else repairs. Killed at any moment it leaves the old one. Packages that were \
removed come back, until the server's next start removes them again.";

#[derive(Debug, Args)]
pub(crate) struct StoreCheckArgs {
    /// The server's data directory
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
    /// Read and verify every byte
    #[arg(long)]
    pub(crate) read_data: bool,
    /// Mend what can be mended
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StoreReindexArgs {
    /// The server's data directory
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl StoreCommand {
    /// Whether standard output is for a script.
    pub(crate) fn json(&self) -> bool {
        match self {
            StoreCommand::Check(arguments) => arguments.json,
            StoreCommand::Reindex(arguments) => arguments.json,
        }
    }
}
