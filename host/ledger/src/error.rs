//! What can go wrong with the ledger.

use std::{fmt, path::PathBuf};

use uuid::Uuid;

use crate::Kind;

/// Why the ledger refused or failed.
///
/// The first group is the caller's to handle, and leaves the ledger as it was; the rest is the machine's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else changed the deployment since the caller read it. Read it again and decide anew.
    #[error("deployment {id} is at version {found}, the change expected version {expected}")]
    Conflict {
        /// The deployment.
        id: Uuid,
        /// The version the caller had seen.
        expected: u64,
        /// The version in the ledger.
        found: u64,
    },

    /// The project's active release is not the one that the change was to replace.
    #[error(
        "project {project} serves {}, the change expected {}",
        Release(found),
        Release(expected)
    )]
    ActiveConflict {
        /// The project.
        project: String,
        /// The release the caller had seen active.
        expected: Option<Uuid>,
        /// The release that is active.
        found: Option<Uuid>,
    },

    /// A finished deployment is for ever: nothing changes it.
    #[error("deployment {id} has ended as {status:?}, which nothing can change")]
    Finished {
        /// The deployment.
        id: Uuid,
        /// How it ended.
        status: String,
    },

    /// The record a change refers to does not exist.
    #[error("there is no {kind} {key:?}")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// Its key.
        key: String,
    },

    /// A record with this key is there already.
    #[error("{kind} {key:?} exists already")]
    Exists {
        /// What was to be inserted.
        kind: Kind,
        /// Its key.
        key: String,
    },

    /// A release was to be recorded for, or made active in, a project that it does not belong to.
    #[error("release {id} belongs to project {owner:?}, not to {project:?}")]
    ForeignRelease {
        /// The release.
        id: Uuid,
        /// The project that was named.
        project: String,
        /// The project the release belongs to.
        owner: String,
    },

    /// A project's lease was to be taken, and somebody has it.
    #[error("deployment {deployment} has the lease of project {project}, and {owner} runs it")]
    Leased {
        /// The project.
        project: String,
        /// The deployment that runs.
        deployment: Uuid,
        /// The process that runs it.
        owner: String,
    },

    /// Whoever wanted to record something lost the lease under which it does so. It must stop.
    #[error("the lease {fence} of project {project} is lost; {}", Fence(found))]
    Fenced {
        /// The project.
        project: String,
        /// The lease that it had.
        fence: u64,
        /// The lease that there is.
        found: Option<u64>,
    },

    /// A number is larger than the ledger's columns hold.
    #[error("{what} is {value}, and at most {} can be recorded", i64::MAX)]
    OutOfRange {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
    },

    /// The ledger was closed.
    #[error("the ledger is closed")]
    Closed,

    /// The disk that holds the ledger is full. Nothing of the commit was recorded.
    #[error("no space left for the ledger: make room on its disk and try again")]
    Full,

    /// The ledger was written by a newer host.
    #[error(
        "the ledger at {path} has format {found}, this host knows up to {known}: run the newer host"
    )]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// The format it has.
        found: u64,
        /// The newest format this host knows.
        known: u64,
    },

    /// The file is a database of something else, or no database.
    #[error("{path} is not a ledger: {why}")]
    NotALedger {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },

    /// The linked `SQLite` has a bug that can corrupt the ledger.
    #[error(
        "SQLite {found} is linked, which can corrupt a write-ahead log; {} or later is needed",
        crate::database::SQLITE_NEEDED
    )]
    SqliteTooOld {
        /// The version that is linked.
        found: String,
    },

    /// What is recorded cannot be true. Restore the ledger from a backup.
    #[error("the ledger is damaged: {what}")]
    Corrupt {
        /// What was found.
        what: String,
    },

    /// The database failed. When a commit answers this, whether it was recorded is not known until the
    /// ledger is read again.
    #[error("the ledger's database failed: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// `SQLite`'s primary result codes that mean something to a person.
mod code {
    pub(super) const CORRUPT: i64 = 11;
    pub(super) const FULL: i64 = 13;
    pub(super) const NOTADB: i64 = 26;
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        match primary_code(&error) {
            Some(code::FULL) => Error::Full,
            Some(code::CORRUPT | code::NOTADB) => Error::Corrupt {
                what: error.to_string(),
            },
            _ => Error::Database(Box::new(error)),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Error {
        use sqlx::migrate::MigrateError;
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            // The format row was read before: a migration that is unknown or changed under the same
            // format was not made by any host.
            other => Error::Corrupt {
                what: other.to_string(),
            },
        }
    }
}

/// Whether the file turned out to be no `SQLite` database at all.
pub(crate) fn is_no_database(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(code::NOTADB)
}

/// `SQLite`'s primary result code: the low byte of the extended one.
fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Says which lease there is, or that there is none.
struct Fence<'a>(&'a Option<u64>);

impl fmt::Display for Fence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(fence) => write!(f, "now it is {fence}"),
            None => f.write_str("now nobody has it"),
        }
    }
}

/// Says which release, or that there is none.
struct Release<'a>(&'a Option<Uuid>);

impl fmt::Display for Release<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "release {id}"),
            None => f.write_str("no release"),
        }
    }
}
