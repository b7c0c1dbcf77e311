//! Blobs that arrive in several requests.
//!
//! An upload is a blob without an end yet, and its id is the blob's. What the index names of it survives whatever
//! happens to the process: whole chunks in sealed packs, and the few bytes behind them, which make no chunk yet, in
//! the upload's own row. [`Upload::offset`] is the end of that. [`Store::append`] goes on from there, and
//! [`Ingest::suspend`](crate::Ingest::suspend) makes durable what has arrived since; an append that dies takes with
//! it what was not in a sealed pack. So an offset, once told, only grows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use crate::ingest::{Digests, Hashers, Resume};
use crate::{BlobId, BlobInfo, Digest, Error, Ingest, Reader, Store};

/// The longest label.
pub const MAX_LABEL_BYTES: usize = 1024;

/// How many suspended uploads have the state of their digests in memory, a few hundred bytes each. Those of others
/// are computed again from what is stored, when somebody goes on with them.
const PARKED_DIGESTS: usize = 256;

/// An upload, as far as it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its name, and its blob's.
    pub id: BlobId,
    /// Whom it belongs to: the project.
    pub namespace: String,
    /// What its maker wanted to remember of it.
    pub label: String,
    /// How many bytes it will have, if somebody has said so.
    pub length: Option<u64>,
    /// How many bytes it has: the next one goes here.
    pub offset: u64,
    /// Whether that is all, and the blob complete.
    pub complete: bool,
    /// When it began, in milliseconds since 1970.
    pub created_at: i64,
    /// When it will be forgotten if nothing comes, in milliseconds since 1970.
    pub expires_at: i64,
}

/// An upload's row.
#[derive(Clone, Debug)]
pub(crate) struct UploadRow {
    pub(crate) upload: Upload,
    /// What the index names: so many bytes, in so many chunks.
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) chunks: u64,
    /// The bytes from there to the offset.
    pub(crate) tail: Bytes,
}

/// What a commit says about an upload.
#[derive(Clone, Debug)]
pub(crate) struct UploadProgress {
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) chunks: u64,
    /// The bytes behind these, when the upload is suspended.
    pub(crate) tail: Option<Bytes>,
    pub(crate) expires_at: i64,
}

/// What uploads need between two appends, as long as the process lives.
#[derive(Debug, Default)]
pub(crate) struct Appends {
    /// One append at a time; the lock is held until the last thread of it is gone.
    locks: Mutex<HashMap<BlobId, Arc<tokio::sync::Mutex<()>>>>,
    digests: Mutex<HashMap<BlobId, Hashers>>,
}

impl Appends {
    async fn lock(&self, id: BlobId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(id).or_default())
        };
        lock.lock_owned().await
    }

    /// Keeps the digests of what an upload has so far.
    pub(crate) fn park(&self, id: BlobId, hashers: Hashers) {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.len() >= PARKED_DIGESTS
            && let Some(other) = digests.keys().next().copied()
        {
            digests.remove(&other);
        }
        digests.insert(id, hashers);
    }

    /// Takes the digests of the first `bytes` bytes of an upload, if they are here.
    fn unpark(&self, id: BlobId, bytes: u64) -> Option<Hashers> {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests
            .remove(&id)
            .filter(|hashers| hashers.bytes() == bytes)
    }
}

impl Store {
    /// Makes an upload, of which nothing has arrived.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`] if that is not one; [`Error::Index`] or [`Error::StorageFull`] if the index cannot be
    /// written. A label longer than [`MAX_LABEL_BYTES`] is cut.
    pub async fn create_upload(
        &self,
        namespace: &str,
        length: Option<u64>,
        label: &str,
    ) -> Result<Upload, Error> {
        crate::store::check_namespace(namespace)?;
        let created_at = crate::index::now();
        let upload = Upload {
            id: BlobId::new(),
            namespace: namespace.to_owned(),
            label: label[..label.floor_char_boundary(MAX_LABEL_BYTES)].to_owned(),
            length,
            offset: 0,
            complete: false,
            created_at,
            expires_at: self.shared().upload_expiry(created_at),
        };
        self.shared().index.insert_upload(&upload).await?;
        Ok(upload)
    }

    /// An upload as far as it is durable; `None` if there is none of this id, or it has expired.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn upload(&self, id: BlobId) -> Result<Option<Upload>, Error> {
        let row = self.shared().index.upload(id).await?;
        Ok(row.map(|row| row.upload))
    }

    /// How many uploads of a namespace wait for more or for somebody to take them.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn uploads(&self, namespace: &str) -> Result<u64, Error> {
        self.shared().index.uploads(namespace).await
    }

    /// Goes on with an upload at its offset, which is what [`Ingest::received`] says at first. Waits until an
    /// earlier append of it has come to its end, and while too many uploads run.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such upload or it is complete already.
    pub async fn append(&self, id: BlobId) -> Result<Ingest, Error> {
        // First of all: whoever holds the lock waits for nothing that others hold.
        let permit = self.permit().await?;
        let lock = self.shared().appends.lock(id).await;
        let row = self.shared().index.upload(id).await?;
        let row = row
            .filter(|row| !row.upload.complete)
            .ok_or(Error::NotFound { id })?;
        let charge = self
            .charge(&row.upload.namespace, row.upload.offset)
            .await?;
        let hashers = self.shared().appends.unpark(id, row.bytes);
        let tail = row.tail.clone();
        let namespace = row.upload.namespace.clone();
        let resume = Resume { row, hashers, lock };
        let shared = Arc::clone(self.shared());
        let mut ingest = Ingest::start(
            shared,
            namespace,
            charge,
            permit,
            Digests::Blake3,
            Some(resume),
        )?;
        ingest.write(tail).await?;
        Ok(ingest)
    }

    /// SHA-256 of the first `bytes` bytes of an upload that is not complete, which are read and verified for it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such upload or it has other bytes by now, and whatever reading it comes to.
    pub async fn upload_sha256(&self, id: BlobId, bytes: u64) -> Result<Digest, Error> {
        let row = self.shared().index.upload(id).await?;
        let row = row
            .filter(|row| row.upload.offset == bytes)
            .ok_or(Error::NotFound { id })?;
        Reader::complete(Arc::clone(self.shared()), id, row.bytes)
            .sha256_with(&row.tail)
            .await
    }

    /// Waits until nobody writes to an upload: what arrived of it is durable, or will never be.
    pub async fn upload_settled(&self, id: BlobId) {
        drop(self.shared().appends.lock(id).await);
    }

    /// Sets how many bytes an upload will have, unless that was said before.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such upload.
    pub async fn set_upload_length(&self, id: BlobId, length: u64) -> Result<(), Error> {
        if self.shared().index.set_upload_length(id, length).await? {
            Ok(())
        } else {
            Err(Error::NotFound { id })
        }
    }

    /// Gives a complete upload's blob away: from now on it is a blob like any other. Of several callers one gets it;
    /// `None` if there is no such upload, or it is not complete.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] or [`Error::StorageFull`] if the index cannot be written.
    pub async fn take_upload(&self, id: BlobId) -> Result<Option<(Upload, BlobInfo)>, Error> {
        let Some(info) = self.blob(id).await? else {
            return Ok(None);
        };
        let taken = self.shared().index.take_upload(id).await?;
        Ok(taken.map(|upload| (upload, info)))
    }

    /// An [`Ingest`] to which everything was written already: for whoever deals with blobs that arrive, and gets one
    /// that has arrived. Giving it up leaves the blob as it is.
    #[must_use]
    pub fn adopt(&self, blob: BlobInfo) -> Ingest {
        Ingest::complete(Arc::clone(self.shared()), blob)
    }

    /// Forgets an upload, with its blob if that is complete, and says whether there was one. An append that runs
    /// fails at its next commit.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] or [`Error::StorageFull`] if the index cannot be written.
    pub async fn cancel_upload(&self, id: BlobId) -> Result<bool, Error> {
        let (usage, index) = (&self.shared().usage, &self.shared().index);
        let Some(upload) = usage.forget_upload(index, id).await? else {
            return Ok(false);
        };
        if upload.complete {
            self.remove(id).await?;
        } else {
            self.shared().index.forget_upload(id).await?;
        }
        Ok(true)
    }

    /// Some of the uploads whose time is over: what is to be [cancelled](Store::cancel_upload).
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn expired_uploads(&self) -> Result<Vec<BlobId>, Error> {
        self.shared().index.expired_uploads().await
    }

    /// The uploads that are complete and wait for somebody to take them.
    ///
    /// # Errors
    ///
    /// [`Error::Index`] if the index cannot be read.
    pub async fn complete_uploads(&self) -> Result<Vec<BlobId>, Error> {
        self.shared().index.complete_uploads().await
    }
}
