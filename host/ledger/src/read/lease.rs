//! Reading leases, holds and idempotency keys.

use sqlx::{Row, sqlite::SqliteRow};
use uuid::Uuid;

use super::{id, number, read_error};
use crate::{Error, HoldRow, IdempotencyRow, LeaseRow, Ledger};

/// # Reading leases, holds and idempotency keys
///
/// # Errors
///
/// As for the other reads.
impl Ledger {
    /// The project's lease, if a deployment has it.
    pub async fn lease(&self, project: &str) -> Result<Option<LeaseRow>, Error> {
        let row = sqlx::query(
            "SELECT project, deployment, owner, fence, acquired_at, renewed_at FROM leases \
             WHERE project = $1",
        )
        .bind(project)
        .fetch_optional(&self.shared.readers)
        .await
        .map_err(read_error)?;
        row.as_ref().map(lease).transpose()
    }

    /// Every lease that a deployment has, by project.
    pub async fn leases(&self) -> Result<Vec<LeaseRow>, Error> {
        let rows = sqlx::query(
            "SELECT project, deployment, owner, fence, acquired_at, renewed_at FROM leases \
             ORDER BY project",
        )
        .fetch_all(&self.shared.readers)
        .await
        .map_err(read_error)?;
        rows.iter().map(lease).collect()
    }

    /// The project's hold, if it is under one.
    pub async fn hold(&self, project: &str) -> Result<Option<HoldRow>, Error> {
        let row =
            sqlx::query("SELECT project, reason, token, created_at FROM holds WHERE project = $1")
                .bind(project)
                .fetch_optional(&self.shared.readers)
                .await
                .map_err(read_error)?;
        row.as_ref().map(hold).transpose()
    }

    /// Every hold, by project.
    pub async fn holds(&self) -> Result<Vec<HoldRow>, Error> {
        let rows =
            sqlx::query("SELECT project, reason, token, created_at FROM holds ORDER BY project")
                .fetch_all(&self.shared.readers)
                .await
                .map_err(read_error)?;
        rows.iter().map(hold).collect()
    }

    /// What a token called by this key in this project.
    pub async fn idempotency_key(
        &self,
        token: Uuid,
        project: &str,
        key: &str,
    ) -> Result<Option<IdempotencyRow>, Error> {
        let row = sqlx::query(
            "SELECT token, project, key, deployment, head, created_at, expires_at \
             FROM idempotency_keys WHERE token = $1 AND project = $2 AND key = $3",
        )
        .bind(token.to_string())
        .bind(project)
        .bind(key)
        .fetch_optional(&self.shared.readers)
        .await
        .map_err(read_error)?;
        row.as_ref().map(idempotency_key).transpose()
    }
}

fn lease(row: &SqliteRow) -> Result<LeaseRow, Error> {
    Ok(LeaseRow {
        project: row.try_get("project")?,
        deployment: id("leases.deployment", row.try_get("deployment")?)?,
        owner: row.try_get("owner")?,
        fence: number("leases.fence", row.try_get("fence")?)?,
        acquired_at: row.try_get("acquired_at")?,
        renewed_at: row.try_get("renewed_at")?,
    })
}

fn hold(row: &SqliteRow) -> Result<HoldRow, Error> {
    Ok(HoldRow {
        project: row.try_get("project")?,
        reason: row.try_get("reason")?,
        token: id("holds.token", row.try_get("token")?)?,
        created_at: row.try_get("created_at")?,
    })
}

fn idempotency_key(row: &SqliteRow) -> Result<IdempotencyRow, Error> {
    Ok(IdempotencyRow {
        token: id("idempotency_keys.token", row.try_get("token")?)?,
        project: row.try_get("project")?,
        key: row.try_get("key")?,
        deployment: id("idempotency_keys.deployment", row.try_get("deployment")?)?,
        head: row.try_get("head")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}
