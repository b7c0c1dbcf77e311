//! Opening the database file: everything that is particular to `SQLite`.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use crate::{Error, error::is_no_database};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The newest format this crate knows: what the last migration writes into the `format` row.
const FORMAT: i64 = 42;

/// "COFF", written by the first migration.
const APPLICATION_ID: i64 = 0x434f_4646;

/// Earlier versions can corrupt a write-ahead log when one connection writes while another checkpoints.
pub(crate) const SQLITE_NEEDED: Version = Version(3, 51, 3);

/// How long a connection waits for another's lock. The only other writer there can be is a person with a
/// database shell.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reading connections. Reads are short, and the machine that outgrows this has other bottlenecks.
const READERS: u32 = 4;

/// Leaves 16 MiB of the write-ahead log after a checkpoint; without it the file keeps the size of its
/// worst day.
const JOURNAL_LIMIT: &str = "PRAGMA journal_size_limit = 16777216";

/// A version of `SQLite`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some(Version(parts.next()??, parts.next()??, parts.next()??))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .disable_statement_logging()
}

/// Opens the file for writing: judges it before the first byte is changed, and migrates it.
pub(crate) async fn open(path: &Path) -> Result<SqliteConnection, Error> {
    let mut connection = options(path).create_if_missing(true).connect().await?;
    require_version(&mut connection, path).await?;
    require_ledger(&mut connection, path).await?;
    log_ahead(&mut connection).await?;
    MIGRATIONS.run(&mut connection).await?;
    sync_directory(path.to_owned()).await?;
    Ok(connection)
}

/// Opens another writing connection to a file that [`open`] has judged.
pub(crate) async fn reopen(path: &Path) -> Result<SqliteConnection, Error> {
    let mut connection = options(path).connect().await?;
    log_ahead(&mut connection).await?;
    Ok(connection)
}

/// Opens the reading connections.
pub(crate) async fn readers(path: &Path) -> Result<SqlitePool, Error> {
    let pool = SqlitePoolOptions::new()
        .max_connections(READERS)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options(path).read_only(true))
        .await?;
    Ok(pool)
}

async fn require_version(connection: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    // The first statement, so it is the one that finds out that the file is no database.
    let found: Result<String, _> = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(connection)
        .await;
    let found = match found {
        Err(error) if is_no_database(&error) => {
            return Err(Error::NotALedger {
                path: path.to_owned(),
                why: "it is not a database".to_owned(),
            });
        }
        other => other?,
    };
    match Version::parse(&found) {
        Some(version) if version >= SQLITE_NEEDED => Ok(()),
        _ => Err(Error::SqliteTooOld { found }),
    }
}

/// An empty file becomes a ledger; any other must be one, of a format that is known.
async fn require_ledger(connection: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master")
        .fetch_one(&mut *connection)
        .await?;
    let id: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    if id != APPLICATION_ID {
        // A first start that was killed between two steps of the migration leaves the migrator's own,
        // empty table and nothing else.
        let begun: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM sqlite_master WHERE name LIKE '%_sqlx_migrations%'",
        )
        .fetch_one(&mut *connection)
        .await?;
        if id == 0 && tables == begun {
            return Ok(());
        }
        return Err(Error::NotALedger {
            path: path.to_owned(),
            why: "it is a database of another program".to_owned(),
        });
    }
    let found: i64 = sqlx::query_scalar("SELECT version FROM format")
        .fetch_one(&mut *connection)
        .await?;
    if found > FORMAT {
        return Err(Error::TooNew {
            path: path.to_owned(),
            found: found.unsigned_abs(),
            known: FORMAT.unsigned_abs(),
        });
    }
    Ok(())
}

/// Turns the write-ahead log on, with full sync until a commit asks for less.
async fn log_ahead(connection: &mut SqliteConnection) -> Result<(), Error> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode = WAL")
        .fetch_one(&mut *connection)
        .await?;
    if mode != "wal" {
        return Err(Error::Database(
            format!(
                "its disk does not support a write-ahead log (the journal mode stayed {mode:?})"
            )
            .into(),
        ));
    }
    for pragma in ["PRAGMA synchronous = FULL", JOURNAL_LIMIT] {
        sqlx::query(pragma).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Makes the file's name durable: `SQLite` syncs what it writes, not the directory it created the file in.
async fn sync_directory(path: PathBuf) -> Result<(), Error> {
    let synced = tokio::task::spawn_blocking(move || {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::File::open(directory)?.sync_all()
    })
    .await;
    match synced {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::Database(Box::new(error))),
        Err(error) => Err(Error::Database(Box::new(error))),
    }
}

/// Sets how much the next transactions are synced. Not to be called within one.
pub(crate) async fn set_full_sync(
    connection: &mut SqliteConnection,
    full: bool,
) -> Result<(), Error> {
    let pragma = if full {
        "PRAGMA synchronous = FULL"
    } else {
        "PRAGMA synchronous = NORMAL"
    };
    sqlx::query(pragma).execute(connection).await?;
    Ok(())
}

/// Closes a connection for good. The last one to close checkpoints the log.
pub(crate) async fn close(connection: SqliteConnection) {
    if let Err(error) = connection.close().await {
        // Nothing is lost: the log is replayed when the file is next opened.
        tracing::warn!(%error, "the ledger's connection did not close cleanly");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(Version::parse("3.51.3").unwrap() == SQLITE_NEEDED);
        assert!(Version::parse("3.51.10").unwrap() > SQLITE_NEEDED);
        assert!(Version::parse("3.9.99").unwrap() < SQLITE_NEEDED);
        assert!(Version::parse("3.51").is_none());
        assert!(Version::parse("three").is_none());
    }
}
