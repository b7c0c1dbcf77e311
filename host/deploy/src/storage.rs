//! The room that packages take: how much there may be, and how it is given back.
//!
//! Packages that no record names (an upload that broke off in its last moment, one that was removed) are let go
//! once they were seen so for a while; what the store then holds for nobody, it collects. Both happen in the
//! background, at a pace that leaves the disk to deployments.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cofferdam_blobs::{BlobId, CollectOptions, CollectReport, Store, StoreOptions};
use cofferdam_ledger::{DeploymentFilter, Ledger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

use crate::error::Error;
use crate::host::{Host, Inner};
use crate::policy::Policy;
use crate::record::Body;
use crate::record::Time;

/// How often what is dead is collected when nothing asks for it: removals and uploads that broke off do.
const INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What is kept free on the disk: enough for the ledger, the logs and the steps that run to come to their end.
const MIN_FREE_BYTES: u64 = 1 << 30;

/// When the first collection begins: a start has more urgent things to read.
const AFTER_START: Duration = Duration::from_secs(60);

/// How long after a removal a collection begins: those that come together are collected together.
const AFTER_REMOVAL: Duration = Duration::from_secs(60);

/// How many bytes in a second a collection in the background reads and writes: a part of what any disk does.
const BACKGROUND_RATE: u64 = 64 * 1024 * 1024;

/// For how long no record may have named a package before it is let go. Its name is recorded within milliseconds of
/// its last byte; an hour is what a ledger that hangs may take.
const UNNAMED_GRACE: Duration = Duration::from_secs(60 * 60);

/// How many rows are read at once.
const PAGE: u32 = 200;

/// How much may be stored, and when what is dead is collected.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// How many bytes stay free on the disk of the data directory. Default: 1 GiB.
    pub min_free_bytes: u64,
    /// How often what is dead is collected at least; zero: only when asked to. Default: an hour.
    pub collect_interval: Duration,
    /// At how many bytes a pack is closed: what a killed server may ask to be sent again. Default: 64 MiB.
    pub pack_bytes: u64,
    /// How long an upload is kept that nobody goes on with. Default: 24 hours.
    pub upload_ttl: Duration,
}

impl Default for StorageOptions {
    fn default() -> Self {
        let store = StoreOptions::default();
        Self {
            min_free_bytes: MIN_FREE_BYTES,
            collect_interval: INTERVAL,
            pack_bytes: store.pack_bytes,
            upload_ttl: store.upload_ttl,
        }
    }
}

impl StorageOptions {
    /// How the store is opened.
    pub(crate) fn store(&self, policy: &Policy) -> StoreOptions {
        let (of_all, own) = policy.storage();
        StoreOptions {
            namespace_quota_bytes: of_all,
            namespace_quotas: own,
            free_floor_bytes: self.min_free_bytes,
            pack_bytes: self.pack_bytes,
            upload_ttl: self.upload_ttl,
            ..StoreOptions::default()
        }
    }
}

/// What a collection did.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Collected {
    /// Packages that no record named and that were let go.
    pub packages_removed: u64,
    /// What the store found and did.
    #[serde(flatten)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub store: CollectReport,
}

/// What the host knows between two collections.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    /// Since when packages were seen that no record names.
    unnamed: Mutex<HashMap<BlobId, Instant>>,
    /// When one last came to its end, in seconds since 1970; zero before that.
    last: AtomicU64,
    failures: AtomicU64,
    stop: Notify,
}

impl Collections {
    /// When a collection last came to its end, in seconds since 1970.
    pub(crate) fn last(&self) -> Option<u64> {
        Some(self.last.load(Ordering::Relaxed)).filter(|last| *last > 0)
    }

    /// How many collections have failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Ends what runs in the background.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }
}

impl Host {
    /// Lets packages go that no record has named for an hour, and gives back the room of what nothing refers to,
    /// beside everything else that runs.
    ///
    /// # Errors
    ///
    /// When the store or the ledger cannot be read or changed.
    pub async fn collect(&self, dry_run: bool) -> Result<Collected, Error> {
        let options = CollectOptions {
            dry_run,
            ..CollectOptions::default()
        };
        self.inner.collect(options).await
    }
}

impl Inner {
    /// Collects every now and then, for as long as the host lives.
    pub(crate) fn collect_in_background(self: &Arc<Self>, interval: Duration) {
        if interval.is_zero() {
            return;
        }
        let host = Arc::downgrade(self);
        let blobs = self.blobs.clone();
        tokio::spawn(async move {
            let mut wait = AFTER_START.min(interval);
            loop {
                // The store is held here, the host is not: it may end meanwhile.
                let removed = async {
                    blobs.garbage().await;
                    tokio::time::sleep(AFTER_REMOVAL).await;
                };
                let woken = tokio::time::timeout(wait, removed);
                tokio::select! {
                    _ = woken => {}
                    () = gone(&host) => return,
                }
                let Some(host) = host.upgrade() else {
                    return;
                };
                wait = interval;
                tokio::select! {
                    () = host.collections.stop.notified() => return,
                    () = host.collect_once() => {}
                }
            }
        });
    }

    async fn collect_once(&self) {
        let options = CollectOptions {
            bytes_per_second: Some(BACKGROUND_RATE),
            ..CollectOptions::default()
        };
        match self.collect(options).await {
            Ok(collected) if collected.store.bytes_freed() > 0 => tracing::info!(
                freed_bytes = collected.store.bytes_freed(),
                left_bytes = collected.store.bytes_left(),
                packages = collected.packages_removed,
                "room was given back"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(
                error = error.chain(),
                "what is dead could not be collected; the next time tries again"
            ),
        }
    }

    async fn collect(&self, options: CollectOptions) -> Result<Collected, Error> {
        let dry_run = options.dry_run;
        let collected = self.try_collect(options).await;
        match &collected {
            Err(_) => {
                self.collections.failures.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) if dry_run => {}
            Ok(_) => {
                let now = Time::now().as_millis() / 1000;
                let now = u64::try_from(now).unwrap_or_default();
                self.collections.last.store(now, Ordering::Relaxed);
            }
        }
        collected
    }

    async fn try_collect(&self, options: CollectOptions) -> Result<Collected, Error> {
        let packages_removed = if options.dry_run {
            0
        } else {
            self.let_unnamed_go(UNNAMED_GRACE).await?
        };
        let store = self.blobs.collect(options).await?;
        Ok(Collected {
            packages_removed,
            store,
        })
    }

    /// Removes packages that no record has named for this long, and says how many.
    async fn let_unnamed_go(&self, grace: Duration) -> Result<u64, Error> {
        let mut unnamed = self.collections.unnamed.lock().await;
        // First what is stored, then what is named: a package is recorded after it was stored.
        let stored = stored(&self.blobs).await?;
        let named = named(&self.ledger).await?;
        let now = Instant::now();
        let mut seen = HashMap::new();
        let mut removed = 0;
        for blob in stored.into_iter().filter(|blob| !named.contains(blob)) {
            let since = unnamed.get(&blob).copied().unwrap_or(now);
            if now.duration_since(since) < grace {
                seen.insert(blob, since);
            } else if self.blobs.remove(blob).await? {
                tracing::info!(%blob, "a package that no record names is let go");
                removed += 1;
            }
        }
        *unnamed = seen;
        Ok(removed)
    }
}

/// Resolves when the host is asked to stop, or is gone.
async fn gone(host: &std::sync::Weak<Inner>) {
    /// Nobody waits for this: it only keeps a directory from being opened again at once.
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        match host.upgrade() {
            None => return,
            Some(host) if !host.accepts() => return,
            Some(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn stored(blobs: &Store) -> Result<Vec<BlobId>, Error> {
    let mut ids = Vec::new();
    loop {
        let page = blobs.blobs(ids.last().copied(), PAGE).await?;
        ids.extend(page.iter().map(|blob| blob.id));
        if page.len() < PAGE as usize {
            return Ok(ids);
        }
    }
}

/// The packages that deployments name.
pub(crate) async fn named(ledger: &Ledger) -> Result<HashSet<BlobId>, Error> {
    let mut named = HashSet::new();
    let mut before: Option<Uuid> = None;
    loop {
        let filter = DeploymentFilter {
            before,
            limit: PAGE,
            ..DeploymentFilter::default()
        };
        let rows = ledger.deployments(&filter).await?;
        for row in &rows {
            named.extend(Body::parse(row)?.blob);
        }
        if rows.len() < PAGE as usize {
            return Ok(named);
        }
        before = rows.last().map(|row| row.id);
    }
}
