//! The arguments of `cofferdam secret`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClientArgs;
use crate::project::Project;
use crate::secret::SecretName;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret of a project, new or in place of an earlier one; its value comes from standard input
    #[command(after_help = SET_HELP)]
    Set(SecretSetArgs),
    /// List the names of a project's secrets; no command shows their values
    List(SecretListArgs),
    /// Forget a secret of a project
    Remove(SecretRemoveArgs),
}

const SET_HELP: &str = "\
Examples:
  cofferdam secret set blog NPM_TOKEN     asks for the value and does not show it
  printf %s \"$TOKEN\" | cofferdam secret set blog NPM_TOKEN
  cofferdam secret set blog DEPLOY_KEY --file key.pem

A step gets it when its request names it: request.secrets = [\"NPM_TOKEN\"] in cofferdam.toml. The project need not have \
been deployed yet.

The line end after a value of one line, as `echo` leaves it, is not part of the value, unless --exact or --file says \
so. A value of several lines is taken as it is.";

#[derive(Debug, Args)]
pub(crate) struct SecretSetArgs {
    /// The project
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    /// The secret's name
    #[arg(value_name = "NAME")]
    pub(crate) name: SecretName,
    /// Take the value from this file, byte for byte
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Take standard input byte for byte too
    #[arg(long)]
    pub(crate) exact: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SecretListArgs {
    /// The project
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SecretRemoveArgs {
    /// The project
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    /// The secret's name
    #[arg(value_name = "NAME")]
    pub(crate) name: SecretName,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

impl SecretCommand {
    /// Whether standard output is for a script.
    pub(crate) fn json(&self) -> bool {
        match self {
            SecretCommand::Set(args) => args.json,
            SecretCommand::List(args) => args.json,
            SecretCommand::Remove(_) => false,
        }
    }
}
