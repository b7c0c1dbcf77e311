//! A deployment that has not ended: what is known of it in memory, and the only way to record more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

use cofferdam_ledger::{Change, Durability, Ledger};
use cofferdam_sandbox::{Redactor, Secrets};
use tokio::sync::{Mutex, watch};

use crate::audit::Origin;
use crate::catalog::blocking;
use crate::error::Error;
use crate::events::EventWriter;
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Body, ErrorRecord};
use crate::status::{Status, derive};
use crate::webhook;

/// How the package stands.
#[derive(Debug, Clone)]
pub(crate) enum PackageState {
    /// Bytes arrive.
    Arriving,
    /// Every byte has arrived and is being made durable.
    Settling,
    /// The blob is durable and its digests are those that the head promised.
    Durable,
    /// It will never be whole.
    Broken,
}

/// Why a deployment must stop before its end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// The code of a stop that ends nothing: the deployment waits for the next start of the host.
const PAUSED: &str = "paused";

impl Stop {
    /// Whether the deployment does not end by this.
    pub(crate) fn is_pause(&self) -> bool {
        self.code == PAUSED
    }
}

/// A deployment in flight.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: DeploymentId,
    pub(crate) project: ProjectName,
    pub(crate) log: EventWriter,
    ledger: Ledger,
    /// The number of the project's lease that this deployment has; 0 before its turn.
    pub(crate) fence: AtomicU64,
    /// Bytes of the package that have arrived.
    pub(crate) received: AtomicU64,
    /// Whether the package is made durable before a step begins.
    pub(crate) settles_first: AtomicBool,
    /// Lines that limits have dropped.
    pub(crate) dropped: AtomicU64,
    /// Whom it was begun for, once that is said.
    pub(crate) origin: OnceLock<Origin>,
    state: Mutex<State>,
    /// The secrets that its steps were given so far, and what takes them out of all that is said after.
    known: std::sync::Mutex<(Secrets, Redactor)>,
    pub(crate) package: watch::Sender<PackageState>,
    stop: watch::Sender<Option<Stop>>,
    failing: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    body: Body,
    version: u64,
}

impl Live {
    /// A deployment whose first version is in the ledger.
    pub(crate) fn new(
        id: DeploymentId,
        project: ProjectName,
        body: Body,
        log: EventWriter,
        ledger: Ledger,
    ) -> Arc<Self> {
        Arc::new(Self::at(id, project, body, 1, log, ledger))
    }

    /// A deployment of an earlier run of the host, whose package is durable.
    pub(crate) fn resumed(
        id: DeploymentId,
        project: ProjectName,
        body: Body,
        version: u64,
        log: EventWriter,
        ledger: Ledger,
    ) -> Arc<Self> {
        let received = body.package.bytes.unwrap_or_default();
        let live = Self::at(id, project, body, version, log, ledger);
        live.received.store(received, Ordering::Relaxed);
        live.package.send_replace(PackageState::Durable);
        Arc::new(live)
    }

    fn at(
        id: DeploymentId,
        project: ProjectName,
        body: Body,
        version: u64,
        log: EventWriter,
        ledger: Ledger,
    ) -> Self {
        Self {
            id,
            project,
            log,
            ledger,
            fence: AtomicU64::new(0),
            received: AtomicU64::new(0),
            settles_first: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            origin: body.origin.clone().map(OnceLock::from).unwrap_or_default(),
            state: Mutex::new(State { body, version }),
            known: std::sync::Mutex::default(),
            package: watch::Sender::new(PackageState::Arriving),
            stop: watch::Sender::new(None),
            failing: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        }
    }

    /// Looks at the record.
    pub(crate) async fn read<T>(&self, look: impl FnOnce(&Body) -> T) -> T {
        look(&self.state.lock().await.body)
    }

    /// Asks the deployment to stop without an end: the next start resumes it.
    pub(crate) fn pause(&self) {
        self.stop(PAUSED, "the server is stopping");
    }

    /// Changes the record: in the ledger first, then in memory. `extra` goes into the same commit. Returns
    /// the status that follows from the change. Once the deployment had its turn, nothing is recorded without its
    /// lease, and its end gives the lease back.
    pub(crate) async fn record(
        &self,
        durability: Durability,
        extra: Vec<Change>,
        change: impl FnOnce(&mut Body),
    ) -> Result<Status, Error> {
        let mut state = self.state.lock().await;
        let mut body = state.body.clone();
        change(&mut body);
        body.package.received = self.received.load(Ordering::Relaxed);
        if let Some(origin) = self.origin.get() {
            body.origin = Some(origin.clone());
        }
        let status = derive(&body);
        let mut changes = extra;
        if status.is_terminal() {
            changes.push(webhook::ended(&self.project, self.id, status, &body));
        }
        changes.push(Change::UpdateDeployment {
            id: self.id.as_uuid(),
            expect: state.version,
            status: status.as_str().to_owned(),
            finished: status.is_terminal(),
            body: body.to_json(),
        });
        // Behind the record, so that a deployment that has ended is told so, and not that its lease is gone.
        changes.extend(self.lease_change(status));
        self.ledger.commit(durability, changes).await?;
        *state = State {
            body,
            version: state.version + 1,
        };
        Ok(status)
    }

    fn lease_change(&self, status: Status) -> Option<Change> {
        let fence = self.fence.load(Ordering::SeqCst);
        let project = self.project.to_string();
        match (fence, status.is_terminal()) {
            (0, _) => None,
            (_, true) => Some(Change::FreeLease { project, fence }),
            (_, false) => Some(Change::RequireLease { project, fence }),
        }
    }

    /// What is recorded by now.
    pub(crate) async fn body(&self) -> Body {
        self.state.lock().await.body.clone()
    }

    /// Takes these secrets out of everything that is said from now on: by the step that holds them, and by the steps
    /// after it, which may find them in the files it left.
    pub(crate) async fn learn(&self, secrets: &Secrets) -> Result<(), Error> {
        let (all, is_more) = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let mut all = known.0.clone();
            all.extend(secrets.clone());
            let is_more = all != known.0;
            (all, is_more)
        };
        if is_more {
            // A large secret has many forms: this may take a good part of a second.
            let learned = blocking(move || {
                let redactor = Redactor::new(&all);
                (all, redactor)
            })
            .await?;
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = learned;
        }
        Ok(())
    }

    /// What takes out the secrets that are known by now.
    pub(crate) fn redactor(&self) -> Redactor {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.1.clone()
    }

    /// Asks the deployment to stop. The first reason stands.
    pub(crate) fn stop(&self, code: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(Stop { code, message });
            }
            first
        });
    }

    /// Resolves when the deployment was asked to stop, with the reason.
    pub(crate) async fn stopped(&self) -> Stop {
        let mut stop = self.stop.subscribe();
        loop {
            if let Some(stop) = stop.borrow_and_update().clone() {
                return stop;
            }
            // The sender lives in `self`, so a change is the only way on.
            let _ = stop.changed().await;
        }
    }

    /// Whether it was asked to stop, and why.
    pub(crate) fn stop_reason(&self) -> Option<Stop> {
        self.stop.borrow().clone()
    }

    /// Waits until the package is durable or known never to be.
    pub(crate) async fn package_settled(&self) -> PackageState {
        let mut package = self.package.subscribe();
        loop {
            let state = package.borrow_and_update().clone();
            if matches!(state, PackageState::Durable | PackageState::Broken) {
                return state;
            }
            // As above.
            let _ = package.changed().await;
        }
    }

    /// Says that the deployment will end badly, so that nobody goes on sending its package.
    pub(crate) fn mark_failing(&self) {
        self.failing.send_replace(true);
    }

    /// Waits for [`Self::mark_failing`].
    pub(crate) async fn failing(&self) {
        let mut failing = self.failing.subscribe();
        // The sender lives in `self`, so the only way out is the condition.
        let _ = failing.wait_for(|failing| *failing).await;
    }

    /// Says that the terminal event is written and nothing of the deployment runs.
    pub(crate) fn mark_ended(&self) {
        self.ended.send_replace(true);
    }

    /// Waits for [`Self::mark_ended`].
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives in `self`, so the only way out is the condition.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl From<Stop> for ErrorRecord {
    fn from(stop: Stop) -> Self {
        Self::new(stop.code, stop.message)
    }
}
