//! Uploads that come in pieces, and what a project need not send again.
//!
//! An upload belongs to a project and becomes one of its deployments when it is complete. It is an upload until that
//! deployment has recorded its package, so that whatever happens before leaves it to be deployed again. Its bytes lie in the blob
//! store, which says how many of them are durable; here is who may write next. Of two writers the newer one takes
//! over: the older is told, makes durable what it has, and ends, and only then does the newer one begin. So is
//! whoever asks for the offset, because an offset that still grows is one that the next request misses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cofferdam_blobs::{BlobId, BlobInfo, Ingest, Upload};
use tokio::sync::{Notify, watch};

use crate::error::Error;
use crate::name::ProjectName;
use crate::record::Time;

/// An upload's name.
pub type UploadId = BlobId;

/// An upload as a client sees it.
#[derive(Debug, Clone)]
pub struct UploadView {
    /// Its name.
    pub id: UploadId,
    /// The project that it is for.
    pub project: ProjectName,
    /// What its bytes are, if its maker said so.
    pub media_type: Option<String>,
    /// How many bytes it will have, if anybody said so.
    pub length: Option<u64>,
    /// How many of them are durable: the next one goes here.
    pub offset: u64,
    /// Whether that is all.
    pub complete: bool,
    /// How long it is kept if nothing comes.
    pub expires_in: Duration,
}

impl UploadView {
    pub(crate) fn of(upload: Upload) -> Result<Self, Error> {
        let left = upload.expires_at.saturating_sub(Time::now().as_millis());
        Ok(Self {
            id: upload.id,
            project: upload.namespace.parse()?,
            media_type: Some(upload.label).filter(|label| !label.is_empty()),
            length: upload.length,
            offset: upload.offset,
            complete: upload.complete,
            expires_in: Duration::from_millis(u64::try_from(left).unwrap_or(0)),
        })
    }
}

/// Who writes to which upload.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writers {
    turns: Arc<Mutex<HashMap<UploadId, watch::Sender<u64>>>>,
}

/// The right to write to an upload, until somebody else takes it.
#[derive(Debug)]
pub(crate) struct Turn {
    writers: Writers,
    id: UploadId,
    number: u64,
    newest: watch::Receiver<u64>,
}

impl Writers {
    /// Takes the turn from whoever has it.
    pub(crate) fn take_over(&self, id: UploadId) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(id).or_insert_with(|| watch::Sender::new(0));
        let number = *turn.borrow() + 1;
        turn.send_replace(number);
        Turn {
            writers: self.clone(),
            id,
            number,
            newest: turn.subscribe(),
        }
    }
}

impl Turn {
    /// Resolves when somebody else has taken over.
    pub(crate) async fn lost(&mut self) {
        let number = self.number;
        // The sender stays as long as there is a turn.
        let _ = self.newest.wait_for(|newest| *newest != number).await;
    }

    pub(crate) fn is_lost(&self) -> bool {
        *self.newest.borrow() != self.number
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self
            .writers
            .turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The last one to leave takes the entry with it; this turn's own receiver still counts.
        if turns
            .get(&self.id)
            .is_some_and(|turn| turn.receiver_count() <= 1)
        {
            turns.remove(&self.id);
        }
    }
}

/// Which uploads somebody is about to take for good.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Arc<ClaimsShared>);

#[derive(Debug, Default)]
struct ClaimsShared {
    /// Those that are claimed, and whether for ever.
    ids: Mutex<HashMap<UploadId, bool>>,
    /// Told when one is given up, or never will be.
    freed: Notify,
}

/// The right to deploy or to forget an upload: while there is one, nobody else does either.
#[derive(Debug)]
pub struct UploadClaim {
    claims: Claims,
    id: UploadId,
}

impl Claims {
    /// The claim, unless somebody else has it.
    pub(crate) fn claim(&self, id: UploadId) -> Option<UploadClaim> {
        let mut ids = self.ids();
        if ids.contains_key(&id) {
            return None;
        }
        ids.insert(id, false);
        Some(UploadClaim {
            claims: self.clone(),
            id,
        })
    }

    /// The claim, once nobody else has it; `None` if somebody has it for ever.
    pub(crate) async fn claim_when_free(&self, id: UploadId) -> Option<UploadClaim> {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(claim) = self.claim(id) {
                return Some(claim);
            }
            if self.ids().get(&id) == Some(&true) {
                return None;
            }
            freed.await;
        }
    }

    fn ids(&self) -> MutexGuard<'_, HashMap<UploadId, bool>> {
        self.0.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadClaim {
    /// The upload.
    #[must_use]
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// Keeps it as long as this process lives.
    pub(crate) fn keep(self) {
        self.claims.ids().insert(self.id, true);
    }
}

impl Drop for UploadClaim {
    fn drop(&mut self) {
        let mut ids = self.claims.ids();
        if ids.get(&self.id) == Some(&false) {
            ids.remove(&self.id);
        }
        drop(ids);
        self.claims.0.freed.notify_waiters();
    }
}

/// Writing to an upload from its offset on.
#[derive(Debug)]
pub struct Append {
    ingest: Ingest,
    turn: Turn,
    id: UploadId,
    length: Option<u64>,
    limit: u64,
}

impl Append {
    pub(crate) fn new(ingest: Ingest, turn: Turn, upload: &UploadView, limit: u64) -> Self {
        Self {
            ingest,
            turn,
            id: upload.id,
            length: upload.length,
            limit,
        }
    }

    /// The upload.
    #[must_use]
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// How many bytes have arrived.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.ingest.received()
    }

    /// Takes the next bytes, waiting for room when the disk is slower than the client.
    ///
    /// # Errors
    ///
    /// [`Error::TakenOver`] when a newer writer goes on with the upload, [`Error::UploadLength`] when it gets longer
    /// than was said, [`Error::PackageTooLarge`] when it gets longer than any may be; or when the bytes cannot be
    /// stored. Whatever it is, [`suspend`](Append::suspend) makes durable what was taken before.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let end = self.ingest.received() + bytes.len() as u64;
        if let Some(length) = self.length.filter(|length| end > *length) {
            return Err(Error::UploadLength { length, sent: end });
        }
        if end > self.limit {
            return Err(Error::PackageTooLarge { limit: self.limit });
        }
        tokio::select! {
            biased;
            () = self.turn.lost() => Err(Error::TakenOver),
            written = self.ingest.write(bytes) => Ok(written?),
        }
    }

    /// Resolves when a newer writer goes on with the upload.
    pub async fn lost(&mut self) {
        self.turn.lost().await;
    }

    /// Makes durable what has arrived, and returns how many bytes that is.
    ///
    /// # Errors
    ///
    /// When it cannot be stored.
    pub async fn suspend(self) -> Result<u64, Error> {
        Ok(self.ingest.suspend().await?)
    }

    /// Says that every byte has arrived. Returns once the whole upload is durable.
    ///
    /// # Errors
    ///
    /// [`Error::UploadLength`] when it is shorter than was said; what has arrived stays. Otherwise when it cannot be
    /// stored.
    pub async fn complete(self) -> Result<BlobInfo, Error> {
        let (ingest, _turn) = self.ended().await?;
        Ok(ingest.finish().await?)
    }

    /// What says that every byte has arrived, where that may be.
    pub(crate) async fn ended(self) -> Result<(Ingest, Turn), Error> {
        let sent = self.ingest.received();
        if let Some(length) = self.length.filter(|length| *length != sent) {
            self.ingest.suspend().await?;
            return Err(Error::UploadLength { length, sent });
        }
        if self.turn.is_lost() {
            self.ingest.suspend().await?;
            return Err(Error::TakenOver);
        }
        Ok((self.ingest, self.turn))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[tokio::test]
    async fn a_claim_is_one_and_who_waits_for_it_hears_when_it_ends_and_when_it_never_will() {
        let id = "0198c0de-0000-7000-8000-000000000000".parse().unwrap();
        let claims = Claims::default();
        let first = claims.claim(id).unwrap();
        assert!(claims.claim(id).is_none());
        let wait = || {
            let claims = claims.clone();
            tokio::spawn(async move { claims.claim_when_free(id).await })
        };
        let second = wait();
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        let second = second.await.unwrap().unwrap();
        let third = wait();
        tokio::task::yield_now().await;
        second.keep();
        assert!(third.await.unwrap().is_none());
        assert!(claims.claim(id).is_none());
    }
}
