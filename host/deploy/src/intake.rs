//! The receiving end of a package.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cofferdam_blobs::{BlobInfo, Ingest, Input};
use cofferdam_ledger::Durability;

use crate::audit::Origin;
use crate::error::Error;
use crate::faults::point;
use crate::head::ExpectedDigest;
use crate::host::Inner;
use crate::live::{Live, PackageState};
use crate::name::DeploymentId;
use crate::record::Record;
use crate::upload::UploadClaim;

/// A deployment whose package arrives. Dropping it unfinished fails the deployment with
/// `upload_interrupted`.
#[derive(Debug)]
pub struct Intake {
    host: Arc<Inner>,
    live: Arc<Live>,
    ingest: Option<Ingest>,
    expected: Option<ExpectedDigest>,
    /// The upload that the package is, until it is recorded.
    upload: Option<UploadClaim>,
}

/// Why whoever reads an upload gives it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its bytes stopped coming.
    Interrupted,
    /// It cannot be read.
    Invalid,
    /// It has more bytes than are taken.
    TooLarge,
    /// It leans on chunks that its project does not hold.
    ChunksMissing,
    /// A chunk of it is another than its list says.
    ChunkMismatch,
}

impl Refusal {
    /// The stable code of DESIGN section 7.
    fn code(self) -> &'static str {
        match self {
            Self::Interrupted => "upload_interrupted",
            Self::Invalid => "package_invalid",
            Self::TooLarge => "package_too_large",
            Self::ChunksMissing => "chunks_missing",
            Self::ChunkMismatch => "digest_mismatch",
        }
    }
}

impl Intake {
    pub(crate) fn new(
        host: Arc<Inner>,
        live: Arc<Live>,
        ingest: Ingest,
        expected: Option<ExpectedDigest>,
    ) -> Self {
        Self {
            host,
            live,
            ingest: Some(ingest),
            expected,
            upload: None,
        }
    }

    /// The deployment.
    #[must_use]
    pub fn id(&self) -> DeploymentId {
        self.live.id
    }

    /// Says that the package is an upload, whose bytes, this many, were there before the deployment was.
    pub(crate) fn is_upload(&mut self, claim: UploadClaim, bytes: u64) {
        self.upload = Some(claim);
        self.live.received.store(bytes, Ordering::Relaxed);
    }

    /// Says that the package comes as fast as the disk is: then a step that reads along would only keep it, and whoever
    /// sent it, waiting. It has no effect on one that has begun.
    pub fn settle_first(&self) {
        self.live.settles_first.store(true, Ordering::Relaxed);
    }

    /// Says whom the deployment was begun for. The first word stands; it is recorded with the package.
    pub fn attribute(&self, origin: Origin) {
        // A second word is not heard.
        let _ = self.live.origin.set(origin);
    }

    /// The deployment's record as it is now.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn record(&self) -> Result<Record, Error> {
        self.host.record(self.live.id).await
    }

    /// Resolves when nobody wants the rest of the package: the deployment is about to end. [`Self::write`] says how.
    pub async fn unwanted(&self) {
        self.live.failing().await;
    }

    /// Takes the next bytes of the package, waiting for room when the disk is slower than the client.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with the final record when the deployment has ended meanwhile: nobody wants the
    /// rest. Otherwise when the bytes cannot be stored, which ends the deployment too.
    pub async fn write(&mut self, bytes: impl Into<Input>) -> Result<(), Error> {
        let bytes = bytes.into();
        let Some(ingest) = &mut self.ingest else {
            return Err(self.over().await);
        };
        let length = bytes.len() as u64;
        let written = tokio::select! {
            biased;
            () = self.live.failing() => None,
            written = ingest.write(bytes) => Some(written),
        };
        match written {
            Some(Ok(())) => {
                self.live.received.fetch_add(length, Ordering::Relaxed);
                Ok(())
            }
            Some(Err(error)) => {
                let error = Error::from(error);
                self.abandon(&error);
                Err(error)
            }
            None => {
                self.ingest = None;
                self.live.package.send_replace(PackageState::Broken);
                Err(self.over().await)
            }
        }
    }

    /// Says that every byte has been given. Returns once the package is durable and its digests are those
    /// that the head promised; the pipeline goes on by itself.
    ///
    /// # Errors
    ///
    /// As [`Self::write`]; [`Error::Failed`] with `digest_mismatch` when the digests differ.
    pub async fn finish(mut self) -> Result<Record, Error> {
        let Some(ingest) = self.ingest.take() else {
            return Err(self.over().await);
        };
        self.live.package.send_replace(PackageState::Settling);
        let info = match ingest.finish().await {
            Ok(info) => info,
            Err(error) => {
                let error = Error::from(error);
                self.abandon(&error);
                return Err(error);
            }
        };
        point("package-stored");
        let mut facts = info.clone();
        let promised = self.expected.as_ref();
        let checked = match promised.is_some_and(|promised| promised.sha256.is_some()) {
            true if facts.sha256.is_none() => match self.host.blobs.sha256(info.id).await {
                Ok(sha256) => {
                    facts.sha256 = Some(sha256);
                    check(&facts, promised)
                }
                Err(error) => Err(error.into()),
            },
            _ => check(&facts, promised),
        };
        if let Err(error) = checked {
            self.abandon(&error);
            match &self.upload {
                Some(upload) if matches!(error, Error::DigestMismatch { .. }) => {
                    self.host.blobs.cancel_upload(upload.id()).await?;
                }
                // What could not be read may be the next time.
                Some(_) => {}
                None => {
                    self.host.blobs.remove(info.id).await?;
                }
            }
            return Err(self.over().await);
        }
        let recorded = self
            .live
            .record(Durability::Power, Vec::new(), |body| {
                body.blob = Some(facts.id);
                body.package.bytes = Some(facts.bytes);
                body.package.blake3 = Some(facts.blake3.to_string());
                body.package.sha256 = facts.sha256.map(|sha256| sha256.to_string());
            })
            .await;
        match recorded {
            Ok(_) => {}
            Err(Error::Ledger(cofferdam_ledger::Error::Finished { .. })) => {
                // It ended between the last byte and now, so nothing refers to the blob; an upload may be deployed again.
                if self.upload.is_none() {
                    self.host.blobs.remove(info.id).await?;
                }
                return Err(self.over().await);
            }
            Err(error) => {
                self.abandon(&error);
                return Err(error);
            }
        }
        point("package-recorded");
        if let Some(upload) = self.upload.take()
            && let Err(error) = self.host.blobs.take_upload(upload.id()).await
        {
            tracing::error!(upload = %upload.id(), %error, "an upload that was deployed stays until the next start");
            upload.keep();
        }
        self.live.log.sync().await?;
        self.host.queue.settle(&self.live.project, self.live.id);
        let record = self.host.record(self.live.id).await;
        self.live.package.send_replace(PackageState::Durable);
        record
    }

    /// Ends the deployment because the rest of its package is not wanted, with a sentence that says why.
    pub fn refuse(mut self, refusal: Refusal, message: impl Into<String>) {
        if self.ingest.is_some() {
            self.live.stop(refusal.code(), message);
            self.live.package.send_replace(PackageState::Broken);
            // Only now: whoever follows the bytes would give a reason of its own.
            self.ingest = None;
        }
    }

    /// Ends the deployment because its package cannot be had.
    fn abandon(&self, error: &Error) {
        match error.code() {
            "internal" => {
                tracing::error!(deployment = %self.live.id, error = error.chain(), "a package cannot be stored");
                self.live.stop(
                    "internal",
                    "the host could not store the package; its log says why",
                );
            }
            "storage_full" => self.live.stop("storage_full", error.to_string()),
            "digest_mismatch" => self.live.stop("digest_mismatch", error.to_string()),
            _ => self.live.stop("upload_interrupted", error.to_string()),
        }
        self.live.package.send_replace(PackageState::Broken);
    }

    /// The end of the deployment as an error.
    async fn over(&self) -> Error {
        self.live.ended().await;
        match self.host.record(self.live.id).await {
            Ok(record) => Error::Failed {
                record: Box::new(record),
            },
            Err(error) => error,
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if self.ingest.is_some() {
            let received = self.live.received.load(Ordering::Relaxed);
            self.abandon(&Error::UploadInterrupted { received });
        }
    }
}

fn check(info: &BlobInfo, expected: Option<&ExpectedDigest>) -> Result<(), Error> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let pairs = [
        ("blake3", &expected.blake3, Some(info.blake3)),
        ("sha256", &expected.sha256, info.sha256),
    ];
    for (algorithm, expected, actual) in pairs {
        let actual = actual.map_or_else(|| "not known".to_owned(), |digest| digest.to_string());
        if let Some(expected) = expected
            && *expected != actual
        {
            return Err(Error::DigestMismatch {
                algorithm,
                expected: expected.clone(),
                actual,
            });
        }
    }
    Ok(())
}
