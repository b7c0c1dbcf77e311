//! `cofferdam store gc`: gives back the room of what nothing refers to.

use anyhow::Context as _;
use cofferdam_blobs::{CollectOptions, CollectReport, Error, Store, StoreOptions};
use serde_json::Value;

use crate::api::Api;
use crate::args::{API, StoreGcArgs};
use crate::cmd::print;
use crate::exit::Failure;
use crate::ui::text::bytes;

pub(super) async fn run(arguments: &StoreGcArgs) -> Result<(), Failure> {
    let collected = match &arguments.url {
        Some(url) => ask(arguments, url).await?,
        None => {
            let directory = super::directory(&arguments.data)?;
            match Store::open(&directory, StoreOptions::default()).await {
                Ok(store) => collect(arguments, &store).await?,
                // Whoever has it open can do it.
                Err(Error::Locked { .. }) => ask(arguments, &format!("http://{API}")).await?,
                Err(error) => return Err(super::failure(error)),
            }
        }
    };
    if arguments.json {
        return print(&format!("{collected}\n"));
    }
    let report: CollectReport =
        serde_json::from_value(collected).context("the server's answer is none of a collection")?;
    print(&shown(&report))
}

/// Collects in this process.
async fn collect(arguments: &StoreGcArgs, store: &Store) -> Result<Value, Failure> {
    let options = CollectOptions {
        dry_run: arguments.dry_run,
        ..CollectOptions::default()
    };
    let report = store.collect(options).await.map_err(super::failure)?;
    Ok(serde_json::to_value(report).context("the report cannot be written down")?)
}

/// Lets a server collect.
async fn ask(arguments: &StoreGcArgs, url: &str) -> Result<Value, Failure> {
    let api = Api::with_ca(
        url,
        arguments.token.clone(),
        &arguments.data,
        arguments.ca.as_deref(),
    )?;
    let dry_run = if arguments.dry_run { "true" } else { "false" };
    api.post_patiently("/v1/store/collect", &[("dry_run", dry_run)])
        .await
}

/// The report for a person.
fn shown(report: &CollectReport) -> String {
    let verb = if report.dry_run {
        "would come free"
    } else {
        "came free"
    };
    let mut out = format!(
        "{} {verb}; {} are left, {} of them in use by {} packages\n",
        bytes(report.bytes_freed()),
        bytes(report.bytes_left()),
        bytes(report.live_bytes),
        report.blobs,
    );
    if report.packs_leased > 0 {
        out.push_str(&format!(
            "{} packs are held by uploads that run\n",
            report.packs_leased
        ));
    }
    if report.packs_unreadable > 0 {
        out.push_str(&format!(
            "{} packs cannot be read: stop the server and run `cofferdam store check`\n",
            report.packs_unreadable
        ));
    }
    out
}
