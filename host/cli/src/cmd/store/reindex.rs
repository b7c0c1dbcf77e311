//! `cofferdam store reindex`.

use cofferdam_blobs::{CheckEvent, Store};
use serde_json::json;
use tokio::sync::mpsc;

use super::progress::Shown;
use super::{directory, failure};
use crate::args::StoreReindexArgs;
use crate::cmd::print;
use crate::exit::Failure;

/// How many events may wait to be shown.
const EVENTS: usize = 64;

pub(crate) async fn run(arguments: &StoreReindexArgs) -> Result<(), Failure> {
    let directory = directory(&arguments.data)?;
    let (tell, mut told) = mpsc::channel(EVENTS);
    let building = tokio::spawn(async move { Store::reindex(&directory, tell).await });
    let mut progress = Shown::new();
    while let Some(event) = told.recv().await {
        if let CheckEvent::Progress(so_far) = event {
            progress.show(so_far);
        }
    }
    progress.clear();
    let report = building
        .await
        .map_err(|error| Failure::Machine(error.into()))?
        .map_err(failure)?;
    print(&if arguments.json {
        let mut line = json!(report);
        line["kind"] = json!("report");
        format!("{line}\n")
    } else {
        format!(
            "the index is new: {} packs, {} chunks, {} packages, {} uploads that go on\n",
            report.packs, report.chunks, report.blobs, report.uploads
        )
    })?;
    match report.damaged_packs {
        0 => Ok(()),
        damaged => Err(Failure::Faults(format!(
            "{damaged} packs are damaged and indexed as far as they can be read: run cofferdam store check --repair"
        ))),
    }
}
