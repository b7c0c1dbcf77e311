//! Who is told of what happens to a project, and what is still to be told.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::read::{MAX_PAGE, id, number, read_error};
use crate::{Error, Ledger};

/// Deliveries of one project that may wait. A receiver that is away for longer misses what comes after.
pub const MAX_WAITING_DELIVERIES: u32 = 1000;

/// Where a project's news go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRow {
    /// The project.
    pub project: String,
    /// Where they are posted to.
    pub url: String,
    /// The key of their signatures, encrypted by whoever wrote it.
    pub sealed: Vec<u8>,
    /// When it was first set, in milliseconds since the epoch.
    pub created_at: i64,
    /// When it was last set, in milliseconds since the epoch.
    pub updated_at: i64,
}

/// Something that is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its id, by which a receiver knows one that it has had.
    pub id: Uuid,
    /// The project that it is about.
    pub project: String,
    /// What is posted, JSON.
    pub body: String,
    /// When it happened, in milliseconds since the epoch.
    pub created_at: i64,
    /// How often it was tried in vain.
    pub attempts: u64,
    /// When to try next, in milliseconds since the epoch.
    pub next_at: i64,
    /// Why the last attempt was in vain.
    pub error: Option<String>,
}

pub(crate) async fn put(transaction: &mut SqliteConnection, row: &WebhookRow) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO webhooks (project, url, sealed, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (project) DO UPDATE \
         SET url = excluded.url, sealed = excluded.sealed, updated_at = excluded.updated_at",
    )
    .bind(&row.project)
    .bind(&row.url)
    .bind(&row.sealed)
    .bind(row.created_at)
    .bind(row.updated_at)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Forgets where a project's news go, and what was still to be told.
pub(crate) async fn remove(transaction: &mut SqliteConnection, project: &str) -> Result<(), Error> {
    for statement in [
        "DELETE FROM outbox WHERE project = $1",
        "DELETE FROM webhooks WHERE project = $1",
    ] {
        sqlx::query(statement)
            .bind(project)
            .execute(&mut *transaction)
            .await?;
    }
    Ok(())
}

/// Puts a delivery where it waits, if anybody wants it and not too many do already.
pub(crate) async fn enqueue(
    transaction: &mut SqliteConnection,
    row: &DeliveryRow,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO outbox (id, project, body, created_at, attempts, next_at, error) \
         SELECT $1, $2, $3, $4, 0, $5, NULL \
         WHERE EXISTS (SELECT 1 FROM webhooks WHERE project = $2) \
           AND (SELECT count(*) FROM outbox WHERE project = $2) < $6 \
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(row.id.to_string())
    .bind(&row.project)
    .bind(&row.body)
    .bind(row.created_at)
    .bind(row.next_at)
    .bind(i64::from(MAX_WAITING_DELIVERIES))
    .execute(transaction)
    .await?;
    Ok(())
}

pub(crate) async fn postpone(
    transaction: &mut SqliteConnection,
    delivery: Uuid,
    next_at: i64,
    error: &str,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE outbox SET attempts = attempts + 1, next_at = $2, error = $3 WHERE id = $1",
    )
    .bind(delivery.to_string())
    .bind(next_at)
    .bind(error)
    .execute(transaction)
    .await?;
    Ok(())
}

pub(crate) async fn dequeue(
    transaction: &mut SqliteConnection,
    delivery: Uuid,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM outbox WHERE id = $1")
        .bind(delivery.to_string())
        .execute(transaction)
        .await?;
    Ok(())
}

macro_rules! outbox {
    ($rest:literal) => {
        concat!(
            "SELECT id, project, body, created_at, attempts, next_at, error FROM outbox ",
            $rest
        )
    };
}

/// # Webhooks
///
/// # Errors
///
/// As every read: [`Error::Corrupt`], [`Error::Closed`] and [`Error::Database`].
impl Ledger {
    /// Where a project's news go, if anywhere.
    pub async fn webhook(&self, project: &str) -> Result<Option<WebhookRow>, Error> {
        let row = sqlx::query(
            "SELECT project, url, sealed, created_at, updated_at FROM webhooks WHERE project = $1",
        )
        .bind(project)
        .fetch_optional(self.readers())
        .await
        .map_err(read_error)?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(Some(WebhookRow {
            project: row.try_get("project")?,
            url: row.try_get("url")?,
            sealed: row.try_get("sealed")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        }))
    }

    /// The deliveries that are due, the oldest of each project: one that nobody takes holds up no other's.
    pub async fn due_deliveries(&self, now: i64, limit: u32) -> Result<Vec<DeliveryRow>, Error> {
        let rows = sqlx::query(outbox!(
            "WHERE id IN (SELECT MIN(id) FROM outbox WHERE next_at <= $1 GROUP BY project) \
             ORDER BY next_at, id LIMIT $2"
        ))
        .bind(now)
        .bind(i64::from(limit.min(MAX_PAGE)))
        .fetch_all(self.readers())
        .await
        .map_err(read_error)?;
        rows.iter().map(delivery).collect()
    }

    /// When the next delivery is due, in milliseconds since the epoch, if any waits.
    pub async fn next_delivery(&self) -> Result<Option<i64>, Error> {
        let next: Option<i64> = sqlx::query_scalar("SELECT MIN(next_at) FROM outbox")
            .fetch_one(self.readers())
            .await
            .map_err(read_error)?;
        Ok(next)
    }

    /// The deliveries of a project that wait, oldest first.
    pub async fn deliveries_of(&self, project: &str) -> Result<Vec<DeliveryRow>, Error> {
        let rows = sqlx::query(outbox!(
            "WHERE project = $1 ORDER BY created_at, id LIMIT $2"
        ))
        .bind(project)
        .bind(i64::from(MAX_PAGE))
        .fetch_all(self.readers())
        .await
        .map_err(read_error)?;
        rows.iter().map(delivery).collect()
    }
}

fn delivery(row: &SqliteRow) -> Result<DeliveryRow, Error> {
    Ok(DeliveryRow {
        id: id("outbox.id", row.try_get("id")?)?,
        project: row.try_get("project")?,
        body: row.try_get("body")?,
        created_at: row.try_get("created_at")?,
        attempts: number("outbox.attempts", row.try_get("attempts")?)?,
        next_at: row.try_get("next_at")?,
        error: row.try_get("error")?,
    })
}
