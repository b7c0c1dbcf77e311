//! What can be read of deployments: records, events and packages.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cofferdam_blobs::Reader;
use cofferdam_ledger::DeploymentFilter;

use super::{Host, Inner};
use crate::catalog::blocking;
use crate::error::Error;
use crate::events::Subscription;
use crate::name::{DeploymentId, ProjectName};
use crate::record::{Body, Record};
use crate::status::Status;

/// The most deployments in one page of a list.
pub const MAX_PAGE: u32 = 200;

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
    pub(super) fn new(bytes: u64, media_type: Option<String>, reader: Reader) -> Self {
        Self {
            bytes,
            media_type,
            reader,
        }
    }

    /// The next bytes; `None` after the last. Every byte was verified.
    ///
    /// # Errors
    ///
    /// When a chunk is damaged or cannot be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.reader.next().await?)
    }
}

impl Host {
    /// A deployment's record.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be read.
    pub async fn deployment(&self, id: DeploymentId) -> Result<Record, Error> {
        self.inner.record(id).await
    }

    /// A deployment's record without the entries of its summary, which are most of it.
    ///
    /// # Errors
    ///
    /// As [`Host::deployment`] says.
    pub async fn deployment_in_short(&self, id: DeploymentId) -> Result<Record, Error> {
        self.inner.record_in_short(id).await
    }

    /// Such a record, with the entries of its summary.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub async fn with_summary(&self, record: Record) -> Result<Record, Error> {
        self.inner.with_summary(record).await
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
}

impl Inner {
    /// The record of a deployment. One that is about to end is waited for: whoever reads that it has
    /// succeeded finds it served, and its log complete.
    pub(crate) async fn record(&self, id: DeploymentId) -> Result<Record, Error> {
        self.with_summary(self.record_in_short(id).await?).await
    }

    async fn with_summary(&self, mut record: Record) -> Result<Record, Error> {
        let (logs, id) = (self.logs.clone(), record.id.as_uuid());
        record.events.summary = blocking(move || logs.summary(id)).await??;
        Ok(record)
    }

    async fn record_in_short(&self, id: DeploymentId) -> Result<Record, Error> {
        let (mut body, mut row) = self.row(id).await?;
        if row.finished
            && let Some(live) = self.live(id)
        {
            live.ended().await;
            (body, row) = self.row(id).await?;
        }
        let mut record = body.into_record(&row)?;
        self.freshen(&mut record);
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
}
