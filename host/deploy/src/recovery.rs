//! What a start does about what the last run left unfinished.
//!
//! The ledger is the truth. What it calls finished stays so, and only its last events may have to be written. What was
//! under way goes on where the [`journal`](crate::journal) says that it can, or ends. Directories that no record
//! names are taken away.
//!
//! Releases are served before any of this, which goes on beside the serving; the API waits for it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cofferdam_ledger::{Beside, Change, DeploymentRow, Durability};
use serde_json::json;
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::activation::{Candidate, resume_watches};
use crate::cache;
use crate::catalog::blocking;
use crate::data_dir::make_dir;
use crate::ending;
use crate::error::Error;
use crate::events::{EventKind, EventWriter};
use crate::faults::point;
use crate::freeze;
use crate::host::Inner;
use crate::journal::{self, Intent, Next};
use crate::live::Live;
use crate::name::{DeploymentId, ProjectName};
use crate::pipeline::{RELEASE, Run, spans};
use crate::plan::Plan;
use crate::queue::Turn;
use crate::record::{Body, ErrorRecord, ReleaseRecord, StepStatus};
use crate::status::{Status, derive};
use crate::webhook;

/// How long to wait before a recovery that failed is tried again: a full disk may be made room on meanwhile.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Brings into order what the last run left, and lets the API answer when it is.
pub(crate) async fn recover(host: Arc<Inner>) {
    while let Err(error) = recover_once(&host).await {
        tracing::error!(
            error = error.chain(),
            "what the last run left cannot be brought into order; it is tried again"
        );
        tokio::time::sleep(TRY_AGAIN).await;
    }
    host.recovered.send_replace(true);
    host.tend_leases();
    if let Err(error) = resume_watches(&host).await {
        tracing::warn!(
            error = error.chain(),
            "releases that were served just before the stop are not watched any longer"
        );
    }
}

async fn recover_once(host: &Arc<Inner>) -> Result<(), Error> {
    free_leases(host).await?;
    host.take_deployed_uploads().await?;
    let data = host.data.clone();
    blocking(move || cache::recover(&data)).await??;
    let mut runs = Vec::new();
    for row in host.ledger.unfinished().await? {
        let id = row.id;
        match settle(host, row).await {
            Ok(run) => runs.extend(run),
            // One that cannot be recovered must not keep the others from it, nor the API from answering.
            Err(error) => {
                tracing::error!(deployment = %id, error = error.chain(), "a deployment cannot be recovered; the next start tries again");
            }
        }
    }
    let going_on: HashSet<PathBuf> = runs
        .iter()
        .map(|run| host.data.staging(run.live.id))
        .collect();
    sweep(host, &going_on).await?;
    complete_logs(host).await?;
    forget_unsettled(host).await?;
    host.empty_trash();
    // Oldest first, as they had come: of those that waited, the newest takes the place of the others again.
    for waiting in runs {
        let live = &waiting.live;
        host.remember(live);
        let turn = host.queue.enter(&live.project, live.id);
        host.queue.settle(&live.project, live.id);
        let span = spans::of_deployment(live.id, &live.project);
        tokio::spawn(run(host.clone(), waiting, turn).instrument(span));
    }
    // The plugins of these are held by now. Nothing may fail from here on: what runs is not to be recovered again.
    if let Err(error) = host.activator.catalog.collect_orphans().await {
        tracing::warn!(
            error = error.chain(),
            "components that no plugin names are left to the next start"
        );
    }
    Ok(())
}

/// The leases of the last run: the lock of the data directory says that nobody is behind them.
async fn free_leases(host: &Inner) -> Result<(), Error> {
    let leases = host.ledger.leases().await?;
    if leases.is_empty() {
        return Ok(());
    }
    let changes = leases.into_iter().map(|lease| Change::FreeLease {
        project: lease.project,
        fence: lease.fence,
    });
    host.ledger
        .commit(Durability::Process, changes.collect())
        .await?;
    Ok(())
}

/// Serves every project's active release again.
pub(crate) async fn serve_active(host: &Arc<Inner>) -> Result<(), Error> {
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

/// Serves a release of a project, whatever was served before.
pub(crate) async fn serve(host: &Arc<Inner>, project: &str, id: DeploymentId) -> Result<(), Error> {
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
    let routes = host.activator.prepare(&candidate).await?;
    host.routes.replace(&project, &routes);
    Ok(())
}

/// A deployment that goes on.
struct Waiting {
    live: Arc<Live>,
    plan: Plan,
    from: usize,
    has_begun: bool,
}

/// Ends a deployment of the last run, or makes it ready to go on.
async fn settle(host: &Arc<Inner>, row: DeploymentRow) -> Result<Option<Waiting>, Error> {
    let id = DeploymentId::from(row.id);
    let project: ProjectName = row.project.parse()?;
    let body = Body::parse(&row)?;
    let staged = restore_tree(host, &project, id, &body).await?;
    match journal::next(&body, staged) {
        Next::End(error) => {
            tracing::warn!(deployment = %id, status = row.status, code = error.code, "a deployment of the last run ends");
            end(host, &row, body, error).await?;
            Ok(None)
        }
        Next::Resume { from } => resume(host, row, project, body, from).await.map(Some),
    }
}

/// Takes a tree back that was at its place as a release, and was not recorded as one. Whether there is a staged tree.
async fn restore_tree(
    host: &Inner,
    project: &ProjectName,
    id: DeploymentId,
    body: &Body,
) -> Result<bool, Error> {
    let staging = host.data.staging(id);
    let published = host.data.release(project, id);
    let may_be_published = body.journal.intent == Some(Intent::Publish);
    blocking(move || {
        let staged = staging.join(RELEASE);
        if may_be_published && !staged.exists() && published.exists() {
            make_dir(&staging)?;
            let action = format!("rename {}", published.display());
            std::fs::rename(&published, &staged).map_err(Error::io(action))?;
        }
        Ok(staged.exists())
    })
    .await?
}

async fn resume(
    host: &Arc<Inner>,
    row: DeploymentRow,
    project: ProjectName,
    body: Body,
    from: usize,
) -> Result<Waiting, Error> {
    let id = DeploymentId::from(row.id);
    let has_begun = derive(&body) != Status::Queued;
    clean_staging(host, id, from).await?;
    let activator = &host.activator;
    let plan = Plan::recall(
        &body.head,
        &body.steps,
        &body.plan,
        &activator.catalog,
        &activator.policy,
    )
    .await?;
    let log = host.logs.reopen(row.id)?;
    let ledger = host.ledger.clone();
    let live = Live::resumed(id, project, body, row.version, log, ledger);
    // What earlier steps were given may be in what they left.
    for step in plan.steps.iter().take(from) {
        let secrets = host
            .secrets
            .open(&step.name, &live.project, &step.grant.secrets);
        if let Ok(secrets) = secrets.await {
            live.learn(&secrets).await?;
        }
    }
    // That nothing is kept any more must be there before the empty directory that could be taken for what was.
    let durability = match live.read(|body| body.journal.kept).await {
        kept if kept > from => Durability::Power,
        _ => Durability::Process,
    };
    let status = live
        .record(durability, Vec::new(), |body| {
            for step in body.steps.iter_mut().skip(from) {
                step.status = StepStatus::Pending;
                step.started_at = None;
                step.finished_at = None;
                step.receipt = None;
                step.unused.clear();
            }
            if let Some(Intent::Step { .. } | Intent::Publish) = body.journal.intent.take() {
                body.journal.resumes += 1;
            }
            body.journal.kept = from;
        })
        .await?;
    point("resume-recorded");
    let release = host.data.staging(id).join(RELEASE);
    blocking(move || make_dir(&release)).await??;
    let next = plan.steps.get(from).map(|step| step.name.as_str());
    tracing::info!(deployment = %id, from = next.unwrap_or("activation"), "a deployment of the last run goes on");
    let fields = json!({ "status": status, "from": next.unwrap_or("activation") });
    live.log.append(EventKind::Resumed, None, fields).await?;
    Ok(Waiting {
        live,
        plan,
        from,
        has_begun,
    })
}

/// Leaves in staging what is kept, and nothing else: not even the directory for the release, when nothing is.
async fn clean_staging(host: &Inner, id: DeploymentId, from: usize) -> Result<(), Error> {
    let staging = host.data.staging(id);
    let trash = host.data.trash();
    blocking(move || {
        if from == 0 {
            freeze::discard(&staging, &trash)?;
            return Ok(());
        }
        for entry in children(&staging)? {
            if entry.file_name().is_none_or(|name| name != RELEASE) {
                freeze::discard(&entry, &trash)?;
            }
        }
        Ok(())
    })
    .await?
}

/// Runs a deployment that goes on, to its end.
async fn run(host: Arc<Inner>, waiting: Waiting, turn: oneshot::Receiver<Turn>) {
    let Waiting {
        live,
        plan,
        from,
        has_begun,
    } = waiting;
    let package = match (from, live.read(|body| body.blob).await) {
        (0, Some(blob)) => match host.blobs.reader(blob).await {
            Ok(reader) => Some(reader),
            Err(error) => {
                tracing::error!(deployment = %live.id, %error, "the package of a deployment that goes on cannot be read");
                live.stop(
                    "interrupted",
                    "the server was stopped, and the package cannot be read any more; deploy again",
                );
                None
            }
        },
        _ => None,
    };
    let run = Run {
        host,
        live,
        plan,
        from,
        has_begun,
        package,
        turn,
    };
    run.finish().await;
}

/// Ends what was under way.
async fn end(
    host: &Arc<Inner>,
    row: &DeploymentRow,
    mut body: Body,
    error: ErrorRecord,
) -> Result<(), Error> {
    let id = DeploymentId::from(row.id);
    let log = host.logs.reopen(row.id)?;
    body.fail(error);
    body.events.last = log.last() + ending::EVENTS_AFTER_FAILURE;
    let project: ProjectName = row.project.parse()?;
    let news = webhook::ended(&project, id, derive(&body), &body);
    let change = Change::UpdateDeployment {
        id: row.id,
        expect: row.version,
        status: derive(&body).as_str().to_owned(),
        finished: true,
        body: body.to_json(),
    };
    host.ledger
        .commit(Durability::Power, vec![change, news])
        .await?;
    host.news.notify_one();
    end_log(&log, &body).await?;
    host.data.remove_open_end(id);
    Ok(())
}

/// Writes the last events of deployments that the ledger calls finished and whose log does not end yet.
async fn complete_logs(host: &Arc<Inner>) -> Result<(), Error> {
    let data = host.data.clone();
    for id in blocking(move || data.open_ends()).await?? {
        match host.ledger.deployment(id.as_uuid()).await? {
            Some(row) if !row.finished => continue,
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

/// Forgets services that were being prepared, or drained.
async fn forget_unsettled(host: &Arc<Inner>) -> Result<(), Error> {
    let changes = host.ledger.unsettled_services().await?.into_iter();
    let changes: Vec<Change> = changes
        .map(|row| {
            let (project, release) = (row.project, row.release);
            Beside::RemoveServices { project, release }.into()
        })
        .collect();
    if !changes.is_empty() {
        host.ledger.commit(Durability::Process, changes).await?;
    }
    Ok(())
}

/// Takes away every directory that no record names, but for the staging of deployments that go on.
async fn sweep(host: &Arc<Inner>, going_on: &HashSet<PathBuf>) -> Result<(), Error> {
    let data = host.data.clone();
    let (staged, released, kept) = blocking(move || {
        let mut staged = children(&data.all_staging())?;
        staged.extend(children(&data.all_scratch())?);
        let mut released = Vec::new();
        for project in children(&data.all_releases())? {
            // What else somebody put there is nobody's release, and no reason not to start.
            if project.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                released.extend(children(&project)?);
                released.push(project);
            }
        }
        let mut kept = children(&data.all_caches())?;
        kept.extend(children(&data.all_states())?);
        Ok::<_, Error>((staged, released, kept))
    })
    .await??;
    for path in staged.into_iter().filter(|path| !going_on.contains(path)) {
        host.discard(path).await;
    }
    let mut known = HashSet::new();
    for project in host.ledger.projects().await? {
        known.insert(host.data.all_caches().join(&project.name));
        known.insert(host.data.all_releases().join(&project.name));
        known.insert(host.data.all_states().join(&project.name));
        for release in host.ledger.releases(&project.name).await? {
            let (project, id) = (project.name.parse()?, release.id.into());
            known.insert(host.data.release(&project, id));
            known.insert(host.data.listing(&project, id));
        }
    }
    for path in released.into_iter().filter(|path| !known.contains(path)) {
        tracing::warn!(path = %path.display(), "what is not on record as a release is discarded");
        host.discard(path).await;
    }
    // A project that was torn down while the server died.
    for path in kept.into_iter().filter(|path| !known.contains(path)) {
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
