//! The audit log: who did what.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::read::{MAX_PAGE, id, number, read_error};
use crate::{Error, Ledger};

/// How many rows are kept: years of people at work, and some 30 MB. Past it the oldest go.
pub const MAX_AUDIT_ROWS: u64 = 100_000;

/// Something that somebody did, about to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAudit {
    /// When, in milliseconds since the epoch.
    pub at: i64,
    /// The token by which it was done; nothing when the host did it by itself.
    pub token: Option<Uuid>,
    /// What the token is called, if it has a name.
    pub token_name: Option<String>,
    /// The address from which it was asked for.
    pub address: Option<String>,
    /// What was done, a word of the caller's.
    pub action: String,
    /// The project that it was done to.
    pub project: Option<String>,
    /// What in particular: a deployment, a secret's name, a plugin.
    pub target: Option<String>,
    /// Anything more.
    pub detail: Option<String>,
}

/// A row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number; later rows have larger ones.
    pub number: u64,
    /// What was done, and by whom.
    pub entry: NewAudit,
}

/// Which rows of the audit log to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only what was done to this project.
    pub project: Option<String>,
    /// Only rows older than this one: the last number of the page before.
    pub before: Option<u64>,
    /// How many at most; [`MAX_PAGE`] caps it.
    pub limit: u32,
}

macro_rules! rows {
    ($rest:literal) => {
        concat!(
            "SELECT number, at, token, token_name, address, action, project, target, detail FROM audit ",
            $rest
        )
    };
}

/// Adds a row, and removes what is too old to be kept.
pub(crate) async fn append(
    transaction: &mut SqliteConnection,
    entry: &NewAudit,
) -> Result<(), Error> {
    let number: i64 = sqlx::query_scalar(
        "INSERT INTO audit (number, at, token, token_name, address, action, project, target, detail) \
         SELECT COALESCE(MAX(number), 0) + 1, $1, $2, $3, $4, $5, $6, $7, $8 FROM audit \
         RETURNING number",
    )
    .bind(entry.at)
    .bind(entry.token.map(|id| id.to_string()))
    .bind(&entry.token_name)
    .bind(&entry.address)
    .bind(&entry.action)
    .bind(&entry.project)
    .bind(&entry.target)
    .bind(&entry.detail)
    .fetch_one(&mut *transaction)
    .await?;
    let kept = i64::try_from(MAX_AUDIT_ROWS).unwrap_or(i64::MAX);
    sqlx::query("DELETE FROM audit WHERE number <= $1")
        .bind(number.saturating_sub(kept))
        .execute(transaction)
        .await?;
    Ok(())
}

impl Ledger {
    /// One page of the audit log, newest first.
    ///
    /// # Errors
    ///
    /// As every read: [`Error::Corrupt`], [`Error::Closed`] and [`Error::Database`].
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, Error> {
        let before = filter
            .before
            .and_then(|before| i64::try_from(before).ok())
            .unwrap_or(i64::MAX);
        let limit = i64::from(filter.limit.min(MAX_PAGE));
        let query = match &filter.project {
            None => sqlx::query(rows!("WHERE number < $1 ORDER BY number DESC LIMIT $2"))
                .bind(before)
                .bind(limit),
            Some(project) => sqlx::query(rows!(
                "WHERE project = $3 AND number < $1 ORDER BY number DESC LIMIT $2"
            ))
            .bind(before)
            .bind(limit)
            .bind(project),
        };
        let rows = query.fetch_all(self.readers()).await.map_err(read_error)?;
        rows.iter().map(audit).collect()
    }
}

fn audit(row: &SqliteRow) -> Result<AuditRow, Error> {
    let token: Option<&str> = row.try_get("token")?;
    Ok(AuditRow {
        number: number("audit.number", row.try_get("number")?)?,
        entry: NewAudit {
            at: row.try_get("at")?,
            token: token.map(|text| id("audit.token", text)).transpose()?,
            token_name: row.try_get("token_name")?,
            address: row.try_get("address")?,
            action: row.try_get("action")?,
            project: row.try_get("project")?,
            target: row.try_get("target")?,
            detail: row.try_get("detail")?,
        },
    })
}
