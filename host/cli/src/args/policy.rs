//! The arguments of `cofferdam policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ClientArgs, PackageArgs};
use crate::project::Project;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what each step of a package would get, which rule decided, and what is refused and why
    #[command(after_help = CHECK_HELP)]
    Check(PolicyCheckArgs),
}

const CHECK_HELP: &str = "\
Examples:
  cofferdam policy check                          ask the server that would run this directory's package
  cofferdam policy check ./site --policy policy.toml --project blog
                                                  ask no server; plugins and secrets are not looked up

Exits with 3 when something is refused.";

#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArgs {
    /// The directory with the package and its cofferdam.toml
    #[arg(value_name = "DIR", default_value = ".")]
    directory: String,
    /// Read this policy instead of asking a server
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// The project [default: cofferdam.toml's, else the directory's name]
    #[arg(short, long, value_name = "NAME")]
    project: Option<Project>,
    /// Read this instead of the package's own cofferdam.toml
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl PolicyCheckArgs {
    /// The package as `deploy` would be told of it.
    pub(crate) fn package(&self) -> PackageArgs {
        PackageArgs {
            package: self.directory.clone(),
            project: self.project.clone(),
            message: None,
            config: self.config.clone(),
            plugins: Vec::new(),
            compress: false,
            reread: false,
            resumable_bytes: None,
            patience: None,
        }
    }
}

impl PolicyCommand {
    /// Whether standard output is for a script.
    pub(crate) fn json(&self) -> bool {
        match self {
            PolicyCommand::Check(arguments) => arguments.json,
        }
    }
}
