//! `cofferdam backup` and `cofferdam restore`.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cofferdam_deploy::backup::{self, Backup};
use serde_json::json;

use crate::args::{BackupArgs, RestoreArgs};
use crate::cmd::print;
use crate::exit::Failure;
use crate::ui::text;

pub(crate) async fn backup(arguments: &BackupArgs) -> Result<(), Failure> {
    let file = if arguments.to.is_dir() {
        arguments.to.join(made_up_name())
    } else {
        arguments.to.clone()
    };
    let taken = backup::take(&arguments.data, &file)
        .await
        .map_err(failure)?;
    tell(taken, &file, arguments.json)
}

pub(crate) async fn restore(arguments: &RestoreArgs) -> Result<(), Failure> {
    let restored = backup::restore(&arguments.from, &arguments.data)
        .await
        .map_err(failure)?;
    tell(restored, &arguments.data, arguments.json)
}

/// The path goes where a script reads it, what is in it where a person does.
fn tell(backup: Backup, path: &Path, json: bool) -> Result<(), Failure> {
    let Backup {
        entries,
        bytes,
        skipped,
    } = backup;
    let shown = path.display().to_string();
    if json {
        return print(&format!(
            "{}\n",
            json!({ "path": shown, "entries": entries, "bytes": bytes, "skipped": skipped })
        ));
    }
    if skipped > 0 {
        super::serve::say(&format!(
            "{skipped} things that services keep are left out: nested too deep, of a name that is no text, or a link to the root\n"
        ));
    }
    super::serve::say(&format!("{entries} entries, {}\n", text::bytes(bytes)));
    print(&format!("{}\n", text::escaped(&shown)))
}

/// Sorts by time.
fn made_up_name() -> PathBuf {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map(|since| since.as_secs()).unwrap_or_default();
    PathBuf::from(format!("cofferdam-{seconds}.tar.zst"))
}

fn failure(error: cofferdam_deploy::Error) -> Failure {
    match error {
        cofferdam_deploy::Error::DataDirectory { message } => Failure::refused(message),
        cofferdam_deploy::Error::Conflict { message } => Failure::Refused {
            code: Some("conflict".to_owned()),
            message,
        },
        other => Failure::Machine(anyhow::anyhow!(other.chain())),
    }
}
