//! The one task that writes.
//!
//! It owns the writing connection, so a commit whose caller goes away is never left half-way, and the
//! database never sees two writers.

mod apply;

use std::path::PathBuf;

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::{Change, Commit, Durability, Error, database, read::number};

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Message {
    Commit {
        durability: Durability,
        changes: Vec<Change>,
        reply: oneshot::Sender<Result<Commit, Error>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Serves messages until it is told to close or every handle is gone.
pub(crate) async fn run(
    path: PathBuf,
    connection: SqliteConnection,
    mut messages: mpsc::Receiver<Message>,
) {
    let mut writer = Writer {
        path,
        connection: Some(Connected {
            connection,
            full_sync: true,
        }),
    };
    let mut closing = None;
    while let Some(message) = messages.recv().await {
        match message {
            Message::Commit {
                durability,
                changes,
                reply,
            } => {
                // The caller may be gone; the commit stands.
                let _ = reply.send(writer.commit(durability, &changes).await);
            }
            Message::Close { reply } => {
                closing = Some(reply);
                break;
            }
        }
    }
    messages.close();
    if let Some(connected) = writer.connection.take() {
        database::close(connected.connection).await;
    }
    if let Some(reply) = closing {
        let _ = reply.send(());
    }
}

struct Writer {
    path: PathBuf,
    /// Absent after a failure of the database: the next commit starts with a fresh one.
    connection: Option<Connected>,
}

struct Connected {
    connection: SqliteConnection,
    /// What `PRAGMA synchronous` is set to.
    full_sync: bool,
}

impl Writer {
    async fn commit(
        &mut self,
        durability: Durability,
        changes: &[Change],
    ) -> Result<Commit, Error> {
        let mut connected = match self.connection.take() {
            Some(connected) => connected,
            None => Connected {
                connection: database::reopen(&self.path).await?,
                full_sync: true,
            },
        };
        let result = connected.commit(durability, changes).await;
        if result.as_ref().is_err_and(is_the_databases) {
            tracing::error!(error = ?result, "a commit failed; the ledger's connection is renewed");
            database::close(connected.connection).await;
        } else {
            self.connection = Some(connected);
        }
        result
    }
}

/// Whether the database failed, rather than the caller having asked for what cannot be done.
fn is_the_databases(error: &Error) -> bool {
    matches!(
        error,
        Error::Database(_) | Error::Full | Error::Corrupt { .. }
    )
}

impl Connected {
    async fn commit(
        &mut self,
        durability: Durability,
        changes: &[Change],
    ) -> Result<Commit, Error> {
        let full_sync = durability == Durability::Power;
        if self.full_sync != full_sync {
            database::set_full_sync(&mut self.connection, full_sync).await?;
            self.full_sync = full_sync;
        }
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        match record(&mut transaction, changes).await {
            Ok(commit) => {
                transaction.commit().await?;
                Ok(commit)
            }
            Err(error) => {
                transaction.rollback().await?;
                Err(error)
            }
        }
    }
}

/// Takes the next number, then makes the changes and tells the feed of each.
async fn record(transaction: &mut SqliteConnection, changes: &[Change]) -> Result<Commit, Error> {
    let taken: i64 =
        sqlx::query_scalar("UPDATE head SET number = number + 1 WHERE one = 1 RETURNING number")
            .fetch_one(&mut *transaction)
            .await?;
    let mut position: i64 = 0;
    for change in changes {
        let Some((kind, key)) = apply::apply(transaction, taken, change).await? else {
            continue;
        };
        sqlx::query("INSERT INTO changes (number, position, kind, key) VALUES ($1, $2, $3, $4)")
            .bind(taken)
            .bind(position)
            .bind(kind.as_str())
            .bind(key)
            .execute(&mut *transaction)
            .await?;
        position += 1;
    }
    Ok(Commit(number("head.number", taken)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test]
    async fn a_commit_is_synced_in_full_only_when_power_may_fail() {
        let dir = tempfile::tempdir().unwrap();
        let connection = database::open(&dir.path().join("ledger.db")).await.unwrap();
        let mut connected = Connected {
            connection,
            full_sync: true,
        };
        for (durability, expected) in [
            (Durability::Power, 2),
            (Durability::Process, 1),
            (Durability::Process, 1),
            (Durability::Power, 2),
        ] {
            connected.commit(durability, &[]).await.unwrap();
            let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
                .fetch_one(&mut connected.connection)
                .await
                .unwrap();
            assert_eq!(synchronous, expected, "{durability:?}");
        }
    }
}
