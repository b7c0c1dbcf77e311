//! The arguments of the commands about releases: `rollback`, `history`, `pin`, `unpin`, `verify`, `remove`.

use clap::Args;

use super::ClientArgs;
use crate::project::Project;

pub(super) const ROLLBACK_HELP: &str = "\
Examples:
  cofferdam rollback blog                 the release before the one that is served
  cofferdam rollback blog --to 5d2f       a particular one; `cofferdam history blog` shows them

Nothing is sent and nothing is installed: the release is on the server. Prints the URL.";

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The project
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    /// The release to serve: its deployment's id, or enough of it [default: the one before]
    #[arg(long, value_name = "ID")]
    pub(crate) to: Option<String>,
    /// Why, for the history
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The project
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    /// At most this many moves, the newest
    #[arg(short, long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: u32,
    /// Name the files that changed, too
    #[arg(long)]
    pub(crate) files: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The deployment: its id, or enough of its beginning or end
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
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
pub(crate) struct RemoveArgs {
    /// The project, and once more to show that it is meant
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    /// The project's name again: everything of it goes, but for what the audit log says
    #[arg(long, value_name = "PROJECT", required = true)]
    pub(crate) confirm: Project,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
