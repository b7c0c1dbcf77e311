//! The host: everything that one data directory holds, and what can be asked of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cofferdam_blobs::{Ingest, Reader, Store, StoreOptions};
use cofferdam_ledger::{Change, DeploymentFilter, Durability, Ledger, NewDeployment};
use cofferdam_sandbox::worker::{Isolation, Landlock, LandlockStatus, landlock_status};
use cofferdam_sandbox::{Sandbox, SandboxOptions};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

use crate::activation::Activator;
use crate::catalog::{Admission, Catalog, PluginView, ShippedPlugin, blocking};
use crate::check::Check;
use crate::data_dir::{DataDir, make_dir};
use crate::error::Error;
use crate::events::{EventKind, EventLogs, Subscription};
use crate::freeze;
use crate::head::{ExpectedDigest, Head};
use crate::intake::Intake;
use crate::live::Live;
use crate::name::{DeploymentId, PluginName, ProjectName};
use crate::pipeline::{RELEASE, Run};
use crate::plan::Plan;
use crate::policy::Policy;
use crate::queue::Queue;
use crate::record::{Body, Package, Record, ReleaseRecord, Time};
use crate::route::{Route, Routes};
use crate::secrets::SecretStore;
use crate::signature::TrustedKeys;
use crate::status::Status;
use crate::token::{self, Identity};

/// The most deployments in one page of a list.
pub const MAX_PAGE: u32 = 200;

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
}

/// The host. Cloning is cheap; all clones are one host.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) data: Arc<DataDir>,
    pub(crate) ledger: Ledger,
    pub(crate) blobs: Store,
    pub(crate) logs: EventLogs,
    pub(crate) secrets: SecretStore,
    pub(crate) activator: Activator,
    pub(crate) routes: Routes,
    queue: Queue,
    live: Mutex<HashMap<DeploymentId, Arc<Live>>>,
    /// Told whenever a deployment has ended.
    idle: Notify,
    ingress: Mutex<Option<SocketAddr>>,
    stopping: AtomicBool,
}

/// A filter and a page of deployments.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this project's.
    pub project: Option<ProjectName>,
    /// Only those in this status.
    pub status: Option<Status>,
    /// Only those older than this one.
    pub before: Option<DeploymentId>,
    /// How many at most; [`MAX_PAGE`] is the ceiling.
    pub limit: u32,
}

/// A project as a client sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProjectView {
    /// Its name.
    pub name: ProjectName,
    /// When it was first deployed.
    pub created_at: Time,
    /// The deployment whose release it serves.
    pub active: Option<DeploymentId>,
    /// The release that it serves.
    pub release: Option<ReleaseRecord>,
    /// Its newest deployment.
    pub latest: Option<Latest>,
}

/// The newest deployment of a project, in short.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latest {
    /// The deployment.
    pub id: DeploymentId,
    /// Where it stands.
    pub status: Status,
}

/// The bytes of a stored package.
#[derive(Debug)]
pub struct PackageReader {
    /// How many there are.
    pub bytes: u64,
    /// What they are, if anybody said.
    pub media_type: Option<String>,
    reader: Reader,
}

impl PackageReader {
    /// The next bytes; `None` after the last. Every byte was verified.
    ///
    /// # Errors
    ///
    /// When a chunk is damaged or cannot be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.reader.next().await?)
    }
}

/// Says which of the walls around a step do not stand, once.
fn warn_of_missing_walls(isolation: &Isolation) {
    let Isolation::Worker(workers) = isolation else {
        tracing::warn!(
            "steps run on threads of the server: WebAssembly is the only wall between a package and this machine"
        );
        return;
    };
    let status = match workers.landlock {
        Landlock::Off => LandlockStatus::Off,
        Landlock::Prefer | Landlock::Require => landlock_status(),
    };
    if !status.is_enforced() {
        tracing::warn!(
            "Landlock is {status}: the kernel does not confine steps to their directories, WebAssembly alone does"
        );
    }
}

impl Host {
    /// Opens the data directory, brings everything that a crash left into order, and serves what was
    /// active.
    ///
    /// # Errors
    ///
    /// When the directory is another server's, of another format or not usable.
    pub async fn open(options: HostOptions) -> Result<Self, Error> {
        let HostOptions {
            data,
            shipped,
            domain,
            isolation,
            policy,
        } = options;
        let keys = TrustedKeys::of(&policy.signatures())?;
        let data = Arc::new(blocking(move || DataDir::open(&data)).await??);
        let ledger = Ledger::open(&data.ledger()).await?;
        let blobs = Store::open(&data.blobs(), StoreOptions::default()).await?;
        let logs = EventLogs::open(data.events())?;
        let mut sandbox_options = SandboxOptions::default();
        sandbox_options.cache_dir = Some(data.compiled());
        warn_of_missing_walls(&isolation);
        sandbox_options.isolation = isolation;
        let sandbox = blocking(move || Sandbox::new(sandbox_options))
            .await?
            .map_err(Error::Sandbox)?;
        let catalog = Catalog::new(
            ledger.clone(),
            sandbox.clone(),
            data.plugins(),
            keys,
            &shipped,
        );

        let secrets = SecretStore::new(ledger.clone(), data.secrets_key());

        let inner = Arc::new(Inner {
            data,
            ledger,
            blobs,
            logs,
            secrets,
            activator: Activator {
                catalog,
                sandbox,
                domain,
                policy: Arc::new(policy),
            },
            routes: Routes::default(),
            queue: Queue::default(),
            live: Mutex::default(),
            idle: Notify::new(),
            ingress: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        token::ensure_admin(&inner.data, &inner.ledger).await?;
        inner.secrets.check().await?;
        crate::recovery::recover(&inner).await?;
        inner.activator.catalog.collect_orphans().await?;
        inner.activator.catalog.admit_shipped(&shipped).await?;
        Ok(Self { inner })
    }

    /// Accepts nothing more, lets what runs come to its end for as long as `grace`, and interrupts the
    /// rest.
    pub async fn shutdown(&self, grace: Duration) {
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::SeqCst);
        if tokio::time::timeout(grace, inner.drained()).await.is_err() {
            for live in inner.all_live() {
                live.stop(
                    "interrupted",
                    "the server was stopped before the deployment had ended",
                );
            }
            inner.drained().await;
        }
    }

    /// Says where the ingress listens, so that records carry addresses that work.
    pub fn set_ingress(&self, address: SocketAddr) {
        *self
            .inner
            .ingress
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Whether deployments are accepted.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.inner.stopping.load(Ordering::SeqCst)
    }

    /// The identity behind a bearer token, if it is one.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn authenticate(&self, token: &str) -> Result<Option<Identity>, Error> {
        token::authenticate(&self.inner.ledger, token).await
    }

    /// Accepts a deployment: its head is checked and recorded, and its pipeline starts with the first
    /// byte that the returned intake is given.
    ///
    /// # Errors
    ///
    /// When the head, a plugin or a request is refused, and when nothing more is accepted.
    pub async fn begin(
        &self,
        project: &ProjectName,
        head: Head,
        media_type: Option<String>,
    ) -> Result<Intake, Error> {
        self.inner.clone().begin(project, head, media_type).await
    }

    /// Says what a deployment with this head would get, and starts nothing.
    ///
    /// # Errors
    ///
    /// When the head, a plugin or a configuration is refused, or a granted secret does not exist. A request that
    /// is refused is no error here: it is what the answer says.
    pub async fn check(&self, project: &ProjectName, head: &Head) -> Result<Check, Error> {
        head.check(project)?;
        let activator = &self.inner.activator;
        let check = Plan::check(head, project, &activator.catalog, &activator.policy).await?;
        if check.allowed {
            // What is granted must be there, too.
            let plan = Plan::settle(head, project, &activator.catalog, &activator.policy).await?;
            plan.check_secrets(&self.inner.secrets, project).await?;
        }
        Ok(check)
    }

    /// The operator's ceilings.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.inner.activator.policy
    }

    /// A deployment's record.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be read.
    pub async fn deployment(&self, id: DeploymentId) -> Result<Record, Error> {
        self.inner.record(id).await
    }

    /// A page of deployments, newest first, without the entries of their summaries.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn deployments(&self, filter: &Filter) -> Result<Vec<Record>, Error> {
        let filter = DeploymentFilter {
            project: filter.project.as_ref().map(ToString::to_string),
            status: filter.status.map(|status| status.as_str().to_owned()),
            before: filter.before.map(DeploymentId::as_uuid),
            limit: filter.limit.clamp(1, MAX_PAGE),
        };
        let rows = self.inner.ledger.deployments(&filter).await?;
        rows.iter()
            .map(|row| {
                let mut record = Body::parse(row)?.into_record(row)?;
                self.inner.freshen(&mut record);
                Ok(record)
            })
            .collect()
    }

    /// The events of a deployment after number `after`: first those recorded, then those to come.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the log cannot be read.
    pub async fn events(&self, id: DeploymentId, after: u64) -> Result<Subscription, Error> {
        self.inner.exists(id).await?;
        Ok(self.inner.logs.subscribe(id.as_uuid(), after)?)
    }

    /// The events of a deployment that are recorded by now.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the log cannot be read.
    pub async fn log(&self, id: DeploymentId) -> Result<Subscription, Error> {
        self.inner.exists(id).await?;
        Ok(self.inner.logs.replay(id.as_uuid())?)
    }

    /// The package of a deployment, if it is durable.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such deployment or it has no package.
    pub async fn package(&self, id: DeploymentId) -> Result<PackageReader, Error> {
        let (body, _) = self.inner.row(id).await?;
        let missing = || Error::NotFound {
            what: format!("the package of deployment {id}"),
        };
        let blob = body.blob.ok_or_else(missing)?;
        let info = self.inner.blobs.blob(blob).await?.ok_or_else(missing)?;
        let reader = self.inner.blobs.reader(blob).await?;
        Ok(PackageReader {
            bytes: info.bytes,
            media_type: body.package.media_type,
            reader,
        })
    }

    /// Every project, by name.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn projects(&self) -> Result<Vec<ProjectView>, Error> {
        let mut views = Vec::new();
        for row in self.inner.ledger.projects().await? {
            views.push(self.inner.project_view(&row).await?);
        }
        Ok(views)
    }

    /// One project.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be read.
    pub async fn project(&self, name: &ProjectName) -> Result<ProjectView, Error> {
        match self.inner.ledger.project(name.as_str()).await? {
            Some(row) => self.inner.project_view(&row).await,
            None => Err(Error::NotFound {
                what: format!("project {name}"),
            }),
        }
    }

    /// Admits a plugin: checks it, compiles it, and records it under its name and version.
    ///
    /// # Errors
    ///
    /// [`Error::PluginIncompatible`] with the reason; [`Error::PluginUntrusted`] when the operator's policy wants
    /// another signature than it has; [`Error::Conflict`] when the version is admitted with other bytes.
    pub async fn admit(&self, admission: Admission) -> Result<PluginView, Error> {
        self.inner.activator.catalog.admit(admission).await
    }

    /// Removes an admitted plugin: later deployments do not find it. Those that were accepted run it all the same.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Conflict`] for a plugin that comes with the host.
    pub async fn remove_plugin(&self, name: &PluginName, version: &Version) -> Result<(), Error> {
        self.inner.activator.catalog.remove(name, version).await
    }

    /// Every admitted plugin.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn plugins(&self) -> Result<Vec<PluginView>, Error> {
        self.inner.activator.catalog.all().await
    }

    /// One admitted plugin.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be read.
    pub async fn plugin(&self, name: &PluginName, version: &Version) -> Result<PluginView, Error> {
        self.inner.activator.catalog.get(name, version).await
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
    async fn begin(
        self: Arc<Self>,
        project: &ProjectName,
        head: Head,
        media_type: Option<String>,
    ) -> Result<Intake, Error> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        head.check(project)?;
        let plan = Plan::settle(
            &head,
            project,
            &self.activator.catalog,
            &self.activator.policy,
        )
        .await?;
        plan.check_secrets(&self.secrets, project).await?;

        let id = DeploymentId::new();
        let accepted = self.accept(id, project, head, media_type, &plan).await;
        let (live, ingest, expected) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.discard(self.data.staging(id)).await;
                if let Err(error) = self.logs.remove(id.as_uuid()) {
                    tracing::warn!(deployment = %id, %error, "the log of a refused deployment stays behind");
                }
                self.data.remove_open_end(id);
                return Err(error);
            }
        };
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, live.clone());
        let turn = self.queue.enter(project, id);
        let run = Run {
            host: self.clone(),
            live: live.clone(),
            plan,
            package: ingest.follow(),
            turn,
        };
        tokio::spawn(run.finish());
        Ok(Intake::new(self, live, ingest, expected))
    }

    /// Makes a place for a deployment and records it. On failure the caller takes the place away; the
    /// record is the last thing that can fail.
    async fn accept(
        &self,
        id: DeploymentId,
        project: &ProjectName,
        head: Head,
        media_type: Option<String>,
        plan: &Plan,
    ) -> Result<(Arc<Live>, Ingest, Option<ExpectedDigest>), Error> {
        let release = self.data.staging(id).join(RELEASE);
        let marker = self.data.open_end(id);
        blocking(move || {
            make_dir(&release)?;
            std::fs::write(&marker, "").map_err(Error::io(format!("write {}", marker.display())))
        })
        .await??;
        let log = self.logs.create(id.as_uuid())?;
        let fields =
            json!({ "status": Status::Queued, "project": project, "message": head.message });
        log.append(EventKind::Phase, None, fields).await?;
        let ingest = self.blobs.ingest(project.as_str()).await?;

        let expected = head.digest.clone();
        let body = Body {
            package: Package {
                media_type,
                ..Package::default()
            },
            steps: plan.records(),
            head,
            ..Body::default()
        };
        let now = Time::now().as_millis();
        let changes = vec![
            Change::PutProject {
                name: project.to_string(),
                created_at: now,
            },
            Change::InsertDeployment(NewDeployment {
                id: id.as_uuid(),
                project: project.to_string(),
                status: Status::Queued.as_str().to_owned(),
                created_at: now,
                body: body.to_json(),
            }),
        ];
        self.ledger.commit(Durability::Process, changes).await?;
        let live = Live::new(id, project.clone(), body, log, self.ledger.clone());
        Ok((live, ingest, expected))
    }

    /// The record of a deployment. One that is about to end is waited for: whoever reads that it has
    /// succeeded finds it served, and its log complete.
    pub(crate) async fn record(&self, id: DeploymentId) -> Result<Record, Error> {
        let (mut body, mut row) = self.row(id).await?;
        if row.finished
            && let Some(live) = self.live(id)
        {
            live.ended().await;
            (body, row) = self.row(id).await?;
        }
        let mut record = body.into_record(&row)?;
        self.freshen(&mut record);
        let logs = self.logs.clone();
        record.events.summary = blocking(move || logs.summary(id.as_uuid())).await??;
        Ok(record)
    }

    /// Puts what changes without a commit into a record.
    fn freshen(&self, record: &mut Record) {
        if let Some(live) = self.live(record.id)
            && !record.status.is_terminal()
        {
            record.package.received = live.received.load(Ordering::Relaxed);
            record.events.last = live.log.last();
            record.events.dropped = live.dropped.load(Ordering::Relaxed);
        }
    }

    async fn row(
        &self,
        id: DeploymentId,
    ) -> Result<(Body, cofferdam_ledger::DeploymentRow), Error> {
        match self.ledger.deployment(id.as_uuid()).await? {
            Some(row) => Ok((Body::parse(&row)?, row)),
            None => Err(Error::NotFound {
                what: format!("deployment {id}"),
            }),
        }
    }

    async fn exists(&self, id: DeploymentId) -> Result<(), Error> {
        self.row(id).await.map(|_| ())
    }

    async fn project_view(&self, row: &cofferdam_ledger::ProjectRow) -> Result<ProjectView, Error> {
        let release = match row.active {
            Some(id) => self.ledger.release(id).await?,
            None => None,
        };
        let release = release
            .map(|release| {
                serde_json::from_str(&release.body).map_err(|source| Error::Damaged {
                    what: format!("release {}", release.id),
                    source,
                })
            })
            .transpose()?;
        let newest = DeploymentFilter {
            project: Some(row.name.clone()),
            limit: 1,
            ..DeploymentFilter::default()
        };
        let latest = match self.ledger.deployments(&newest).await?.first() {
            Some(row) => Some(Latest {
                id: row.id.into(),
                status: row.status.parse()?,
            }),
            None => None,
        };
        Ok(ProjectView {
            name: row.name.parse()?,
            created_at: Time::from_millis(row.created_at),
            active: row.active.map(Into::into),
            release,
            latest,
        })
    }

    /// Where a project's first service is served.
    pub(crate) fn url(&self, project: &ProjectName) -> Option<String> {
        let address = (*self.ingress.lock().unwrap_or_else(PoisonError::into_inner))?;
        let port = if address.port() == 80 {
            String::new()
        } else {
            format!(":{}", address.port())
        };
        Some(format!("http://{project}.{}{port}/", self.activator.domain))
    }

    fn live(&self, id: DeploymentId) -> Option<Arc<Live>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    fn all_live(&self) -> Vec<Arc<Live>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Forgets a deployment that has ended.
    pub(crate) async fn forget(&self, live: &Live) {
        if let Err(error) = live.log.close().await {
            tracing::error!(deployment = %live.id, %error, "an event log could not be closed");
        } else {
            self.data.remove_open_end(live.id);
        }
        live.mark_ended();
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&live.id);
        self.idle.notify_waiters();
    }

    async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            if self
                .live
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
            {
                return;
            }
            idle.await;
        }
    }

    /// Takes a directory out of sight at once and removes it in the background.
    pub(crate) async fn discard(&self, path: PathBuf) {
        let trash = self.data.trash();
        let shown = path.display().to_string();
        let discarded = blocking(move || freeze::discard(&path, &trash)).await;
        match discarded {
            Ok(Ok(())) => self.empty_trash(),
            Ok(Err(error)) => {
                tracing::error!(path = shown, %error, "a directory could not be discarded");
            }
            Err(error) => {
                tracing::error!(path = shown, %error, "a directory could not be discarded");
            }
        }
    }

    /// Empties the trash in the background.
    pub(crate) fn empty_trash(&self) {
        let data = self.data.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = freeze::empty_trash(&data.trash()) {
                tracing::warn!(%error, "the trash could not be emptied; the next discarded directory tries again");
            }
        });
    }
}
