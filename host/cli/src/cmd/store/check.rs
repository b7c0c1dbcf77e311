//! `cofferdam store check`.

use cofferdam_blobs::{CheckEvent, CheckOptions, CheckReport, Store};
use serde_json::json;
use tokio::sync::mpsc;

use super::progress::Shown;
use super::{directory, failure};
use crate::args::StoreCheckArgs;
use crate::cmd::print;
use crate::exit::Failure;
use crate::ui::text::{bytes, escaped};

/// How many events may wait to be shown.
const EVENTS: usize = 64;

pub(crate) async fn run(arguments: &StoreCheckArgs) -> Result<(), Failure> {
    let directory = directory(&arguments.data)?;
    let options = CheckOptions {
        read_data: arguments.read_data,
        repair: arguments.repair,
    };
    let (tell, mut told) = mpsc::channel(EVENTS);
    let checking = tokio::spawn(async move { Store::check(&directory, options, tell).await });
    let mut progress = Shown::new();
    while let Some(event) = told.recv().await {
        if let CheckEvent::Progress(so_far) = event {
            progress.show(so_far);
            continue;
        }
        progress.clear();
        if arguments.json {
            print(&format!("{}\n", json!(event)))?;
        } else {
            print(&said(&event, arguments.repair))?;
        }
    }
    progress.clear();
    let report = checking
        .await
        .map_err(|error| Failure::Machine(error.into()))?
        .map_err(failure)?;
    print(&if arguments.json {
        let mut line = json!(report);
        line["kind"] = json!("report");
        format!("{line}\n")
    } else {
        summary(&report, options)
    })?;
    match report.remaining {
        0 => Ok(()),
        remaining => Err(Failure::Faults(ended(&report, remaining, options))),
    }
}

fn said(event: &CheckEvent, repair: bool) -> String {
    match event {
        // What a repair found is told by what it did, and by what remains.
        CheckEvent::Fault(fault) if repair => format!("found    {}\n", escaped(&fault.to_string())),
        CheckEvent::Fault(fault) => format!("fault    {}\n", escaped(&fault.to_string())),
        CheckEvent::Mended(mended) => format!(
            "{:<8} {}: {}\n",
            escaped(mended.mend),
            escaped(&mended.subject),
            escaped(&mended.detail)
        ),
        CheckEvent::Remains(fault) => format!("remains  {}\n", escaped(&fault.to_string())),
        _ => String::new(),
    }
}

fn summary(report: &CheckReport, options: CheckOptions) -> String {
    let mut out = format!(
        "{} packs, {}, {} records, {} packages",
        report.packs,
        bytes(report.bytes),
        report.records,
        report.blobs
    );
    if options.read_data {
        out.push_str(&format!("; {} verified", bytes(report.verified_bytes)));
    }
    if options.repair {
        out.push_str(&format!(
            "\n{} faults, {} mends, {} remain",
            report.faults, report.mended, report.remaining
        ));
    } else {
        out.push_str(&format!("\n{} faults", report.faults));
    }
    if report.set_aside > 0 {
        out.push_str(&format!(
            "\n{} damaged packs were set aside (blobs/packs/*.damaged): delete them when everything is well",
            report.set_aside
        ));
    }
    out.push('\n');
    out
}

fn ended(report: &CheckReport, remaining: u64, options: CheckOptions) -> String {
    if options.repair {
        format!(
            "{remaining} faults remain: deploy the packages that are named again, and their bytes heal the store"
        )
    } else {
        format!(
            "{} faults: cofferdam store check --repair mends what can be mended",
            report.faults
        )
    }
}
