//! What a start does about what the last run left unfinished.
//!
//! The ledger is the truth. What it calls finished stays so, and only its last events may have to be
//! written; everything else that was under way is failed with the code `interrupted`. Directories that no
//! record names are taken away.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_ledger::{Change, Durability};

use crate::activation::Candidate;
use crate::cache;
use crate::catalog::blocking;
use crate::ending;
use crate::error::Error;
use crate::events::EventWriter;
use crate::host::Inner;
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Body, ErrorRecord, ReleaseRecord, StepStatus, Time};
use crate::status::derive;

pub(crate) async fn recover(host: &Arc<Inner>) -> Result<(), Error> {
    // What serves, first: everything else can wait.
    serve_active(host).await?;
    interrupt_unfinished(host).await?;
    complete_logs(host).await?;
    sweep(host).await?;
    host.empty_trash();
    Ok(())
}

/// Serves every project's active release again.
async fn serve_active(host: &Arc<Inner>) -> Result<(), Error> {
    for project in host.ledger.projects().await? {
        let Some(active) = project.active else {
            continue;
        };
        if let Err(error) = serve(host, &project.name, active.into()).await {
            // One release that cannot be served must not keep the others, and the API, from starting.
            tracing::error!(project = project.name, release = %active, error = error.chain(), "a release cannot be served");
        }
    }
    Ok(())
}

async fn serve(host: &Arc<Inner>, project: &str, id: DeploymentId) -> Result<(), Error> {
    let project: ProjectName = project.parse()?;
    let missing = || Error::NotFound {
        what: format!("release {id}"),
    };
    let row = host
        .ledger
        .release(id.as_uuid())
        .await?
        .ok_or_else(missing)?;
    let release: ReleaseRecord =
        serde_json::from_str(&row.body).map_err(|source| Error::Damaged {
            what: format!("release {id}"),
            source,
        })?;
    let root = host.data.release(&project, id);
    let candidate = Candidate {
        project: &project,
        id,
        digest: &release.digest,
        root: &root,
        services: &release.services,
    };
    let routes = host.activator.start(&candidate).await?;
    host.routes.replace(&project, &routes);
    Ok(())
}

/// Ends what was under way.
async fn interrupt_unfinished(host: &Arc<Inner>) -> Result<(), Error> {
    for row in host.ledger.unfinished().await? {
        let id = DeploymentId::from(row.id);
        tracing::warn!(deployment = %id, status = row.status, "a deployment was interrupted by a stop of the server");
        let log = host.logs.reopen(row.id)?;
        let mut body = Body::parse(&row)?;
        for step in body
            .steps
            .iter_mut()
            .filter(|step| step.status == StepStatus::Running)
        {
            step.status = StepStatus::Cancelled;
            step.finished_at = Some(Time::now());
        }
        let error = ErrorRecord::new(
            "interrupted",
            "the server stopped before the deployment had ended; deploy again",
        );
        body.error = Some(error);
        body.events.last = log.last() + ending::EVENTS_AFTER_FAILURE;
        let change = Change::UpdateDeployment {
            id: row.id,
            expect: row.version,
            status: derive(&body).as_str().to_owned(),
            finished: true,
            body: body.to_json(),
        };
        host.ledger.commit(Durability::Power, vec![change]).await?;
        end_log(&log, &body).await?;
        host.data.remove_open_end(id);
    }
    Ok(())
}

/// Writes the last events of deployments that the ledger calls finished and whose log does not end yet.
async fn complete_logs(host: &Arc<Inner>) -> Result<(), Error> {
    let data = host.data.clone();
    for id in blocking(move || data.open_ends()).await?? {
        match host.ledger.deployment(id.as_uuid()).await? {
            Some(row) => {
                let log = host.logs.reopen(row.id)?;
                end_log(&log, &Body::parse(&row)?).await?;
            }
            // It was never recorded, so nobody knows of it.
            None => host.logs.remove(id.as_uuid())?,
        }
        host.data.remove_open_end(id);
    }
    Ok(())
}

/// Writes what is missing of the events that end a log.
async fn end_log(log: &EventWriter, body: &Body) -> Result<(), Error> {
    if log.is_done() {
        log.sync().await?;
    } else {
        ending::write(
            log,
            derive(body),
            body.error.as_ref(),
            body.release.as_ref(),
        )
        .await?;
    }
    log.close().await?;
    Ok(())
}

/// Takes away every directory that no record names.
async fn sweep(host: &Arc<Inner>) -> Result<(), Error> {
    let data = host.data.clone();
    let (staged, released) = blocking(move || {
        cache::recover(&data)?;
        let staged = children(&data.all_staging())?;
        let mut released = Vec::new();
        for project in children(&data.all_releases())? {
            released.extend(children(&project)?);
        }
        Ok::<_, Error>((staged, released))
    })
    .await??;
    for path in staged {
        host.discard(path).await;
    }
    let mut known = HashSet::new();
    for project in host.ledger.projects().await? {
        for release in host.ledger.releases(&project.name).await? {
            known.insert(host.data.release(&project.name.parse()?, release.id.into()));
        }
    }
    for path in released.into_iter().filter(|path| !known.contains(path)) {
        tracing::warn!(path = %path.display(), "a release that was never recorded is discarded");
        host.discard(path).await;
    }
    Ok(())
}

fn children(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = || format!("read {}", directory.display());
    let entries = std::fs::read_dir(directory).map_err(Error::io(failed()))?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(failed())))
        .collect()
}
