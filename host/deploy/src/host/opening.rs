//! Opening a data directory, and what a start brings into order.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam_blobs::Store;
use cofferdam_ledger::Ledger;
use cofferdam_sandbox::worker::{Isolation, Landlock, LandlockStatus, landlock_status};
use cofferdam_sandbox::{Sandbox, SandboxOptions};
use tokio::sync::{Notify, Semaphore, watch};

use super::{Host, HostOptions, Inner, uploads};
use crate::activation::{Activator, Needed, Pointers};
use crate::catalog::{Catalog, blocking};
use crate::data_dir::DataDir;
use crate::error::Error;
use crate::events::EventLogs;
use crate::lease::Leases;
use crate::meter::Meter;
use crate::places::Places;
use crate::queue::Queue;
use crate::reconcile::{self, Observations};
use crate::recovery;
use crate::release::Sharing;
use crate::route::Routes;
use crate::secrets::SecretStore;
use crate::signature::TrustedKeys;
use crate::storage::Collections;
use crate::token::TokenStore;
use crate::upload::{Claims, Writers};

/// How often it is tried to admit the plugins of a newer host, and how long after one attempt the next: a full disk may be
/// made room on meanwhile, and deployments wait.
const ATTEMPTS: u32 = 3;
const TRY_AGAIN: Duration = Duration::from_secs(1);

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
            max_steps,
            storage,
        } = options;
        let keys = TrustedKeys::of(&policy.signatures())?;
        let data = Arc::new(blocking(move || DataDir::open(&data)).await??);
        let ledger = Ledger::open(&data.ledger()).await?;
        let blobs = Store::open(&data.blobs(), storage.store(&policy)).await?;
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

        let secrets = Arc::new(SecretStore::new(ledger.clone(), data.secrets_key()));
        let tokens = TokenStore::open(ledger.clone()).await?;
        let scratch = data.all_scratch();
        let sharing = blocking(move || Sharing::probe(&scratch)).await?;

        let leases = Leases::new(ledger.clone());
        let inner = Arc::new(Inner {
            data: Arc::clone(&data),
            ledger,
            blobs,
            logs,
            secrets: Arc::clone(&secrets),
            tokens,
            meter: Meter::default(),
            activator: Activator {
                catalog,
                sandbox,
                domain,
                policy: Arc::new(policy),
                secrets,
                data,
            },
            routes: Routes::default(),
            writers: Writers::default(),
            claims: Claims::default(),
            digests: Semaphore::new(uploads::DIGESTS),
            pointers: Pointers::default(),
            needed: Needed::default(),
            leaving: Mutex::default(),
            observations: Observations::default(),
            news: Arc::default(),
            begun: Notify::new(),
            sharing,
            queue: Queue::default(),
            places: Places::new(max_steps),
            leases,
            collections: Collections::default(),
            live: Mutex::default(),
            idle: Notify::new(),
            ingress: Mutex::default(),
            stopping: AtomicBool::new(false),
            recovered: watch::Sender::new(false),
            pausing: watch::Sender::new(false),
        });
        inner.tokens.ensure_admin(&inner.data).await?;
        inner.secrets.check().await?;
        // What serves, first: everything else can wait.
        recovery::serve_active(&inner).await?;
        inner.collect_in_background(storage.collect_interval);
        // So can compiling what a newer host ships. One that serves nothing yet has nobody to keep waiting.
        let admitted = if inner.routes.is_empty() {
            inner.activator.catalog.admit_shipped(&shipped).await?;
            Vec::new()
        } else {
            shipped
        };
        let recovering = inner.clone();
        tokio::spawn(async move {
            let catalog = &recovering.activator.catalog;
            for attempt in 1..=ATTEMPTS {
                let Err(error) = catalog.admit_shipped(&admitted).await else {
                    break;
                };
                tracing::error!(
                    error = error.chain(),
                    attempt,
                    "the plugins that come with the host cannot all be admitted: those admitted before are used"
                );
                if attempt < ATTEMPTS {
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
            let host = Arc::downgrade(&recovering);
            recovery::recover(recovering).await;
            // Only now is known which uploads were deployed.
            uploads::expire_uploads(host, storage.upload_ttl).await;
        });
        tokio::spawn(reconcile::run(Arc::downgrade(&inner)));
        tokio::spawn(crate::webhook::run(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::path::Path;

    use bytes::Bytes;

    use super::*;
    use crate::catalog::ShippedPlugin;
    use crate::head::Head;
    use crate::policy::Policy;
    use crate::status::Status;
    use crate::storage::StorageOptions;

    fn options(directory: &Path, shipped: Vec<ShippedPlugin>) -> HostOptions {
        HostOptions {
            data: directory.join("data"),
            shipped,
            domain: "localhost".to_owned(),
            isolation: Isolation::Thread,
            policy: Policy::built_in(),
            max_steps: 1,
            storage: StorageOptions::default(),
        }
    }

    fn site() -> Bytes {
        let mut archive = tar::Builder::new(Vec::new());
        let page = b"hello";
        let mut header = tar::Header::new_ustar();
        header.set_size(page.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, "index.html", &page[..])
            .unwrap();
        archive.into_inner().unwrap().into()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_served_does_not_wait_for_the_plugins_of_a_newer_host() {
        let directory = tempfile::tempdir().unwrap();
        let shipped = cofferdam_plugins::ALL.iter().map(|plugin| ShippedPlugin {
            name: plugin.name,
            version: plugin.version,
            wasm: plugin.wasm,
        });
        let host = Host::open(options(directory.path(), shipped.collect()))
            .await
            .unwrap();
        let project = "blog".parse().unwrap();
        let mut intake = host.begin(&project, Head::default(), None).await.unwrap();
        intake.write(site()).await.unwrap();
        let id = intake.finish().await.unwrap().id;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while host.deployment(id).await.unwrap().status != Status::Succeeded {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        host.shutdown(Duration::from_secs(60)).await;
        drop(host);

        // A plugin that cannot even be admitted: where it is waited for, nothing is served.
        let newer = ShippedPlugin {
            name: "newer",
            version: "1.0.0",
            wasm: b"no component",
        };
        let host = loop {
            match Host::open(options(directory.path(), vec![newer])).await {
                Ok(host) => break host,
                // The one before has not let go of everything yet.
                Err(Error::DataDirectory { message }) if message.contains("in use") => {
                    assert!(tokio::time::Instant::now() < deadline);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert!(host.route("blog.localhost").is_some());
        host.recovered().await;
        assert!(host.ready());
        assert_eq!(host.deployment(id).await.unwrap().status, Status::Succeeded);
    }
}
