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
    /// Give back the room of packages that were removed
    #[command(after_help = GC_HELP)]
    Gc(StoreGcArgs),
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
removed come back, and the server lets them go again after an hour.";

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

const GC_HELP: &str = "\
Examples:
  cofferdam store gc                      the data directory's store, whether its server runs or not
  cofferdam store gc --dry-run            how much would come free
  cofferdam store gc --url http://10.0.0.7:9300

With --url, or COFFERDAM_URL, the server there is asked to do it, beside everything else that it does. Without, the \
store in --data is collected by this process; when a server has it open, that server is asked, at \
http://127.0.0.1:9300. A server does this by itself, too: after removals, and every --collect-interval.

Packages that no deployment names any more are let go by the server alone, after an hour.";

#[derive(Debug, Args)]
pub(crate) struct StoreGcArgs {
    /// The server's data directory
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
    /// The API of a running server [default: none, unless it has the store open]
    #[arg(long, value_name = "URL", env = "COFFERDAM_URL")]
    pub(crate) url: Option<String>,
    /// The token to use there [default: the admin token in --data, to this machine only]
    #[arg(
        long,
        value_name = "TOKEN",
        env = "COFFERDAM_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// Believe the certificates in this PEM file, for an https URL, instead of the system's roots
    #[arg(long, value_name = "FILE", env = "COFFERDAM_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// Only say what would come free
    #[arg(long)]
    pub(crate) dry_run: bool,
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
            StoreCommand::Gc(arguments) => arguments.json,
        }
    }
}
