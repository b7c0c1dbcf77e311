//! One step of a run: its directories, its input, its events and its verdict.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cofferdam_blobs::Reader;
use cofferdam_ledger::Durability;
use cofferdam_sandbox::{
    Access, InputError, Outcome, OutputStream, Phase, Preopen, Receipt, Stdin, StepContext,
    StepEvent, StepSpec, Verdict,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Halt, RELEASE, report};
use crate::cache::{Cache, Kept};
use crate::catalog::blocking;
use crate::data_dir::make_dir;
use crate::error::Error;
use crate::events::EventKind;
use crate::faults::{self, point};
use crate::freeze;
use crate::grant::unused;
use crate::host::Inner;
use crate::journal::{self, Intent};
use crate::live::{Live, PackageState};
use crate::places::Place;
use crate::plan::PlannedStep;
use crate::record::{ErrorRecord, StepStatus, Time};
use crate::status::Status;

/// Pieces of the package that wait for the extract step to read them; each is at most a chunk.
const STDIN_PIECES: usize = 4;

/// How many of its last lines a failed step leaves in the record.
const LAST_LINES: usize = 20;

/// How much of a line goes into the record, in characters; the log has all of it.
const LAST_LINE_CHARS: usize = 500;

/// The output with which an extract step says that the package, and not itself, is at fault.
const REFUSED: &str = "refused";

/// What a running step has said so far.
#[derive(Default)]
struct Heard {
    outputs: Vec<(String, Value)>,
    last_lines: VecDeque<String>,
}

/// Runs one step and returns its typed outputs.
pub(super) async fn run(
    host: &Arc<Inner>,
    live: &Arc<Live>,
    at: usize,
    planned: &PlannedStep,
    package: Option<Reader>,
) -> Result<Vec<(String, Value)>, Halt> {
    if let Some(stop) = live.stop_reason() {
        return Err(stop.into());
    }
    if host.is_pausing() {
        return Err(Halt::Paused);
    }
    let place = take_place(host, live, at, planned, package.is_some()).await?;
    // What it writes must not fill the disk to the last byte, on which everything else stands too.
    let room = host.blobs.check_room().await;
    room.map_err(|error| report(live)(error.into()))?;
    begin(live, at, planned).await.map_err(report(live))?;
    point("step-begun");
    let mut heard = Heard::default();
    let cache = open_cache(host, live, planned)
        .await
        .map_err(report(live))?;
    let directory = cache.as_ref().map(|cache| cache.directory().to_owned());
    let ended = execute(host, live, planned, package, directory, &mut heard).await;
    let tmp = host
        .data
        .staging(live.id)
        .join(format!("tmp-{}", planned.name));
    host.discard(tmp).await;
    point("step-ended");
    let ended = match ended {
        Ok(_) if faults::is_armed(faults::STUCK) => {
            let pid = std::process::id();
            Err(Error::Sandbox(cofferdam_sandbox::Error::Stuck { pid }))
        }
        ended => ended,
    };

    let (outcome, failure) = match ended {
        Ok(outcome) => {
            drop(place);
            let failure = judge(live, planned, &outcome, &heard);
            (Some(outcome), failure)
        }
        // Whoever asked for a stop must not be told that it was one: a process of the step is still there.
        Err(Error::Sandbox(cofferdam_sandbox::Error::Stuck { pid })) => {
            place.keep_until_gone(pid);
            let error = Error::Sandbox(cofferdam_sandbox::Error::Stuck { pid });
            (None, Some(report(live)(error)))
        }
        Err(error) => {
            drop(place);
            let error = live
                .stop_reason()
                .map_or_else(|| report(live)(error), ErrorRecord::from);
            (None, Some(error))
        }
    };
    // What it left is of no use, and is not recorded: it runs again.
    let paused = live.stop_reason().is_some_and(|stop| stop.is_pause());
    let failure = failure.map(|error| ErrorRecord {
        step: Some(planned.name.clone()),
        lines: heard.last_lines.iter().cloned().collect(),
        ..error
    });
    let cache_used = close_cache(host, live, planned, cache, failure.is_none())
        .await
        .map_err(report(live))?;
    if paused {
        return Err(Halt::Paused);
    }
    let receipt = outcome.map(|outcome| outcome.receipt);
    let unused = match (&failure, &receipt) {
        (None, Some(receipt)) => unused(&planned.grant, receipt, cache_used),
        // A step that did not come to its end might have used more.
        _ => Vec::new(),
    };
    let status = match &failure {
        None => StepStatus::Succeeded,
        Some(_) if live.stop_reason().is_some() => StepStatus::Cancelled,
        Some(_) => StepStatus::Failed,
    };
    let kept = match (&failure, planned.phase) {
        (Some(_), _) => Some(0),
        // It only reads what is there.
        (None, Phase::Load) => None,
        (None, _) => Some(keep_tree(host, live, at, receipt.as_ref()).await),
    };
    finish(live, at, planned, status, receipt, unused, kept)
        .await
        .map_err(report(live))?;
    point("step-recorded");
    match failure {
        None => Ok(heard.outputs),
        Some(error) => Err(error.into()),
    }
}

/// Makes the tree durable when that costs less than making it again; how many steps' work is kept by that.
async fn keep_tree(host: &Inner, live: &Live, at: usize, receipt: Option<&Receipt>) -> usize {
    let wall_ms = receipt.map_or(0, |receipt| receipt.wall_ms);
    let worth = live
        .read(|body| journal::is_worth_keeping(body, at, wall_ms))
        .await;
    if !worth && !host.is_pausing() {
        return 0;
    }
    let staged = host.data.staging(live.id).join(RELEASE);
    let kept = match blocking(move || freeze::sync_tree(&staged)).await {
        Ok(Ok(true)) => at + 1,
        Ok(Ok(false)) => 0,
        Ok(Err(error)) => {
            tracing::warn!(deployment = %live.id, %error, "a tree cannot be kept and would be made anew after a crash");
            0
        }
        Err(_) => 0,
    };
    point("tree-durable");
    kept
}

/// Waits until the step may run beside those of other projects, and says so when it has to.
async fn take_place(
    host: &Inner,
    live: &Live,
    at: usize,
    planned: &PlannedStep,
    is_fed: bool,
) -> Result<Place, Halt> {
    let arriving = is_fed && !matches!(*live.package.borrow(), PackageState::Durable);
    if let Some(place) = host.places.try_take(arriving) {
        return Ok(place);
    }
    let said = async {
        live.record(Durability::Process, Vec::new(), |body| {
            body.steps[at].status = StepStatus::Queued;
        })
        .await?;
        let fields = json!({ "status": Status::Queued, "places": host.places.count() });
        live.log
            .append(EventKind::Phase, Some(&planned.name), fields)
            .await?;
        Ok::<_, Error>(())
    };
    said.await.map_err(report(live))?;
    let durable = arriving.then_some(async {
        live.package_settled().await;
    });
    tokio::select! {
        stop = live.stopped() => Err(stop.into()),
        place = host.places.take(durable) => place.ok_or_else(|| report(live)(Error::Stopping).into()),
        () = host.pausing() => Err(Halt::Paused),
    }
}

async fn begin(live: &Live, at: usize, planned: &PlannedStep) -> Result<(), Error> {
    let writes = planned.phase != Phase::Load;
    // That a kept tree is about to change must be as durable as that it is kept.
    let durability = match live.read(|body| body.journal.kept).await {
        kept if kept > 0 && writes => Durability::Power,
        _ => Durability::Process,
    };
    let status = live
        .record(durability, Vec::new(), |body| {
            body.steps[at].status = StepStatus::Running;
            body.steps[at].started_at = Some(Time::now());
            body.journal.intent = Some(Intent::Step { at });
            if writes {
                body.journal.kept = 0;
            }
        })
        .await?;
    let fields = json!({ "status": status, "plugin": planned.plugin.label });
    live.log
        .append(EventKind::Phase, Some(&planned.name), fields)
        .await?;
    Ok(())
}

async fn finish(
    live: &Live,
    at: usize,
    planned: &PlannedStep,
    status: StepStatus,
    receipt: Option<Receipt>,
    unused: Vec<String>,
    kept: Option<usize>,
) -> Result<(), Error> {
    if let Some(receipt) = &receipt {
        let mut fields =
            serde_json::to_value(receipt).expect("a receipt has only string keys and serialises");
        fields["status"] = json!(status);
        fields["grant"] = json!(planned.grant.record());
        fields["unused"] = json!(unused);
        live.log
            .append(EventKind::Receipt, Some(&planned.name), fields)
            .await?;
    }
    live.record(Durability::Process, Vec::new(), |body| {
        body.steps[at].status = status;
        body.steps[at].finished_at = Some(Time::now());
        body.steps[at].receipt = receipt;
        body.steps[at].unused = unused;
        body.journal.intent = None;
        if let Some(kept) = kept {
            body.journal.kept = kept;
        }
    })
    .await?;
    Ok(())
}

async fn execute(
    host: &Arc<Inner>,
    live: &Arc<Live>,
    planned: &PlannedStep,
    package: Option<Reader>,
    cache: Option<PathBuf>,
    heard: &mut Heard,
) -> Result<Outcome, Error> {
    let component = tokio::select! {
        // What becomes of the compilation concerns nobody then: it runs in a process of the host's.
        _ = live.stopped() => return Err(Error::Stopping),
        component = host.activator.catalog.component(&planned.plugin.digest) => component?,
    };
    let preopens = preopens(host, live, planned, cache).await?;
    let mut spec = StepSpec::new(StepContext {
        deployment: live.id.to_string(),
        project: live.project.to_string(),
        step: planned.name.clone(),
        phase: planned.phase,
        config: planned.config.clone(),
    });
    spec.env = planned.grant.env.clone();
    spec.limits = planned.grant.limits.clone();
    spec.reproducible = planned.reproducible;
    spec.secrets = host
        .secrets
        .open(&planned.name, &live.project, &planned.grant.secrets)
        .await?;
    live.learn(&spec.secrets).await?;
    let redactor = live.redactor();
    spec.net = planned.grant.net.clone();
    let stdin = package.map_or(Stdin::Closed, |package| feed(live, package));
    let mut step = host
        .activator
        .sandbox
        .start(&component, spec, preopens, stdin)
        .map_err(Error::Sandbox)?;

    let canceller = step.canceller();
    let stopped = live.stopped();
    tokio::pin!(stopped);
    let mut asked = false;
    loop {
        tokio::select! {
            event = step.next_event() => match event {
                Some(event) => tell(live, planned, redactor.event(event), heard).await?,
                None => break,
            },
            _ = &mut stopped, if !asked => {
                asked = true;
                canceller.cancel();
            }
        }
    }
    step.outcome().await.map_err(Error::Sandbox)
}

/// The step's cache, when it was granted one.
async fn open_cache(
    host: &Inner,
    live: &Live,
    planned: &PlannedStep,
) -> Result<Option<Cache>, Error> {
    if !planned.grant.cache {
        return Ok(None);
    }
    let (data, project) = (host.data.clone(), live.project.clone());
    let plugin = planned.plugin.name.clone();
    let bytes = planned.grant.cache_bytes;
    blocking(move || Cache::open(&data, &project, &plugin, bytes))
        .await?
        .map(Some)
}

/// Keeps a cache or throws it away; whether it was of any use.
async fn close_cache(
    host: &Inner,
    live: &Live,
    planned: &PlannedStep,
    cache: Option<Cache>,
    succeeded: bool,
) -> Result<bool, Error> {
    let Some(cache) = cache else {
        return Ok(false);
    };
    let kept = blocking(move || cache.close(succeeded)).await??;
    if !matches!(kept, Kept::Yes { .. }) {
        host.empty_trash();
    }
    match kept {
        Kept::Yes { used } => Ok(used),
        Kept::No => Ok(true),
        Kept::TooLarge(why) => {
            let text = format!("the cache is discarded: {why}");
            let fields = json!({ "text": text });
            live.log
                .append(EventKind::Warning, Some(&planned.name), fields)
                .await?;
            Ok(true)
        }
    }
}

async fn preopens(
    host: &Inner,
    live: &Live,
    planned: &PlannedStep,
    cache: Option<PathBuf>,
) -> Result<Vec<Preopen>, Error> {
    let staging = host.data.staging(live.id);
    let release = staging.join(RELEASE);
    let tmp = staging.join(format!("tmp-{}", planned.name));
    let access = if planned.phase == Phase::Load {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    blocking(move || {
        make_dir(&tmp)?;
        let mut preopens = vec![
            Preopen {
                guest_path: "/release".to_owned(),
                access,
                directory: open_dir(&release)?,
            },
            Preopen {
                guest_path: "/tmp".to_owned(),
                access: Access::ReadWrite,
                directory: open_dir(&tmp)?,
            },
        ];
        if let Some(cache) = cache {
            preopens.push(Preopen {
                guest_path: "/cache".to_owned(),
                access: Access::ReadWrite,
                directory: open_dir(&cache)?,
            });
        }
        Ok(preopens)
    })
    .await?
}

fn open_dir(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(Error::io(format!("open {}", path.display())))
}

/// Feeds a step from a blob that may still be arriving.
fn feed(live: &Arc<Live>, mut package: Reader) -> Stdin {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, InputError>>(STDIN_PIECES);
    let live = live.clone();
    tokio::spawn(async move {
        loop {
            match package.next().await {
                Ok(Some(bytes)) => {
                    // A step that has ended, or does not want the rest, closes its side.
                    if sender.send(Ok(bytes)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    live.stop(
                        "upload_interrupted",
                        format!("the package did not arrive whole: {error}"),
                    );
                    let error = InputError {
                        message: error.to_string(),
                    };
                    // The step learns it by its input, if it still reads.
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
        }
    });
    Stdin::Channel(receiver)
}

async fn tell(
    live: &Live,
    planned: &PlannedStep,
    event: StepEvent,
    heard: &mut Heard,
) -> Result<(), Error> {
    let (kind, fields) = match event {
        StepEvent::Line {
            stream,
            text,
            truncated,
        } => {
            if heard.last_lines.len() == LAST_LINES {
                heard.last_lines.pop_front();
            }
            heard
                .last_lines
                .push_back(text.chars().take(LAST_LINE_CHARS).collect());
            let stream = match stream {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            };
            let mut fields = json!({ "stream": stream, "text": text });
            if truncated {
                fields["truncated"] = json!(true);
            }
            (EventKind::Line, fields)
        }
        StepEvent::Progress { done, total, label } => (
            EventKind::Progress,
            json!({ "done": done, "total": total, "label": label }),
        ),
        StepEvent::Warning { text } => (EventKind::Warning, json!({ "text": text })),
        StepEvent::Output { name, value } => {
            let fields = json!({ "name": name, "value": value });
            heard.outputs.push((name, value));
            (EventKind::Output, fields)
        }
        StepEvent::Dropped { lines, bytes } => {
            live.dropped.fetch_add(lines, Ordering::Relaxed);
            (
                EventKind::Dropped,
                json!({ "lines": lines, "bytes": bytes }),
            )
        }
    };
    live.log.append(kind, Some(&planned.name), fields).await?;
    Ok(())
}

/// What a verdict means for the deployment: nothing, or the error that ends it.
fn judge(
    live: &Live,
    planned: &PlannedStep,
    outcome: &Outcome,
    heard: &Heard,
) -> Option<ErrorRecord> {
    if let Some(stop) = live.stop_reason() {
        return Some(stop.into());
    }
    if outcome.host_disk_full && !outcome.verdict.is_success() {
        return Some(report(live)(Error::StorageFull));
    }
    let who = format!("{} ({})", planned.name, planned.plugin.label);
    let refused = || {
        let refusal = heard
            .outputs
            .iter()
            .rev()
            .find(|(name, _)| name == REFUSED)?;
        let message = refusal.1.get("message")?.as_str()?;
        (planned.phase == Phase::Extract).then(|| ErrorRecord::new("package_invalid", message))
    };
    let error = match &outcome.verdict {
        Verdict::Succeeded => return None,
        Verdict::Exited { code } => {
            let mut error = refused().unwrap_or_else(|| {
                ErrorRecord::new("step_failed", format!("{who} exited with code {code}"))
            });
            error.exit_code = Some(*code);
            error
        }
        Verdict::Trapped { message } => {
            ErrorRecord::new("step_trapped", format!("{who} trapped: {message}"))
        }
        Verdict::TimedOut { limit_ms } => ErrorRecord::new(
            "step_timeout",
            format!(
                "{who} did not end within its {limit_ms} ms; grant it a larger wall_ms or make it faster"
            ),
        ),
        Verdict::CpuExceeded { limit_ms } => ErrorRecord::new(
            "step_cpu_exceeded",
            format!(
                "{who} used more than its {limit_ms} ms of processor time; grant it a larger cpu_ms"
            ),
        ),
        Verdict::MemoryExceeded { limit_bytes } => ErrorRecord::new(
            "step_memory_exceeded",
            format!(
                "{who} needed more than its {limit_bytes} bytes of memory; grant it a larger memory_bytes"
            ),
        ),
        Verdict::DiskExceeded { message } => ErrorRecord::new(
            "step_disk_exceeded",
            format!("{who} wrote more than it may: {message}; grant it larger disk_bytes or files"),
        ),
        Verdict::Cancelled => ErrorRecord::new("cancelled", format!("{who} was stopped")),
    };
    Some(error)
}
