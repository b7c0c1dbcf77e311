//! `cofferdam up`: a server and a deployment in one go.

use tempfile::TempDir;

use crate::api::Api;
use crate::args::{API, INGRESS, UpArgs};
use crate::cmd::serve::{QUIET_LOG, Running, free_or, log, running_ended, say};
use crate::deployment::Job;
use crate::exit::Failure;
use crate::signal::Interrupt;
use crate::ui::Ui;

pub(crate) async fn run(arguments: &UpArgs) -> Result<(), Failure> {
    let mut job = Job::new(&arguments.package)?.only_once();
    job.admit_listed();
    log(&arguments.listen, QUIET_LOG, None)?;
    let interrupt = Interrupt::listen()?;

    let temporary = match &arguments.data {
        Some(_) => None,
        None => Some(temporary()?),
    };
    let (data, remark) = match (&arguments.data, &temporary) {
        (Some(data), _) => (data.clone(), ""),
        (None, Some(temporary)) => (
            temporary.path().join("data"),
            " (temporary: removed at the end; --data DIR keeps it)",
        ),
        (None, None) => unreachable!("one of the two was made above"),
    };
    let api = arguments.listen.api.unwrap_or_else(|| free_or(API));
    let ingress = arguments.listen.ingress.unwrap_or_else(|| free_or(INGRESS));
    let mut running = Running::start(data, api, ingress, None, None, &arguments.listen).await?;
    running.announce(remark);

    let client = running.client();
    let deployed = tokio::select! {
        ended = &mut running.server => Err(running_ended(ended).err().unwrap_or_else(stopped)),
        deployed = deploy(job, client, arguments, &interrupt) => deployed,
    };
    if deployed.is_ok() && !arguments.once {
        say(&format!("serving {} until ctrl-c\n", running.ingress));
        tokio::select! {
            ended = &mut running.server => return running_ended(ended),
            () = interrupt.raised(1) => say("stopping\n"),
        }
    }
    if !running.server.is_finished() {
        running.stop(&interrupt).await?;
    }
    if let Some(temporary) = temporary {
        remove(temporary);
    }
    deployed
}

async fn deploy(
    job: Job,
    client: Result<Api, Failure>,
    arguments: &UpArgs,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let api = client?;
    // A log that speaks would tear what moves.
    let mut ui = Ui::new(arguments.json, arguments.listen.verbose > 0);
    job.admit(&api, &mut ui, interrupt).await?;
    let outcome = job.run(&api, &mut ui, interrupt).await?;
    ui.end(&outcome, !arguments.once);
    outcome.into_result()
}

fn temporary() -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("cofferdam-")
        .tempdir()
        .map_err(|error| {
            Failure::Machine(
                anyhow::Error::new(error).context("no temporary directory can be made"),
            )
        })
}

fn remove(temporary: TempDir) {
    let path = temporary.path().to_owned();
    if let Err(error) = temporary.close() {
        say(&format!(
            "{} could not be removed: {error}\n",
            path.display()
        ));
    }
}

fn stopped() -> Failure {
    Failure::Machine(anyhow::anyhow!("the server stopped by itself"))
}
