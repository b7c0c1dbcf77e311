//! The arguments of `cofferdam hold` and `cofferdam unlock`.

use clap::{ArgGroup, Args};

use super::ClientArgs;
use crate::project::Project;

pub(crate) const HOLD_HELP: &str = "\
Examples:
  cofferdam hold shop --reason 'stocktaking until Monday'
  cofferdam hold shop --release

Deployments that run go on; those that wait or come are refused with the code conflict and the reason. What is served \
goes on being served, and can be rolled back.";

pub(crate) const UNLOCK_HELP: &str = "\
A project's deployments run one at a time, and the one that runs has the project's lease. A lease whose owner died is \
taken back by the server itself; this command is for a deployment that runs and should not, and does not stop when it \
is cancelled. It ends as failed, with the code interrupted.";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["reason", "release"]))]
pub(crate) struct HoldArgs {
    /// The project; it need not have been deployed yet
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    /// Refuse its deployments from now on, and tell whoever is refused this
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Take deployments again
    #[arg(long)]
    pub(crate) release: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// The project
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
