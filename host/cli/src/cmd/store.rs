//! `cofferdam store`: the packages' store in a server's data directory.

mod check;
mod gc;
mod progress;
mod reindex;

use std::path::{Path, PathBuf};

use cofferdam_blobs::Error;

use crate::args::StoreCommand;
use crate::exit::Failure;

pub(crate) async fn run(command: &StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Check(arguments) => check::run(arguments).await,
        StoreCommand::Reindex(arguments) => reindex::run(arguments).await,
        StoreCommand::Gc(arguments) => gc::run(arguments).await,
    }
}

/// The store's directory in a data directory.
fn directory(data: &Path) -> Result<PathBuf, Failure> {
    let directory = data.join("blobs");
    if directory.is_dir() {
        Ok(directory)
    } else {
        Err(Failure::Usage(format!(
            "{} has no store: give a server's data directory with --data",
            data.display()
        )))
    }
}

/// What the store says, as a command ends with it.
fn failure(error: Error) -> Failure {
    match error {
        Error::Locked { .. } => Failure::Refused {
            code: Some("conflict".to_owned()),
            message: format!("{error}: stop the server first"),
        },
        error => Failure::Machine(error.into()),
    }
}
