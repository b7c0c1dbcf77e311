//! The arguments of `cofferdam audit`.

use clap::Args;

use super::ClientArgs;
use crate::project::Project;

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only what was done to this project
    #[arg(short, long, value_name = "NAME")]
    pub(crate) project: Option<Project>,
    /// At most this many rows, the newest
    #[arg(short, long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}
