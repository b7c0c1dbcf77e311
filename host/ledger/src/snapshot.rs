//! A copy of a ledger for a backup, taken from beside the host that has it open.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::Error;
use crate::database::BUSY_TIMEOUT;

/// Writes a copy of the ledger in the file `from` to the new file `to`. The ledger may be open, also in another
/// process, and may be written meanwhile: the copy is of one moment, and everything that was acknowledged
/// before the call is in it. Nothing is written to `from`.
///
/// # Errors
///
/// [`Error::Database`], [`Error::Full`] or [`Error::Corrupt`] when one cannot be read or the other not written.
pub async fn snapshot(from: &Path, to: &Path) -> Result<(), Error> {
    let mut connection = SqliteConnectOptions::new()
        .filename(from)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
        .connect()
        .await?;
    sqlx::query("VACUUM INTO $1")
        .bind(to.to_string_lossy().into_owned())
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// How a ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The version of the database's library.
    pub sqlite: String,
    /// The newest time that anything in it was recorded at, in milliseconds since the epoch.
    pub newest: Option<i64>,
    /// What is wrong with the file; nothing when all of it can be read and its indexes agree.
    pub faults: Vec<String>,
}

/// Looks at every page of the ledger in this file, which may be open, also in another process. Nothing is written.
///
/// # Errors
///
/// [`Error::Database`] or [`Error::Corrupt`] when it cannot be read at all.
pub async fn health(path: &Path) -> Result<Health, Error> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
        .connect()
        .await?;
    let sqlite = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut connection)
        .await?;
    let newest =
        sqlx::query_scalar("SELECT max(coalesce(finished_at, created_at)) FROM deployments")
            .fetch_one(&mut connection)
            .await?;
    // Ten faults at most: one is enough to act on.
    let mut faults: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(10)")
        .fetch_all(&mut connection)
        .await?;
    faults.retain(|fault| fault != "ok");
    connection.close().await?;
    Ok(Health {
        sqlite,
        newest,
        faults,
    })
}
