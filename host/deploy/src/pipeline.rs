//! The run of a deployment, from its turn in the queue to its end.

pub(crate) mod spans;
mod step;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cofferdam_blobs::Reader;
use cofferdam_ledger::{Change, Durability, ReleaseRow};
use cofferdam_sandbox::Redactor;
use serde_json::json;
use tokio::sync::oneshot;
use tracing::Span;

use crate::activation::Swap;
use crate::audit::Origin;
use crate::catalog::blocking;
use crate::ending;
use crate::error::Error;
use crate::events::EventKind;
use crate::faults::point;
use crate::freeze::{self, Tree};
use crate::head::Strategy;
use crate::hold;
use crate::host::Inner;
use crate::journal::Intent;
use crate::live::{Live, PackageState, Stop};
use crate::plan::Plan;
use crate::queue::{Permit, Turn};
use crate::record::{ErrorRecord, EventsRecord, ReleaseRecord, Service, Time};
use crate::release::{Cause, Entry};
use crate::status::{Status, derive};

/// The directory, in a deployment's staging, that becomes the release.
pub(crate) const RELEASE: &str = "release";

/// The list of its files, before it has its place.
const LISTING: &str = "files";

/// Everything that one run needs.
pub(crate) struct Run {
    pub(crate) host: Arc<Inner>,
    pub(crate) live: Arc<Live>,
    pub(crate) plan: Plan,
    /// The step to begin with; one behind the last stands for the activation.
    pub(crate) from: usize,
    /// Whether it had begun before the host was last started: a hold that came meanwhile is not for it.
    pub(crate) has_begun: bool,
    /// What the first step reads.
    pub(crate) package: Option<Reader>,
    pub(crate) turn: oneshot::Receiver<Turn>,
}

/// Why a run does not come to a good end.
enum Halt {
    /// The deployment has failed, or was cancelled.
    Failed(ErrorRecord),
    /// The host stops, and the deployment waits for its next start.
    Paused,
}

impl From<ErrorRecord> for Halt {
    fn from(error: ErrorRecord) -> Self {
        Self::Failed(error)
    }
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        if stop.is_pause() {
            Self::Paused
        } else {
            Self::Failed(stop.into())
        }
    }
}

/// A run that did not come to a good end, and the right to run, which is kept until that is recorded.
struct Exit {
    halt: Halt,
    permit: Option<Permit>,
}

impl Run {
    /// Runs to the end, whatever it is, and leaves nothing behind but the record, the events and, on
    /// success, the release; or to the end of the host, and leaves what the next start needs.
    pub(crate) async fn finish(self) {
        let (host, live) = (self.host.clone(), self.live.clone());
        let (ended, is_over) = match self.drive().await {
            Ok(permit) => {
                drop(permit);
                (Ok(()), true)
            }
            Err(Exit { halt, permit }) => match halt {
                Halt::Failed(error) => (end_badly(&host, &live, error, permit).await, true),
                Halt::Paused if is_durable(&live).await => (leave(&live).await, false),
                // Its sender is about to be cut off, and its bytes with it.
                Halt::Paused => {
                    let error = ErrorRecord::new(
                        "upload_interrupted",
                        "the server was stopped before the package was durable; send it again",
                    );
                    (end_badly(&host, &live, error, permit).await, true)
                }
            },
        };
        if let Err(error) = ended {
            // The ledger or the log cannot be written. The next start finds the deployment unfinished.
            let error = loggable(&live.redactor(), &error);
            tracing::error!(deployment = %live.id, error, "the end of a deployment could not be recorded");
        }
        if is_over {
            let (status, code) = live
                .read(|body| {
                    let code = body.error.as_ref().map(|error| error.code.clone());
                    (derive(body), code)
                })
                .await;
            spans::tell(&Span::current(), status.as_str(), code.as_deref());
        } else {
            spans::tell(&Span::current(), spans::PAUSED, None);
        }
        host.forget(&live, is_over).await;
        // What one end makes superfluous goes at once, and keeps nobody waiting.
        let project = live.project.clone();
        tokio::spawn(async move { host.retain(&project).await });
    }

    async fn drive(self) -> Result<Permit, Exit> {
        let Self {
            host,
            live,
            plan,
            from,
            has_begun,
            package,
            turn,
        } = self;
        let waited = wait_for_turn(&host, &live, turn);
        let permit = match spans::within(spans::of_queue(), waited).await {
            Ok(permit) => permit,
            Err(halt) => return Err(Exit { halt, permit: None }),
        };
        let ended = match take_the_right(&host, &live, has_begun).await {
            Ok(()) => proceed(&host, &live, plan, from, package).await,
            Err(halt) => Err(halt),
        };
        match ended {
            Ok(()) => Ok(permit),
            Err(halt) => Err(Exit {
                halt,
                permit: Some(permit),
            }),
        }
    }
}

async fn wait_for_turn(
    host: &Inner,
    live: &Live,
    turn: oneshot::Receiver<Turn>,
) -> Result<Permit, Halt> {
    tokio::select! {
        stop = live.stopped() => Err(stop.into()),
        turn = turn => match turn {
            Ok(Turn::Run(permit)) => Ok(permit),
            Ok(Turn::Superseded(by)) => {
                Err(ErrorRecord::new("superseded", format!("the newer deployment {by} took its place")).into())
            }
            Err(_) => Err(ErrorRecord::new("internal", "the queue was closed").into()),
        },
        () = host.pausing() => Err(Halt::Paused),
    }
}

/// Takes the project's lease, unless the project was put under a hold while the deployment waited.
async fn take_the_right(host: &Inner, live: &Live, has_begun: bool) -> Result<(), Halt> {
    if host.is_pausing() {
        return Err(Halt::Paused);
    }
    let taken = async {
        if !has_begun {
            hold::check(&host.ledger, &live.project).await?;
        }
        host.take_lease(live).await
    };
    tokio::select! {
        stop = live.stopped() => Err(stop.into()),
        taken = taken => taken.map_err(|error| report(live)(error).into()),
    }
}

async fn proceed(
    host: &Arc<Inner>,
    live: &Arc<Live>,
    plan: Plan,
    from: usize,
    mut package: Option<Reader>,
) -> Result<(), Halt> {
    let Plan {
        steps,
        strategy,
        auto_revert,
        message,
        service_secrets: _,
    } = plan;
    if live.settles_first.load(Ordering::Relaxed) {
        settled(host, live).await?;
    }
    let mut services = live.read(|body| body.journal.services.clone()).await;
    for (at, planned) in steps.iter().enumerate().skip(from) {
        let span = spans::of_step(planned);
        let run = step::run(host, live, at, planned, package.take());
        let outputs = spans::within(span, run).await?;
        // Only the load step describes services; what another calls so is an output like any other.
        if planned.phase == cofferdam_sandbox::Phase::Load {
            services = read_services(&planned.name, &outputs)?;
        }
    }
    host.activator
        .check(&live.project, &services, strategy)
        .map_err(report(live))?;

    settled(host, live).await?;
    live.log
        .append(
            EventKind::Phase,
            None,
            json!({ "status": Status::Activating }),
        )
        .await
        .map_err(|error| report(live)(error.into()))?;

    let frozen = freeze_release(host, live, &services);
    let (root, tree) = spans::within(spans::of_freeze(), frozen)
        .await
        .map_err(report(live))?;
    let release = Release {
        strategy,
        auto_revert,
        message,
        root: &root,
        tree,
        services,
    };
    let activated = activate(host, live, release);
    if let Err(error) = spans::within(spans::of_activation(), activated).await {
        let halt = match (live.stop_reason(), error) {
            (Some(stop), _) => Halt::from(stop),
            // While its services got ready; the next start goes on from the frozen tree.
            (None, Error::Stopping) => Halt::Paused,
            (None, error) => report(live)(error).into(),
        };
        if let Halt::Failed(_) = halt {
            host.discard(root).await;
            host.discard(host.data.listing(&live.project, live.id))
                .await;
        }
        return Err(halt);
    }
    Ok(())
}

/// Waits until the package is durable.
async fn settled(host: &Inner, live: &Live) -> Result<(), Halt> {
    tokio::select! {
        stop = live.stopped() => Err(stop.into()),
        state = live.package_settled() => match state {
            PackageState::Durable => Ok(()),
            _ => Err(live.stop_reason().map_or_else(
                || ErrorRecord::new("upload_interrupted", "the package did not arrive whole").into(),
                Halt::from,
            )),
        },
        () = host.pausing() => Err(Halt::Paused),
    }
}

fn read_services(
    step: &str,
    outputs: &[(String, serde_json::Value)],
) -> Result<Vec<Service>, ErrorRecord> {
    outputs
        .iter()
        .filter(|(name, _)| name == "service")
        .map(|(_, value)| {
            Service::parse(value).map_err(|reason| ErrorRecord {
                step: Some(step.to_owned()),
                ..ErrorRecord::new(
                    "release_invalid",
                    format!("{step} describes a service that is none: {reason}"),
                )
            })
        })
        .collect()
}

/// From the staged files to a release at its place with its list beside it, durable, and known to nobody yet.
async fn freeze_release(
    host: &Arc<Inner>,
    live: &Live,
    services: &[Service],
) -> Result<(PathBuf, Tree), Error> {
    let staging = host.data.staging(live.id);
    let (staged, listed) = (staging.join(RELEASE), staging.join(LISTING));
    let release = host.data.release(&live.project, live.id);
    let listing = host.data.listing(&live.project, live.id);
    let parent = release
        .parent()
        .expect("a release lies in its project's directory")
        .to_owned();
    let tree = {
        let (staged, listed) = (staged.clone(), listed.clone());
        blocking(move || {
            crate::data_dir::make_dir(&parent)?;
            let tree = freeze::inspect_listed(&staged, &listed)?;
            // The list is within.
            freeze::make_durable(&staging)?;
            Ok::<_, Error>(tree)
        })
        .await??
    };
    point("release-frozen");
    live.record(Durability::Process, Vec::new(), |body| {
        body.journal.intent = Some(Intent::Publish);
        body.journal.kept = body.steps.len();
        body.journal.services = services.to_vec();
    })
    .await?;
    point("publish-intended");
    let place = release.clone();
    blocking(move || {
        // The list goes the same way: its directory is synced with the release's own.
        std::fs::rename(&listed, &listing)
            .map_err(Error::io(format!("write {}", listing.display())))?;
        freeze::publish(&staged, &place).map_err(Error::from)
    })
    .await??;
    point("release-published");
    Ok((release, tree))
}

/// A frozen release, and how it is to take the place of another.
struct Release<'a> {
    strategy: Strategy,
    auto_revert: bool,
    message: Option<String>,
    root: &'a std::path::Path,
    tree: Tree,
    services: Vec<Service>,
}

/// Starts the services beside what is served, records release, pointer and end in one commit, and then
/// lets the route follow.
async fn activate(host: &Arc<Inner>, live: &Arc<Live>, release: Release<'_>) -> Result<(), Error> {
    let Release {
        strategy,
        auto_revert,
        message,
        root,
        tree,
        services,
    } = release;
    let swap = Swap {
        project: &live.project,
        release: live.id,
        digest: &tree.digest,
        root,
        services: &services,
        strategy,
        auto_revert,
    };
    let stopped = async {
        tokio::select! {
            _ = live.stopped() => {}
            () = host.pausing() => {}
        }
    };
    let prepared = swap.prepare(host, stopped).await?;
    point("services-started");

    let url = if services.is_empty() {
        None
    } else {
        host.url(&live.project)
    };
    let record = ReleaseRecord {
        digest: tree.digest.clone(),
        files: tree.files,
        bytes: tree.bytes,
        services,
        url,
    };
    let row = ReleaseRow {
        id: live.id.as_uuid(),
        project: live.project.to_string(),
        digest: tree.digest,
        files: tree.files,
        bytes: tree.bytes,
        created_at: Time::now().as_millis(),
        body: serde_json::to_string(&record).expect("a release record serialises"),
    };
    let previous = prepared.previous;
    let differences = match previous {
        Some(previous) => host.differences(&live.project, previous, live.id).await,
        None => None,
    };
    let unknown = Origin::host();
    let entry = Entry {
        project: &live.project,
        cause: Cause::Deployment,
        release: live.id,
        previous,
        origin: live.origin.get().unwrap_or(&unknown),
        message,
        record: &record,
        changes: differences,
    };
    let mut changes = vec![Change::InsertRelease(row)];
    changes.extend(entry.into_changes());
    changes.extend(prepared.changes());

    let recorded = match live.log.sync().await {
        // The last moment at which a stop is heeded: from here on the release is live.
        Ok(()) if live.stop_reason().is_some() => Err(Error::Stopping),
        Ok(()) => {
            let events = events_at_the_end(live, ending::EVENTS_AFTER_SUCCESS);
            let recorded = live
                .record(Durability::Power, changes, |body| {
                    body.release = Some(record.clone());
                    body.events = events;
                    body.forget_the_way();
                })
                .await;
            recorded.map(drop)
        }
        Err(error) => Err(error.into()),
    };
    if let Err(error) = recorded {
        prepared.abandon(host).await;
        return Err(error);
    }
    point("activation-recorded");
    prepared.follow(host);
    point("routes-replaced");

    // The end is recorded: nothing that fails below changes it, and recovery writes what is missing.
    let said = ending::write(&live.log, Status::Succeeded, None, Some(&record)).await;
    point("end-written");
    host.discard(host.data.staging(live.id)).await;
    point("staging-discarded");
    if let Err(error) = said {
        tracing::error!(deployment = %live.id, error = error.chain(), "the last events could not be written");
    }
    if let Some(previous) = previous {
        host.share_in_background(&live.project, previous, live.id);
    }
    Ok(())
}

/// The log in short, as it will be when the events of the end are written: the record is closed before.
fn events_at_the_end(live: &Live, still_to_come: u64) -> EventsRecord {
    EventsRecord {
        last: live.log.last() + still_to_come,
        dropped: live.dropped.load(Ordering::Relaxed),
        ..EventsRecord::default()
    }
}

/// Whether the package is safe. One of which every byte has arrived is waited for: it is about to be acknowledged.
async fn is_durable(live: &Live) -> bool {
    let state = live.package.borrow().clone();
    match state {
        PackageState::Durable => true,
        PackageState::Settling => matches!(live.package_settled().await, PackageState::Durable),
        PackageState::Arriving | PackageState::Broken => false,
    }
}

/// Leaves a deployment to the next start.
async fn leave(live: &Live) -> Result<(), Error> {
    live.record(Durability::Process, Vec::new(), |body| {
        // A tree at its place as a release is found by its intent.
        if body.journal.intent != Some(Intent::Publish) {
            body.journal.intent = Some(Intent::Pause);
        }
    })
    .await?;
    live.log.sync().await?;
    Ok(())
}

async fn end_badly(
    host: &Arc<Inner>,
    live: &Arc<Live>,
    mut error: ErrorRecord,
    permit: Option<Permit>,
) -> Result<(), Error> {
    // A guest can put a secret into the name of a file that the release is refused for.
    error.message = live.redactor().text(error.message).into_owned();
    live.mark_failing();
    let intent = Intent::TearDown {
        error: error.clone(),
    };
    live.record(Durability::Process, Vec::new(), |body| {
        body.journal.intent = Some(intent);
    })
    .await?;
    point("teardown-intended");
    // A package of which every byte has arrived gets its digests into the record all the same, unless somebody waits
    // for the deployment to stop.
    let settling = matches!(*live.package.borrow(), PackageState::Settling);
    let settling = settling && live.stop_reason().is_none();
    if settling {
        live.package_settled().await;
    }
    host.discard(host.data.staging(live.id)).await;
    point("staging-discarded");
    live.log.sync().await?;
    let events = events_at_the_end(live, ending::EVENTS_AFTER_FAILURE);
    let recorded = error.clone();
    let status = live
        .record(Durability::Power, Vec::new(), |body| {
            body.fail(recorded);
            body.events = events;
        })
        .await?;
    point("failure-recorded");
    drop(permit);
    ending::write(&live.log, status, Some(&error), None).await?;
    point("end-written");
    Ok(())
}

/// What a user is told of an error of ours: its own words when it is about what they sent, and only that
/// it happened when it is about the host, whose log has the rest.
fn report(live: &Live) -> impl FnOnce(Error) -> ErrorRecord + '_ {
    |error| {
        let code = error.code().to_owned();
        if code == "internal" {
            tracing::error!(
                deployment = %live.id,
                error = loggable(&live.redactor(), &error),
                "a deployment fails through a fault of the host"
            );
            return ErrorRecord::new("internal", "the host failed; its log says why");
        }
        let message = match &error {
            // What the sandbox says of a lost process is for the one who deploys.
            Error::Sandbox(error) => error.to_string(),
            error => error.to_string(),
        };
        ErrorRecord::new(&code, message)
    }
}

/// An error for the host's own log. It may name files that a guest named, after a secret for instance.
fn loggable(redactor: &Redactor, error: &Error) -> String {
    redactor.text(error.chain()).into_owned()
}

#[cfg(test)]
mod tests {
    use cofferdam_sandbox::Secrets;

    use super::*;

    #[test]
    fn a_file_that_is_named_after_a_secret_is_not_logged_by_its_name() {
        let secret = "correct-horse-battery";
        let mut secrets = Secrets::default();
        secrets.insert("TOKEN", secret);
        let redactor = Redactor::new(&secrets);
        let error = Error::Io {
            action: format!("open release/{secret}.txt"),
            source: std::io::Error::other(format!("{secret} is a device")),
        };
        assert_eq!(error.code(), "internal");
        let logged = loggable(&redactor, &error);
        assert!(!logged.contains(secret), "{logged}");
        assert!(logged.contains("cannot open release/"), "{logged}");
    }
}
