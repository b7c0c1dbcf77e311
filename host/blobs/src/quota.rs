//! What a namespace holds, and how much it may.
//!
//! A namespace is charged for every byte of its blobs, also for those that it shares with itself or with others:
//! what one project stores must not depend on what another one does. Running uploads are charged for what they
//! have received.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::index::Index;
use crate::upload::Upload;
use crate::{BlobId, Error, StoreOptions};

/// The namespaces that somebody writes to now; those that nobody does are in the index alone.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Told when something was removed or given up.
    pub(crate) garbage: Arc<Notify>,
    active: tokio::sync::Mutex<HashMap<String, Weak<Account>>>,
}

/// What a namespace holds, running uploads included.
#[derive(Debug)]
struct Account {
    garbage: Arc<Notify>,
    namespace: String,
    quota: Option<u64>,
    used: AtomicU64,
}

/// What one upload has been charged. Dropped before it is kept, it is given back.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Arc<Account>,
    /// What earlier pieces of the upload were charged, which stays.
    before: u64,
    bytes: AtomicU64,
    state: Mutex<ChargeState>,
}

#[derive(Debug)]
struct ChargeState {
    phase: Phase,
    /// How many of its bytes will stay in the account whatever becomes of it.
    settled: u64,
}

/// Whether the bytes of a charge are in the account for now, will stay there, or are no longer in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Kept,
    GivenBack,
}

impl StoreOptions {
    /// How many bytes a namespace may hold, if there is a limit.
    pub(crate) fn quota_of(&self, namespace: &str) -> Option<u64> {
        let own = self.namespace_quotas.get(namespace).copied();
        own.or(self.namespace_quota_bytes)
    }
}

impl Usage {
    /// Begins to charge an upload, of which `before` bytes are charged already. A new one is refused at once when
    /// nothing more fits, one that goes on when there is too much already: what it has may be all of it.
    pub(crate) async fn charge(
        &self,
        index: &Index,
        namespace: &str,
        quota: Option<u64>,
        before: u64,
    ) -> Result<Arc<Charge>, Error> {
        let mut active = self.active.lock().await;
        let known = active.get(namespace).and_then(Weak::upgrade);
        let account = match known {
            Some(account) => account,
            None => {
                active.retain(|_, account| account.strong_count() > 0);
                let account = Arc::new(Account {
                    garbage: Arc::clone(&self.garbage),
                    namespace: namespace.to_owned(),
                    quota,
                    used: AtomicU64::new(index.usage(namespace).await?),
                });
                active.insert(namespace.to_owned(), Arc::downgrade(&account));
                account
            }
        };
        drop(active);
        let used = account.used.load(Ordering::Acquire);
        let full = |quota| used > quota || (used == quota && before == 0);
        if account.quota.is_some_and(full) {
            return Err(account.exceeded(used));
        }
        Ok(Arc::new(Charge {
            account,
            before,
            bytes: AtomicU64::new(0),
            state: Mutex::new(ChargeState {
                phase: Phase::Running,
                settled: 0,
            }),
        }))
    }

    /// Forgets a complete blob, and what its namespace was charged for it; says whether there was one.
    pub(crate) async fn remove(&self, index: &Index, id: BlobId) -> Result<bool, Error> {
        // Held across both, so that nobody counts the blob in between.
        let active = self.active.lock().await;
        let Some((blob, _)) = index.blob(id).await? else {
            return Ok(false);
        };
        let removed = index.remove(id).await?;
        self.garbage.notify_one();
        if removed && let Some(account) = active.get(&blob.namespace).and_then(Weak::upgrade) {
            account.release(blob.bytes);
        }
        Ok(removed)
    }
}

impl Usage {
    /// Forgets an upload that is not complete, and what its namespace was charged for it.
    pub(crate) async fn forget_upload(
        &self,
        index: &Index,
        id: BlobId,
    ) -> Result<Option<Upload>, Error> {
        let active = self.active.lock().await;
        let forgotten = index.forget_upload_row(id).await?;
        if let Some(upload) = forgotten.as_ref().filter(|upload| !upload.complete)
            && let Some(account) = active.get(&upload.namespace).and_then(Weak::upgrade)
        {
            account.release(upload.offset);
        }
        Ok(forgotten)
    }
}

impl Account {
    /// Takes bytes out of the account. A commit that was made and reported as failed is in the index and not here: an
    /// account that is short of it refuses nothing, one that has wrapped would refuse everything.
    fn release(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // Never refused, since there always is a difference.
        let _ = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    fn exceeded(&self, used: u64) -> Error {
        Error::QuotaExceeded {
            namespace: self.namespace.clone(),
            used,
            quota: self.quota.unwrap_or(u64::MAX),
        }
    }
}

impl Charge {
    /// Charges for the bytes up to this one of the upload, those before it included.
    pub(crate) fn up_to(&self, bytes: u64) -> Result<(), Error> {
        // Nothing is charged to what was given up: its writer may not have heard of it yet.
        let state = self.state();
        if state.phase == Phase::GivenBack {
            return Ok(());
        }
        let charged = self.before + self.bytes.load(Ordering::Acquire);
        let more = bytes.saturating_sub(charged);
        let quota = self.account.quota.unwrap_or(u64::MAX);
        let fits = |used: u64| used.checked_add(more).filter(|sum| *sum <= quota);
        self.account
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .map_err(|used| self.account.exceeded(used))?;
        self.bytes.fetch_add(more, Ordering::AcqRel);
        Ok(())
    }

    /// Says that the upload is durable up to this byte, and that somebody may go on with it: so much stays charged
    /// when the rest is given back, until the upload is forgotten.
    pub(crate) fn settle(&self, until: u64) {
        let mut state = self.state();
        state.settled = state.settled.max(until.saturating_sub(self.before));
    }

    /// Says that the blob is complete, or that all of it so far will be gone on with: its bytes stay charged until it is removed.
    pub(crate) fn keep(&self) {
        let mut state = self.state();
        if state.phase == Phase::GivenBack {
            // It was given up in the moment in which it became complete.
            let more = self.unsettled(&state);
            self.account.used.fetch_add(more, Ordering::AcqRel);
        }
        state.phase = Phase::Kept;
    }

    /// Says that the upload is given up: whoever tries again has the room, even while this one's threads end.
    pub(crate) fn give_back(&self) {
        let mut state = self.state();
        if state.phase == Phase::Running {
            state.phase = Phase::GivenBack;
            self.account.release(self.unsettled(&state));
            self.account.garbage.notify_one();
        }
    }

    fn unsettled(&self, state: &ChargeState) -> u64 {
        let bytes = self.bytes.load(Ordering::Acquire);
        bytes.saturating_sub(state.settled)
    }

    fn state(&self) -> MutexGuard<'_, ChargeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back();
    }
}
