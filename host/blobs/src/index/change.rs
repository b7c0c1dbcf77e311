//! Changing the index: one connection, one transaction at a time, and each commit passes the disk's edge.

use std::ops::{Deref, DerefMut};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Sqlite, SqliteConnection, Transaction};

use super::Index;
use crate::Error;

/// The connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    options: SqliteConnectOptions,
    /// Absent after a failure, until it can be renewed.
    pub(super) connection: Option<SqliteConnection>,
}

impl Writer {
    pub(super) fn new(options: SqliteConnectOptions, connection: SqliteConnection) -> Writer {
        Writer {
            options,
            connection: Some(connection),
        }
    }

    pub(super) async fn close(self) {
        if let Some(connection) = self.connection {
            // One that cannot be closed well is closed all the same.
            let _ = connection.close().await;
        }
    }

    /// The connection, with no transaction on it.
    ///
    /// When the disk is full, or fails, `SQLite` may undo a transaction by itself. The driver still counts it then,
    /// and could never begin another one: such a connection is replaced.
    pub(super) async fn sound(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        if let Some(connection) = &mut self.connection
            && (connection.ping().await.is_err() || connection.is_in_transaction())
        {
            tracing::warn!("the chunk index's connection is renewed after a failure");
            self.connection = None;
        }
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(SqliteConnection::connect_with(&self.options).await?)),
        }
    }
}

/// Changes that are made together or, dropped, not at all.
pub(crate) struct Change<'a> {
    index: &'a Index,
    action: &'static str,
    transaction: Transaction<'a, Sqlite>,
}

impl Index {
    /// Begins a change; `action` says what it is, as a participle. No other is made meanwhile.
    pub(super) async fn begin<'a>(
        &'a self,
        writer: &'a mut Writer,
        action: &'static str,
    ) -> Result<Change<'a>, Error> {
        let failed = self.failed(action);
        let connection = writer.sound().await.map_err(&failed)?;
        let transaction = connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(&failed)?;
        Ok(Change {
            index: self,
            action,
            transaction,
        })
    }
}

impl Change<'_> {
    /// Makes the changes durable. When this fails they may have been made all the same, as with any commit.
    pub(super) async fn commit(self) -> Result<(), Error> {
        let Index { disk, path, .. } = self.index;
        disk.before_commit(path)
            .map_err(|source| Error::io(self.action, path, source))?;
        self.transaction
            .commit()
            .await
            .map_err(self.index.failed(self.action))?;
        disk.after_commit()
            .map_err(|source| Error::io(self.action, path, source))
    }
}

impl Deref for Change<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.transaction
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }
}
