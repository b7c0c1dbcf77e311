//! `cofferdam deploy`: send a package and follow it.

use serde_json::json;

use crate::args::DeployArgs;
use crate::cmd::{print, text_at};
use crate::deployment::Job;
use crate::exit::Failure;
use crate::signal::Interrupt;
use crate::ui::Ui;

pub(crate) async fn run(arguments: &DeployArgs) -> Result<(), Failure> {
    let job = Job::new(&arguments.package)?.under(arguments.idempotency_key.clone());
    let api = arguments.client.api()?;
    let interrupt = Interrupt::listen()?;
    let mut ui = Ui::new(arguments.json, false);
    if let Some(listed) = job.listed.first() {
        ui.note(&format!(
            "the [plugins] of cofferdam.toml are for `up`; add --plugin {}={} to send them along",
            listed.name,
            listed.path.display()
        ));
    }
    job.admit(&api, &mut ui, &interrupt).await?;
    if arguments.detach && !arguments.wait {
        let record = job.send(&api, &mut ui, &interrupt).await?;
        ui.clear();
        return print(&if arguments.json {
            format!("{}\n", json!({ "kind": "record", "record": record }))
        } else {
            format!("{}\n", text_at(&record, "/id"))
        });
    }
    let outcome = job.run(&api, &mut ui, &interrupt).await?;
    ui.end(&outcome, true);
    outcome.into_result()
}
