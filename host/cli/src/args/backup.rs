//! The arguments of `cofferdam backup` and `cofferdam restore`.

use std::path::PathBuf;

use clap::Args;

use super::DATA;

pub(crate) const BACKUP_HELP: &str = "\
Examples:
  cofferdam backup before-the-upgrade.tar.zst
  cofferdam backup /mnt/backups --data /var/lib/cofferdam    a name with the time is made up

The server may go on meanwhile. In the file is everything: records, events, packages, releases, plugins, tokens, what \
services keep, the key of the secrets. It replaces no file. Keep it as confidential as the data directory. Left out \
are caches, compiled plugins and uploads that are not complete.";

pub(crate) const RESTORE_HELP: &str = "\
Examples:
  cofferdam restore before-the-upgrade.tar.zst --data /var/lib/cofferdam
  cofferdam serve --data /var/lib/cofferdam

Every file is checked before the directory appears. Deployments that were under way when the backup was taken are \
treated as after a power cut.";

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to write, or a directory in which a file is made
    #[arg(value_name = "FILE|DIR")]
    pub(crate) to: PathBuf,
    /// The data directory; a server may be running over it
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// The data directory to make; not there yet, or empty
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
