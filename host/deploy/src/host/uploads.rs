//! Uploads that come in pieces, and packages that are put together from what a project holds.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cofferdam_blobs::{Assembly, BlobInfo, ChunkId, ChunkList, ChunkerParams, Digest};
use uuid::Uuid;

use super::{Host, Inner, PackageReader};
use crate::error::Error;
use crate::head::Head;
use crate::idempotency::IdempotencyKey;
use crate::intake::Intake;
use crate::name::ProjectName;
use crate::storage;
use crate::upload::{Append, UploadClaim, UploadId, UploadView};

/// How many uploads a project may have that are not complete or wait to be deployed. Each holds packs that nothing
/// else may use; a client needs one.
pub const MAX_UPLOADS: u64 = 32;

/// How often expired uploads are looked for, which are kept for hours; those that are not, as often as they are kept.
const EXPIRY_CHECK: Duration = Duration::from_secs(60);

const SHORTEST_CHECK: Duration = Duration::from_millis(100);

/// How many uploads are read at a time to see whether they are what was promised.
pub(super) const DIGESTS: usize = 4;

impl Host {
    /// What this host cuts packages with. A client that cuts as it says sends least.
    #[must_use]
    pub fn chunker(&self) -> ChunkerParams {
        ChunkerParams::default()
    }

    /// For each of these chunks, whether the project has to send it. What other projects hold makes no difference,
    /// in the answer or on the way to it.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub async fn missing(
        &self,
        project: &ProjectName,
        chunks: &[ChunkId],
    ) -> Result<Vec<bool>, Error> {
        Ok(self.inner.blobs.missing(project.as_str(), chunks).await?)
    }

    /// Whether the project holds any chunk at all.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub async fn holds_any(&self, project: &ProjectName) -> Result<bool, Error> {
        Ok(self.inner.blobs.holds_any(project.as_str()).await?)
    }

    /// The chunk list of the project's newest package with this BLAKE3, cut as this host cuts now; `None` if it holds
    /// none. What other projects hold is not looked at.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub async fn chunk_list(
        &self,
        project: &ProjectName,
        blake3: &Digest,
    ) -> Result<Option<ChunkList>, Error> {
        let list = self.inner.blobs.list(project.as_str(), blake3).await?;
        Ok(list.filter(|list| *list.chunker() == self.chunker()))
    }

    /// Begins to put a package together from chunks that the project holds and chunks that are sent. Its bytes are
    /// for an [`Intake`](crate::Intake).
    ///
    /// # Errors
    ///
    /// When the disk refuses.
    pub async fn assemble(&self, project: &ProjectName) -> Result<Assembly, Error> {
        Ok(self.inner.blobs.assemble(project.as_str()).await?)
    }

    /// Makes an upload for a project.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the project has too many; when nothing more is accepted, or it cannot be recorded.
    pub async fn create_upload(
        &self,
        project: &ProjectName,
        length: Option<u64>,
        media_type: Option<&str>,
    ) -> Result<UploadView, Error> {
        let inner = &self.inner;
        if inner.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        if inner.blobs.uploads(project.as_str()).await? >= MAX_UPLOADS {
            return Err(Error::Conflict {
                message: format!(
                    "{project} has {MAX_UPLOADS} uploads already: deploy or DELETE one of them, or wait until one \
                     expires"
                ),
            });
        }
        let label = media_type.unwrap_or_default();
        let upload = inner
            .blobs
            .create_upload(project.as_str(), length, label)
            .await?;
        UploadView::of(upload)
    }

    /// An upload as far as it is durable.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for one that has expired.
    pub async fn upload(&self, id: UploadId) -> Result<UploadView, Error> {
        match self.inner.blobs.upload(id).await? {
            Some(upload) => UploadView::of(upload),
            None => Err(unknown(id)),
        }
    }

    /// The same, after whoever writes to it was stopped and has made durable what arrived: the offset is one that
    /// the next request finds.
    ///
    /// # Errors
    ///
    /// As [`upload`](Host::upload).
    pub async fn settled_upload(&self, id: UploadId) -> Result<UploadView, Error> {
        let turn = self.inner.writers.take_over(id);
        self.inner.blobs.upload_settled(id).await;
        drop(turn);
        self.upload(id).await
    }

    /// Goes on with an upload at `offset`. Whoever wrote to it before is stopped first.
    ///
    /// # Errors
    ///
    /// [`Error::UploadOffset`] when that is not where it is, [`Error::UploadComplete`], [`Error::UploadLength`] when
    /// `length` is another than was said before, [`Error::TakenOver`] when yet another writer was quicker.
    pub async fn append(
        &self,
        id: UploadId,
        offset: u64,
        length: Option<u64>,
        limit: u64,
    ) -> Result<Append, Error> {
        let inner = &self.inner;
        if inner.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        let turn = inner.writers.take_over(id);
        inner.blobs.upload_settled(id).await;
        let mut upload = self.upload(id).await?;
        if upload.complete {
            return Err(Error::UploadComplete { id });
        }
        if upload.offset != offset {
            return Err(Error::UploadOffset {
                expected: upload.offset,
                provided: offset,
            });
        }
        match (upload.length, length) {
            (Some(said), Some(now)) if said != now => {
                return Err(Error::UploadLength {
                    length: said,
                    sent: now,
                });
            }
            (None, Some(length)) => {
                inner.blobs.set_upload_length(id, length).await?;
                upload.length = Some(length);
            }
            _ => {}
        }
        let ingest = inner.blobs.append(id).await.map_err(gone(id))?;
        if ingest.received() != offset {
            // Another writer came and went between the look and the append.
            ingest.suspend().await?;
            return Err(Error::TakenOver);
        }
        Ok(Append::new(ingest, turn, &upload, limit))
    }

    /// Forgets an upload. Whoever writes to it is stopped.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Conflict`] while it is being deployed.
    pub async fn cancel_upload(&self, id: UploadId) -> Result<(), Error> {
        let _claim = self.claim_upload(id)?;
        let turn = self.inner.writers.take_over(id);
        self.inner.blobs.upload_settled(id).await;
        let was_there = self.inner.blobs.cancel_upload(id).await?;
        drop(turn);
        if was_there { Ok(()) } else { Err(unknown(id)) }
    }

    /// Says that every byte of an upload has arrived, if it has this SHA-256. It is durable before it is read for
    /// that, and complete after: nobody deploys what was not checked, whenever the process ends. One that has another is
    /// forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::DigestMismatch`]; otherwise as [`Append::complete`].
    pub async fn complete_as(&self, append: Append, expected: [u8; 32]) -> Result<BlobInfo, Error> {
        let (id, blobs) = (append.id(), &self.inner.blobs);
        let (ingest, mut turn) = append.ended().await?;
        let bytes = ingest.suspend().await?;
        // Whoever takes it over says by itself what it is to be, and this is read for nobody then.
        let actual = tokio::select! {
            biased;
            () = turn.lost() => return Err(Error::TakenOver),
            actual = self.inner.digesting(blobs.upload_sha256(id, bytes)) => actual.map_err(gone(id))?,
        };
        let expected = Digest::from(expected);
        if turn.is_lost() {
            return Err(Error::TakenOver);
        }
        if actual != expected {
            blobs.cancel_upload(id).await?;
            return Err(Error::DigestMismatch {
                algorithm: "sha256",
                expected: expected.to_string(),
                actual: actual.to_string(),
            });
        }
        let ingest = blobs.append(id).await.map_err(gone(id))?;
        if ingest.received() != bytes {
            ingest.suspend().await?;
            return Err(Error::TakenOver);
        }
        Ok(ingest.finish().await?)
    }

    /// The bytes of a complete upload, which stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not complete.
    pub async fn upload_reader(&self, upload: &UploadView) -> Result<PackageReader, Error> {
        if !upload.complete {
            return Err(incomplete(upload));
        }
        let reader = self.inner.blobs.reader(upload.id).await?;
        Ok(PackageReader::new(
            upload.offset,
            upload.media_type.clone(),
            reader,
        ))
    }

    /// Accepts a deployment whose package is a complete upload, which is no upload any more once the package is recorded.
    /// The intake wants no bytes, and to be finished. `once` is whose request it is and its key, for one that may be sent again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Conflict`] when it is not complete or somebody else deploys it. When the head, a plugin
    /// or a request is refused, the upload stays.
    pub async fn begin_upload(
        &self,
        project: &ProjectName,
        head: Head,
        (claim, upload): (UploadClaim, &UploadView),
        once: Option<(Uuid, IdempotencyKey)>,
    ) -> Result<Intake, Error> {
        if !upload.complete {
            return Err(incomplete(upload));
        }
        let (inner, id) = (Arc::clone(&self.inner), claim.id());
        let blob = inner.blobs.blob(id).await?.ok_or_else(|| unknown(id))?;
        let bytes = blob.bytes;
        let package = (upload.media_type.clone(), inner.blobs.adopt(blob));
        let mut intake = inner.begin_stored(project, head, package, once).await?;
        intake.is_upload(claim, bytes);
        Ok(intake)
    }

    /// Claims an upload, which may be gone before: whoever has the claim looks again.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when somebody else deploys or removes it.
    pub fn claim_upload(&self, id: UploadId) -> Result<UploadClaim, Error> {
        self.inner.claims.claim(id).ok_or_else(|| taken(id))
    }

    /// The same for who waits to see what becomes of it: a request that may be sent again.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when somebody else has it for good.
    pub async fn claim_upload_when_free(&self, id: UploadId) -> Result<UploadClaim, Error> {
        let claim = self.inner.claims.claim_when_free(id).await;
        claim.ok_or_else(|| taken(id))
    }

    /// Forgets an upload that nobody writes to.
    ///
    /// # Errors
    ///
    /// When the index cannot be written.
    pub async fn discard_upload(&self, claim: UploadClaim) -> Result<(), Error> {
        self.inner.blobs.cancel_upload(claim.id()).await?;
        Ok(())
    }
}

impl Inner {
    /// Takes the uploads whose deployments have recorded their packages: the last run stopped right in between.
    pub(crate) async fn take_deployed_uploads(&self) -> Result<(), Error> {
        let complete = self.blobs.complete_uploads().await?;
        if complete.is_empty() {
            return Ok(());
        }
        let named = match storage::named(&self.ledger).await {
            Ok(named) => named,
            // One record that cannot be read must not keep the others from going on.
            Err(error @ Error::Damaged { .. }) => {
                tracing::error!(
                    error = error.chain(),
                    "which uploads were deployed is not known: they are left as they are until the next start"
                );
                let claims = complete.into_iter().filter_map(|id| self.claims.claim(id));
                claims.for_each(UploadClaim::keep);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for id in complete.into_iter().filter(|id| named.contains(id)) {
            self.blobs.take_upload(id).await?;
        }
        Ok(())
    }

    /// Waits for its turn: somebody may ask for the digests of many large uploads.
    async fn digesting<T>(&self, work: impl Future<Output = T>) -> T {
        // It is never closed.
        let _turn = self.digests.acquire().await;
        work.await
    }

    /// Forgets uploads whose time is over, and says how many.
    async fn expire(&self) -> Result<u64, Error> {
        let mut forgotten = 0;
        for id in self.blobs.expired_uploads().await? {
            if let Some(_claim) = self.claims.claim(id) {
                forgotten += u64::from(self.blobs.cancel_upload(id).await?);
            }
        }
        Ok(forgotten)
    }
}

fn taken(id: UploadId) -> Error {
    Error::Conflict {
        message: format!("upload {id} is being deployed or removed"),
    }
}

fn unknown(id: UploadId) -> Error {
    Error::NotFound {
        what: format!("upload {id}"),
    }
}

/// What an error of the store is for an upload that may have gone meanwhile.
fn gone(id: UploadId) -> impl Fn(cofferdam_blobs::Error) -> Error {
    move |error| match error {
        cofferdam_blobs::Error::NotFound { .. } => unknown(id),
        other => other.into(),
    }
}

fn incomplete(upload: &UploadView) -> Error {
    Error::Conflict {
        message: format!(
            "upload {} is not complete: {} bytes of it are here",
            upload.id, upload.offset
        ),
    }
}

/// Forgets uploads whose time is over, for as long as there is a host.
pub(super) async fn expire_uploads(host: Weak<Inner>, kept: Duration) {
    let pause = kept.clamp(SHORTEST_CHECK, EXPIRY_CHECK);
    loop {
        let Some(inner) = host.upgrade() else { return };
        match inner.expire().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "uploads that nobody went on with have expired"),
            Err(error) => tracing::error!(%error, "expired uploads could not be forgotten"),
        }
        drop(inner);
        tokio::time::sleep(pause).await;
    }
}
