//! What becomes of releases: which was served when, which are kept, how their services do, and how a
//! project goes.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::read::{MAX_PAGE, id, number, read_error};
use crate::{Error, Kind, Ledger};

/// How many moves of a project's pointer are kept: a deployment an hour for six weeks.
pub const MAX_ACTIVATIONS: u32 = 1000;

/// A move of a project's pointer, about to be recorded with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewActivation {
    /// The project.
    pub project: String,
    /// When, in milliseconds since the epoch.
    pub at: i64,
    /// What is served from then on.
    pub release: Option<Uuid>,
    /// What was served before.
    pub previous: Option<Uuid>,
    /// Why: a word of the caller's.
    pub cause: String,
    /// The token by which it was done; nothing when the host did it by itself.
    pub token: Option<Uuid>,
    /// What the token is called.
    pub token_name: Option<String>,
    /// The address from which it was asked for.
    pub address: Option<String>,
    /// The rest, JSON.
    pub body: String,
}

/// A recorded move of a project's pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivationRow {
    /// Its number; later moves have larger ones.
    pub number: u64,
    /// What moved, and why.
    pub entry: NewActivation,
}

/// A service that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRow {
    /// The project.
    pub project: String,
    /// The release that it is of.
    pub release: Uuid,
    /// Its name within the release.
    pub name: String,
    /// What it is for its project, a word of the caller's.
    pub role: String,
    /// How it does, a word of the caller's.
    pub state: String,
    /// Why it does so.
    pub detail: Option<String>,
    /// Since when, in milliseconds since the epoch.
    pub changed_at: i64,
}

macro_rules! activations {
    ($rest:literal) => {
        concat!(
            "SELECT number, project, at, release, previous, cause, token, token_name, address, body \
             FROM activations ",
            $rest
        )
    };
}

pub(crate) async fn append_activation(
    transaction: &mut SqliteConnection,
    entry: &NewActivation,
) -> Result<(), Error> {
    let text = |id: Option<Uuid>| id.map(|id| id.to_string());
    sqlx::query(
        "INSERT INTO activations \
         (number, project, at, release, previous, cause, token, token_name, address, body) \
         SELECT COALESCE(MAX(number), 0) + 1, $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM activations",
    )
    .bind(&entry.project)
    .bind(entry.at)
    .bind(text(entry.release))
    .bind(text(entry.previous))
    .bind(&entry.cause)
    .bind(text(entry.token))
    .bind(&entry.token_name)
    .bind(&entry.address)
    .bind(&entry.body)
    .execute(&mut *transaction)
    .await?;
    // The newest of all projects is never removed here, so numbers only grow.
    sqlx::query(
        "DELETE FROM activations WHERE project = $1 AND number <= \
         (SELECT number FROM activations WHERE project = $1 ORDER BY number DESC LIMIT 1 OFFSET $2)",
    )
    .bind(&entry.project)
    .bind(i64::from(MAX_ACTIVATIONS))
    .execute(transaction)
    .await?;
    Ok(())
}

/// Forgets a release that no project serves.
pub(crate) async fn remove_release(
    transaction: &mut SqliteConnection,
    release: Uuid,
) -> Result<(), Error> {
    let key = release.to_string();
    let active: Option<String> = sqlx::query_scalar("SELECT name FROM projects WHERE active = $1")
        .bind(&key)
        .fetch_optional(&mut *transaction)
        .await?;
    if let Some(project) = active {
        return Err(Error::ActiveConflict {
            project,
            expected: None,
            found: Some(release),
        });
    }
    let done = sqlx::query("DELETE FROM releases WHERE id = $1")
        .bind(&key)
        .execute(transaction)
        .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(Error::NotFound {
            kind: Kind::Release,
            key,
        })
    }
}

/// Everything that is recorded of a project, in the order in which it may go. The audit log stays, and so does
/// a hold: who puts a project under one does not mean it to be undone by tearing the project down.
const PROJECT_ROWS: [&str; 11] = [
    "UPDATE projects SET active = NULL WHERE name = $1",
    "DELETE FROM leases WHERE project = $1",
    "DELETE FROM idempotency_keys WHERE project = $1",
    "DELETE FROM pins WHERE project = $1",
    "DELETE FROM services WHERE project = $1",
    "DELETE FROM activations WHERE project = $1",
    "DELETE FROM outbox WHERE project = $1",
    "DELETE FROM webhooks WHERE project = $1",
    "DELETE FROM secrets WHERE project = $1",
    "DELETE FROM releases WHERE project = $1",
    "DELETE FROM deployments WHERE project = $1",
];

/// Forgets a project and everything that belongs to it.
pub(crate) async fn remove_project(
    transaction: &mut SqliteConnection,
    name: &str,
) -> Result<bool, Error> {
    let unfinished = sqlx::query(
        "SELECT id, version FROM deployments WHERE project = $1 AND finished = 0 LIMIT 1",
    )
    .bind(name)
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(row) = unfinished {
        let found = number("deployments.version", row.try_get("version")?)?;
        return Err(Error::Conflict {
            id: id("deployments.id", row.try_get("id")?)?,
            expected: found,
            found,
        });
    }
    for statement in PROJECT_ROWS {
        sqlx::query(statement)
            .bind(name)
            .execute(&mut *transaction)
            .await?;
    }
    let done = sqlx::query("DELETE FROM projects WHERE name = $1")
        .bind(name)
        .execute(transaction)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn pin(
    transaction: &mut SqliteConnection,
    deployment: Uuid,
    project: &str,
    at: i64,
) -> Result<(), Error> {
    let pinned = sqlx::query(
        "INSERT INTO pins (deployment, project, at) VALUES ($1, $2, $3) \
         ON CONFLICT (deployment) DO NOTHING",
    )
    .bind(deployment.to_string())
    .bind(project)
    .bind(at)
    .execute(transaction)
    .await;
    match pinned {
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
            Err(Error::NotFound {
                kind: Kind::Deployment,
                key: deployment.to_string(),
            })
        }
        other => other.map(drop).map_err(Error::from),
    }
}

pub(crate) async fn unpin(
    transaction: &mut SqliteConnection,
    deployment: Uuid,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM pins WHERE deployment = $1")
        .bind(deployment.to_string())
        .execute(transaction)
        .await?;
    Ok(())
}

/// Writes a service's row, if it says anything new.
pub(crate) async fn put_service(
    transaction: &mut SqliteConnection,
    row: &ServiceRow,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO services (project, release, name, role, state, detail, changed_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (project, release, name) DO UPDATE \
         SET role = excluded.role, state = excluded.state, detail = excluded.detail, \
             changed_at = excluded.changed_at \
         WHERE services.role <> excluded.role OR services.state <> excluded.state \
            OR COALESCE(services.detail, '') <> COALESCE(excluded.detail, '')",
    )
    .bind(&row.project)
    .bind(row.release.to_string())
    .bind(&row.name)
    .bind(&row.role)
    .bind(&row.state)
    .bind(&row.detail)
    .bind(row.changed_at)
    .execute(transaction)
    .await?;
    Ok(())
}

pub(crate) async fn remove_services(
    transaction: &mut SqliteConnection,
    project: &str,
    release: Uuid,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM services WHERE project = $1 AND release = $2")
        .bind(project)
        .bind(release.to_string())
        .execute(transaction)
        .await?;
    Ok(())
}

/// # Releases
///
/// # Errors
///
/// As every read: [`Error::Corrupt`], [`Error::Closed`] and [`Error::Database`].
impl Ledger {
    /// One page of the moves of a project's pointer, newest first, before this number if one is given.
    pub async fn activations(
        &self,
        project: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<ActivationRow>, Error> {
        let before = before
            .and_then(|before| i64::try_from(before).ok())
            .unwrap_or(i64::MAX);
        let rows = sqlx::query(activations!(
            "WHERE project = $1 AND number < $2 ORDER BY number DESC LIMIT $3"
        ))
        .bind(project)
        .bind(before)
        .bind(i64::from(limit.min(MAX_PAGE)))
        .fetch_all(self.readers())
        .await
        .map_err(read_error)?;
        rows.iter().map(activation).collect()
    }

    /// The project's pinned deployments.
    pub async fn pins(&self, project: &str) -> Result<Vec<Uuid>, Error> {
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT deployment FROM pins WHERE project = $1 ORDER BY deployment",
        )
        .bind(project)
        .fetch_all(self.readers())
        .await
        .map_err(read_error)?;
        ids.iter().map(|text| id("pins.deployment", text)).collect()
    }

    /// The services of a project that run, by release and name.
    pub async fn services(&self, project: &str) -> Result<Vec<ServiceRow>, Error> {
        let rows = sqlx::query(
            "SELECT project, release, name, role, state, detail, changed_at FROM services \
             WHERE project = $1 ORDER BY release, name",
        )
        .bind(project)
        .fetch_all(self.readers())
        .await
        .map_err(read_error)?;
        rows.iter().map(service).collect()
    }

    /// The services, of all projects, that were not what their project serves: being prepared, or drained.
    pub async fn unsettled_services(&self) -> Result<Vec<ServiceRow>, Error> {
        let rows = sqlx::query(
            "SELECT project, release, name, role, state, detail, changed_at FROM services \
             WHERE role <> 'active' ORDER BY project, release, name",
        )
        .fetch_all(self.readers())
        .await
        .map_err(read_error)?;
        rows.iter().map(service).collect()
    }
}

fn activation(row: &SqliteRow) -> Result<ActivationRow, Error> {
    let uuid = |name: &'static str| -> Result<Option<Uuid>, Error> {
        let text: Option<&str> = row.try_get(name)?;
        text.map(|text| id(name, text)).transpose()
    };
    Ok(ActivationRow {
        number: number("activations.number", row.try_get("number")?)?,
        entry: NewActivation {
            project: row.try_get("project")?,
            at: row.try_get("at")?,
            release: uuid("release")?,
            previous: uuid("previous")?,
            cause: row.try_get("cause")?,
            token: uuid("token")?,
            token_name: row.try_get("token_name")?,
            address: row.try_get("address")?,
            body: row.try_get("body")?,
        },
    })
}

fn service(row: &SqliteRow) -> Result<ServiceRow, Error> {
    Ok(ServiceRow {
        project: row.try_get("project")?,
        release: id("services.release", row.try_get("release")?)?,
        name: row.try_get("name")?,
        role: row.try_get("role")?,
        state: row.try_get("state")?,
        detail: row.try_get("detail")?,
        changed_at: row.try_get("changed_at")?,
    })
}
