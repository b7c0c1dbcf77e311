//! Leases, holds and idempotency keys.

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::{column, unless_it_exists};
use crate::{
    Error, HoldRow, IdempotencyRow, Kind,
    read::{id, number},
};

/// Takes a project's lease under the number of this commit.
pub(super) async fn take(
    transaction: &mut SqliteConnection,
    commit: i64,
    project: &str,
    deployment: Uuid,
    owner: &str,
    at: i64,
) -> Result<(), Error> {
    let inserted = sqlx::query(
        "INSERT INTO leases (project, deployment, owner, fence, acquired_at, renewed_at) \
         VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (project) DO NOTHING",
    )
    .bind(project)
    .bind(deployment.to_string())
    .bind(owner)
    .bind(commit)
    .bind(at)
    .execute(&mut *transaction)
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(());
    }
    let holder = sqlx::query("SELECT deployment, owner FROM leases WHERE project = $1")
        .bind(project)
        .fetch_one(transaction)
        .await?;
    Err(Error::Leased {
        project: project.to_owned(),
        deployment: id("leases.deployment", holder.try_get("deployment")?)?,
        owner: holder.try_get("owner")?,
    })
}

/// Notes that the owner of a lease is alive.
pub(super) async fn renew(
    transaction: &mut SqliteConnection,
    project: &str,
    fence: u64,
    at: i64,
) -> Result<(), Error> {
    let done = sqlx::query("UPDATE leases SET renewed_at = $1 WHERE project = $2 AND fence = $3")
        .bind(at)
        .bind(project)
        .bind(column("fence", fence)?)
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        fenced(transaction, project, fence).await
    }
}

/// Gives a lease back.
pub(super) async fn free(
    transaction: &mut SqliteConnection,
    project: &str,
    fence: u64,
) -> Result<(), Error> {
    let done = sqlx::query("DELETE FROM leases WHERE project = $1 AND fence = $2")
        .bind(project)
        .bind(column("fence", fence)?)
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        fenced(transaction, project, fence).await
    }
}

/// Lets the commit happen only while the lease is whose it was.
pub(super) async fn require(
    transaction: &mut SqliteConnection,
    project: &str,
    fence: u64,
) -> Result<(), Error> {
    let found: Option<i64> = sqlx::query_scalar("SELECT fence FROM leases WHERE project = $1")
        .bind(project)
        .fetch_optional(&mut *transaction)
        .await?;
    if found == Some(column("fence", fence)?) {
        Ok(())
    } else {
        fenced(transaction, project, fence).await
    }
}

async fn fenced(
    transaction: &mut SqliteConnection,
    project: &str,
    fence: u64,
) -> Result<(), Error> {
    let found: Option<i64> = sqlx::query_scalar("SELECT fence FROM leases WHERE project = $1")
        .bind(project)
        .fetch_optional(transaction)
        .await?;
    Err(Error::Fenced {
        project: project.to_owned(),
        fence,
        found: found
            .map(|found| number("leases.fence", found))
            .transpose()?,
    })
}

/// Puts a project under a hold, or says a new reason for the one that it is under.
pub(super) async fn put_hold(
    transaction: &mut SqliteConnection,
    row: &HoldRow,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO holds (project, reason, token, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (project) DO UPDATE SET reason = excluded.reason, token = excluded.token, \
         created_at = excluded.created_at",
    )
    .bind(&row.project)
    .bind(&row.reason)
    .bind(row.token.to_string())
    .bind(row.created_at)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Ends a hold; whether there was one.
pub(super) async fn remove_hold(
    transaction: &mut SqliteConnection,
    project: &str,
) -> Result<bool, Error> {
    let done = sqlx::query("DELETE FROM holds WHERE project = $1")
        .bind(project)
        .execute(transaction)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Remembers a request, in place of the one that became `replaces`.
pub(super) async fn put_key(
    transaction: &mut SqliteConnection,
    row: &IdempotencyRow,
    replaces: Option<Uuid>,
) -> Result<(), Error> {
    if let Some(replaces) = replaces {
        sqlx::query(
            "DELETE FROM idempotency_keys \
             WHERE token = $1 AND project = $2 AND key = $3 AND deployment = $4",
        )
        .bind(row.token.to_string())
        .bind(&row.project)
        .bind(&row.key)
        .bind(replaces.to_string())
        .execute(&mut *transaction)
        .await?;
    }
    let inserted = sqlx::query(
        "INSERT INTO idempotency_keys \
         (token, project, key, deployment, head, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(row.token.to_string())
    .bind(&row.project)
    .bind(&row.key)
    .bind(row.deployment.to_string())
    .bind(&row.head)
    .bind(row.created_at)
    .bind(row.expires_at)
    .execute(transaction)
    .await;
    let key = format!("{}/{}", row.project, row.key);
    unless_it_exists(inserted, Kind::IdempotencyKey, &key)
}

/// Forgets the requests that have expired.
pub(super) async fn forget_keys(
    transaction: &mut SqliteConnection,
    before: i64,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM idempotency_keys WHERE expires_at <= $1")
        .bind(before)
        .execute(transaction)
        .await?;
    Ok(())
}
