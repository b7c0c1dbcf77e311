//! The host: everything that one data directory holds, and what can be asked of it.
//!
//! - `opening`: from a directory to a host that serves what was active
//! - `acceptance`: the way of a deployment in
//! - `leases`: who may run, and what becomes of leases whose owners are gone
//! - `running`: the deployments that have not ended, and the stop
//! - `deployments`, `projects`, `plugins`: what can be asked of each
//! - `cancelling`: stopping one of them
//! - `discarding`: taking directories away

mod acceptance;
mod cancelling;
mod deployments;
mod discarding;
mod figures;
mod leases;
mod opening;
mod plugins;
mod projects;
mod running;
mod uploads;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_blobs::Store;
use cofferdam_ledger::Ledger;
use cofferdam_sandbox::worker::Isolation;
use tokio::sync::{Notify, Semaphore, watch};
use uuid::Uuid;

use crate::activation::{Activator, Needed, Pointers};
use crate::catalog::ShippedPlugin;
use crate::data_dir::DataDir;
use crate::error::Error;
use crate::events::EventLogs;
use crate::hold::{self, HoldView};
use crate::lease::Leases;
use crate::live::Live;
use crate::meter::Meter;
use crate::name::{DeploymentId, ProjectName};
use crate::places::Places;
use crate::policy::Policy;
use crate::queue::Queue;
use crate::reconcile::Observations;
use crate::release::Sharing;
use crate::route::{Route, Routes};
use crate::secrets::SecretStore;
use crate::storage::{Collections, StorageOptions};
use crate::token::TokenStore;
use crate::upload::{Claims, Writers};

pub use acceptance::{Begun, Repeat};
pub use deployments::{Filter, MAX_PAGE, PackageReader};
pub use leases::Broken;
pub use projects::{Latest, ProjectView};
pub use uploads::MAX_UPLOADS;

/// How a host is opened.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// The data directory; made when it does not exist.
    pub data: PathBuf,
    /// The plugins that come with the host, admitted at the start.
    pub shipped: Vec<ShippedPlugin>,
    /// The domain under which projects are served: `{project}.{domain}`.
    pub domain: String,
    /// Where steps run and components are compiled.
    pub isolation: Isolation,
    /// The most that anything is granted.
    pub policy: Policy,
    /// How many steps run at a time, over all projects.
    pub max_steps: usize,
    /// How much may be stored, and when what is dead is collected.
    pub storage: StorageOptions,
}

/// The host. Cloning is cheap; all clones are one host.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) data: Arc<DataDir>,
    pub(crate) ledger: Ledger,
    pub(crate) blobs: Store,
    pub(crate) logs: EventLogs,
    pub(crate) secrets: Arc<SecretStore>,
    pub(crate) tokens: TokenStore,
    pub(crate) meter: Meter,
    pub(crate) activator: Activator,
    pub(crate) routes: Routes,
    pub(crate) queue: Queue,
    pub(crate) places: Places,
    pub(crate) leases: Leases,
    pub(crate) collections: Collections,
    writers: Writers,
    claims: Claims,
    /// Who may read an upload for its digest.
    digests: Semaphore,
    /// Who may move a project's pointer, and its routes.
    pub(crate) pointers: Pointers,
    /// Releases that were replaced a moment ago.
    pub(crate) needed: Needed,
    /// Projects that are being torn down.
    pub(crate) leaving: Mutex<HashSet<ProjectName>>,
    pub(crate) observations: Observations,
    /// Told when something waits to be told to a webhook.
    pub(crate) news: Arc<Notify>,
    /// Told when a deployment has begun.
    pub(crate) begun: Notify,
    /// How the disk keeps what releases have in common.
    pub(crate) sharing: Sharing,
    live: Mutex<HashMap<DeploymentId, Arc<Live>>>,
    /// Told whenever a deployment has ended.
    idle: Notify,
    /// Where the ingress listens, and whether it speaks TLS.
    ingress: Mutex<Option<(SocketAddr, bool)>>,
    pub(crate) stopping: AtomicBool,
    /// Whether what the last run left is in order.
    pub(crate) recovered: watch::Sender<bool>,
    /// Whether no deployment begins another step.
    pausing: watch::Sender<bool>,
}

impl Host {
    /// Says where the ingress listens, and whether it speaks TLS, so that records carry addresses that work.
    pub fn set_ingress(&self, address: SocketAddr, tls: bool) {
        *self
            .inner
            .ingress
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some((address, tls));
    }

    /// Whether deployments are accepted.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.inner.stopping.load(Ordering::SeqCst) && *self.inner.recovered.borrow()
    }

    /// The bearer tokens.
    #[must_use]
    pub fn tokens(&self) -> &TokenStore {
        &self.inner.tokens
    }

    /// The operator's ceilings.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.inner.activator.policy
    }

    /// Puts a project under a hold: it takes no deployments until the hold is released, and whoever is refused is
    /// told the reason. `token` is whose it is. One that it is under gets the new reason.
    ///
    /// # Errors
    ///
    /// [`Error::HoldInvalid`] when the reason is none, or when the ledger fails.
    pub async fn hold(
        &self,
        project: &ProjectName,
        reason: &str,
        token: Uuid,
    ) -> Result<HoldView, Error> {
        hold::put(&self.inner.ledger, project, reason, token).await
    }

    /// Releases a project's hold. Without one there is nothing to do.
    ///
    /// # Errors
    ///
    /// When the ledger fails.
    pub async fn release_hold(&self, project: &ProjectName) -> Result<(), Error> {
        hold::remove(&self.inner.ledger, project).await
    }

    /// The secrets of projects.
    #[must_use]
    pub fn secrets(&self) -> &SecretStore {
        &self.inner.secrets
    }

    /// What answers for a host name, given without a port. Lock-free: the ingress asks for every request.
    #[must_use]
    pub fn route(&self, host: &str) -> Option<Arc<Route>> {
        self.inner.routes.get(host)
    }
}

impl Inner {
    /// Where a project's first service is served.
    pub(crate) fn url(&self, project: &ProjectName) -> Option<String> {
        let (address, tls) = (*self.ingress.lock().unwrap_or_else(PoisonError::into_inner))?;
        let (scheme, usual) = if tls { ("https", 443) } else { ("http", 80) };
        let port = if address.port() == usual {
            String::new()
        } else {
            format!(":{}", address.port())
        };
        Some(format!(
            "{scheme}://{project}.{}{port}/",
            self.activator.domain
        ))
    }
}
