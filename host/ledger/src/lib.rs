//! The ledger: durable records and their change feed.
//!
//! What a host must not forget is here: deployments, releases, which release a project serves, admitted
//! plugins, sealed secrets, tokens, and who may deploy to a project now. It knows nothing of what they mean. It keeps their rules, though: a batch of
//! changes happens entirely or not at all, a record changes only if it still is what the caller saw, a
//! finished deployment is for ever, and a project serves only a release of its own.
//!
//! # Layout
//!
//! - [`Ledger`]: open, commit, read, close
//! - `record`: the rows, [`DeploymentRow`] and its kin
//! - `change`: what a commit is made of, [`Change`], and what it survives, [`Durability`]
//! - `database`: opening the file: the `SQLite` version, whether it is a ledger, its format, migrations
//! - `writer`: the one task that writes, and how each change is applied
//! - `read`: the queries, and the feed
//! - `audit`, `releases`, `webhooks`: who did what, what became of releases, and who is told; none of it in the feed
//! - `snapshot`: a copy for a backup, taken from beside a running host
//! - `error`: [`Error`]
//!
//! # Commits
//!
//! All commits go through one task that owns the one writing connection. Each is a transaction that first
//! takes the next number from the head row, so numbers follow the order of commits with no gap, and a
//! reader's cursor says exactly what it has seen:
//!
//! ```
//! use cofferdam_ledger::{Change, Durability, Ledger, NewDeployment};
//! use uuid::Uuid;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let ledger = Ledger::open(&dir.path().join("ledger.db")).await?;
//! let id = Uuid::now_v7();
//! let commit = ledger
//!     .commit(
//!         Durability::Power,
//!         vec![
//!             Change::PutProject { name: "blog".into(), created_at: 0 },
//!             Change::InsertDeployment(NewDeployment {
//!                 id,
//!                 project: "blog".into(),
//!                 status: "queued".into(),
//!                 created_at: 0,
//!                 body: "{}".into(),
//!             }),
//!         ],
//!     )
//!     .await?;
//! assert_eq!(commit.number(), 1);
//! assert_eq!(ledger.deployment(id).await?.map(|row| row.version), Some(1));
//! # ledger.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Queries and columns are those that Postgres understands too; what is particular to `SQLite` is in
//! `database` and in `migrations/sqlite`.

mod audit;
mod change;
mod database;
mod error;
mod read;
mod record;
mod releases;
mod snapshot;
mod webhooks;
mod writer;

use std::{path::Path, sync::Arc};

use sqlx::SqlitePool;
use tokio::sync::{mpsc, oneshot};

pub use audit::{AuditFilter, AuditRow, MAX_AUDIT_ROWS, NewAudit};
pub use change::{Beside, Change, Commit, Durability};
pub use error::Error;
pub use read::MAX_PAGE;
pub use record::{
    ChangeRow, DeploymentFilter, DeploymentRow, HoldRow, IdempotencyRow, Kind, LeaseRow,
    NewDeployment, PluginRow, ProjectRow, ReleaseRow, SecretRow, TokenRow,
};
pub use releases::{ActivationRow, MAX_ACTIVATIONS, NewActivation, ServiceRow};
pub use webhooks::{DeliveryRow, MAX_WAITING_DELIVERIES, WebhookRow};

pub use snapshot::{Health, health, snapshot};

use writer::Message;

/// Commits that may wait for the writer; more wait for room. Each is answered in a few milliseconds, so a
/// longer queue would only hide a disk that has stopped.
const QUEUE: usize = 64;

/// A handle on the ledger. Clones share it.
#[derive(Debug, Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    writer: mpsc::Sender<Message>,
    readers: SqlitePool,
}

impl Ledger {
    /// Opens the ledger in this file, creating it or bringing it to the present format first.
    ///
    /// The caller sees to it that one process at a time has it open.
    ///
    /// # Errors
    ///
    /// [`Error::SqliteTooOld`], [`Error::TooNew`], [`Error::NotALedger`] and [`Error::Corrupt`] without
    /// having changed anything; [`Error::Full`] and [`Error::Database`] when the file cannot be opened or
    /// written.
    pub async fn open(path: &Path) -> Result<Ledger, Error> {
        let connection = database::open(path).await?;
        let readers = database::readers(path).await?;
        let (writer, messages) = mpsc::channel(QUEUE);
        tokio::spawn(writer::run(path.to_owned(), connection, messages));
        Ok(Ledger {
            shared: Arc::new(Shared { writer, readers }),
        })
    }

    /// Records these changes, in their order, all of them or none, and answers the commit's number.
    ///
    /// An empty list is a commit too; with [`Durability::Power`] it makes everything before it durable.
    /// Dropping the future does not take the commit back: it happens, or not, as if awaited.
    ///
    /// # Errors
    ///
    /// The first change that cannot be made, and then nothing was: [`Error::Conflict`],
    /// [`Error::ActiveConflict`], [`Error::Finished`], [`Error::NotFound`], [`Error::Exists`],
    /// [`Error::Leased`], [`Error::Fenced`],
    /// [`Error::ForeignRelease`], [`Error::OutOfRange`]. [`Error::Closed`] after [`Ledger::close`].
    /// [`Error::Full`] and [`Error::Database`] when the disk or the database fails.
    pub async fn commit(
        &self,
        durability: Durability,
        changes: Vec<Change>,
    ) -> Result<Commit, Error> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Commit {
            durability,
            changes,
            reply,
        };
        let sent = self.shared.writer.send(message).await;
        sent.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.shared.readers
    }

    /// Closes the ledger for all its handles, once the commits before this are done. What was committed
    /// is then in the database file itself. Afterwards everything answers [`Error::Closed`].
    pub async fn close(&self) {
        self.shared.readers.close().await;
        let (reply, closed) = oneshot::channel();
        if self
            .shared
            .writer
            .send(Message::Close { reply })
            .await
            .is_ok()
        {
            // An error means that it was closed meanwhile, which is what was asked for.
            let _ = closed.await;
        }
    }
}
