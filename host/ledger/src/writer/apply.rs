//! How each change is made.
//!
//! Guards are in the statements themselves (`WHERE`, constraints), so they hold on any database; what is
//! read besides is read to name the fault.

mod lease;

use sqlx::{Row, SqliteConnection, sqlite::SqliteQueryResult};
use uuid::Uuid;

use crate::{
    Beside, Change, Error, Kind, NewDeployment, PluginRow, ReleaseRow, SecretRow, TokenRow, audit,
    read::{id, number},
    releases, webhooks,
};

/// Makes one change in the commit of this number; answers the record it touched, if it touched one.
pub(super) async fn apply(
    transaction: &mut SqliteConnection,
    commit: i64,
    change: &Change,
) -> Result<Option<(Kind, String)>, Error> {
    match change {
        Change::PutProject { name, created_at } => {
            let created = put_project(transaction, name, *created_at).await?;
            Ok(created.then(|| (Kind::Project, name.clone())))
        }
        Change::InsertDeployment(new) => {
            insert_deployment(transaction, new).await?;
            Ok(Some((Kind::Deployment, new.id.to_string())))
        }
        Change::UpdateDeployment {
            id,
            expect,
            status,
            finished,
            body,
        } => {
            update_deployment(transaction, *id, *expect, status, *finished, body).await?;
            Ok(Some((Kind::Deployment, id.to_string())))
        }
        Change::InsertRelease(row) => {
            insert_release(transaction, row).await?;
            Ok(Some((Kind::Release, row.id.to_string())))
        }
        Change::SetActive {
            project,
            release,
            expect,
        } => {
            set_active(transaction, project, *release, *expect).await?;
            Ok(Some((Kind::Project, project.clone())))
        }
        Change::InsertPlugin(row) => {
            insert_plugin(transaction, row).await?;
            Ok(Some((Kind::Plugin, plugin_key(&row.name, &row.version))))
        }
        Change::RemovePlugin { name, version } => {
            let key = plugin_key(name, version);
            let done = sqlx::query("DELETE FROM plugins WHERE name = $1 AND version = $2")
                .bind(name)
                .bind(version)
                .execute(transaction)
                .await?;
            one_row(&done, Kind::Plugin, &key)?;
            Ok(Some((Kind::Plugin, key)))
        }
        Change::PutSecret(row) => {
            put_secret(transaction, row).await?;
            Ok(Some((Kind::Secret, secret_key(&row.project, &row.name))))
        }
        Change::RemoveSecret { project, name } => {
            let key = secret_key(project, name);
            let done = sqlx::query("DELETE FROM secrets WHERE project = $1 AND name = $2")
                .bind(project)
                .bind(name)
                .execute(transaction)
                .await?;
            one_row(&done, Kind::Secret, &key)?;
            Ok(Some((Kind::Secret, key)))
        }
        Change::InsertToken(row) => {
            insert_token(transaction, row).await?;
            Ok(Some((Kind::Token, row.id.to_string())))
        }
        Change::RemoveToken { id } => {
            let key = id.to_string();
            let done = sqlx::query("DELETE FROM tokens WHERE id = $1")
                .bind(&key)
                .execute(transaction)
                .await?;
            one_row(&done, Kind::Token, &key)?;
            Ok(Some((Kind::Token, key)))
        }
        Change::RemoveRelease { id } => {
            releases::remove_release(transaction, *id).await?;
            Ok(Some((Kind::Release, id.to_string())))
        }
        Change::RemoveProject { name } => {
            let removed = releases::remove_project(transaction, name).await?;
            Ok(removed.then(|| (Kind::Project, name.clone())))
        }
        Change::TakeLease {
            project,
            deployment,
            owner,
            at,
        } => {
            lease::take(transaction, commit, project, *deployment, owner, *at).await?;
            Ok(None)
        }
        Change::RenewLease { project, fence, at } => {
            lease::renew(transaction, project, *fence, *at).await?;
            Ok(None)
        }
        Change::FreeLease { project, fence } => {
            lease::free(transaction, project, *fence).await?;
            Ok(None)
        }
        Change::RequireLease { project, fence } => {
            lease::require(transaction, project, *fence).await?;
            Ok(None)
        }
        Change::PutHold(row) => {
            lease::put_hold(transaction, row).await?;
            Ok(Some((Kind::Hold, row.project.clone())))
        }
        Change::RemoveHold { project } => {
            let removed = lease::remove_hold(transaction, project).await?;
            Ok(removed.then(|| (Kind::Hold, project.clone())))
        }
        Change::PutIdempotencyKey { row, replaces } => {
            lease::put_key(transaction, row, *replaces).await?;
            Ok(None)
        }
        Change::ForgetIdempotencyKeys { before } => {
            lease::forget_keys(transaction, *before).await?;
            Ok(None)
        }
        Change::Beside(change) => {
            beside(transaction, change).await?;
            Ok(None)
        }
    }
}

async fn beside(transaction: &mut SqliteConnection, change: &Beside) -> Result<(), Error> {
    match change {
        Beside::Audit(entry) => audit::append(transaction, entry).await,
        Beside::Activation(entry) => releases::append_activation(transaction, entry).await,
        Beside::Pin {
            deployment,
            project,
            at,
        } => releases::pin(transaction, *deployment, project, *at).await,
        Beside::Unpin { deployment } => releases::unpin(transaction, *deployment).await,
        Beside::PutService(row) => releases::put_service(transaction, row).await,
        Beside::RemoveServices { project, release } => {
            releases::remove_services(transaction, project, *release).await
        }
        Beside::PutWebhook(row) => webhooks::put(transaction, row).await,
        Beside::RemoveWebhook { project } => webhooks::remove(transaction, project).await,
        Beside::Enqueue(row) => webhooks::enqueue(transaction, row).await,
        Beside::Postpone {
            delivery,
            next_at,
            error,
        } => webhooks::postpone(transaction, *delivery, *next_at, error).await,
        Beside::Dequeue { delivery } => webhooks::dequeue(transaction, *delivery).await,
    }
}

async fn put_project(
    transaction: &mut SqliteConnection,
    name: &str,
    created_at: i64,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "INSERT INTO projects (name, active, created_at, version) VALUES ($1, NULL, $2, 1) \
         ON CONFLICT (name) DO NOTHING",
    )
    .bind(name)
    .bind(created_at)
    .execute(transaction)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn insert_deployment(
    transaction: &mut SqliteConnection,
    new: &NewDeployment,
) -> Result<(), Error> {
    let key = new.id.to_string();
    let inserted = sqlx::query(
        "INSERT INTO deployments \
         (id, project, status, version, finished, created_at, finished_at, body) \
         VALUES ($1, $2, $3, 1, 0, $4, NULL, $5)",
    )
    .bind(&key)
    .bind(&new.project)
    .bind(&new.status)
    .bind(new.created_at)
    .bind(&new.body)
    .execute(transaction)
    .await;
    match inserted {
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
            Err(Error::NotFound {
                kind: Kind::Project,
                key: new.project.clone(),
            })
        }
        other => unless_it_exists(other, Kind::Deployment, &key),
    }
}

async fn update_deployment(
    transaction: &mut SqliteConnection,
    id: Uuid,
    expect: u64,
    status: &str,
    finished: bool,
    body: &str,
) -> Result<(), Error> {
    let key = id.to_string();
    let finished_at = finished.then(|| jiff::Timestamp::now().as_millisecond());
    let done = sqlx::query(
        "UPDATE deployments \
         SET status = $1, finished = $2, finished_at = $3, body = $4, version = version + 1 \
         WHERE id = $5 AND version = $6 AND finished = 0",
    )
    .bind(status)
    .bind(i64::from(finished))
    .bind(finished_at)
    .bind(body)
    .bind(&key)
    .bind(column("version", expect)?)
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    let row = sqlx::query("SELECT version, finished, status FROM deployments WHERE id = $1")
        .bind(&key)
        .fetch_optional(transaction)
        .await?;
    let Some(row) = row else {
        return Err(Error::NotFound {
            kind: Kind::Deployment,
            key,
        });
    };
    if row.try_get::<i64, _>("finished")? == 1 {
        return Err(Error::Finished {
            id,
            status: row.try_get("status")?,
        });
    }
    Err(Error::Conflict {
        id,
        expected: expect,
        found: number("deployments.version", row.try_get("version")?)?,
    })
}

async fn insert_release(transaction: &mut SqliteConnection, row: &ReleaseRow) -> Result<(), Error> {
    let key = row.id.to_string();
    let owner: Option<String> = sqlx::query_scalar("SELECT project FROM deployments WHERE id = $1")
        .bind(&key)
        .fetch_optional(&mut *transaction)
        .await?;
    belongs(Kind::Deployment, row.id, owner, &row.project)?;
    let inserted = sqlx::query(
        "INSERT INTO releases (id, project, digest, files, bytes, created_at, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&key)
    .bind(&row.project)
    .bind(&row.digest)
    .bind(column("files", row.files)?)
    .bind(column("bytes", row.bytes)?)
    .bind(row.created_at)
    .bind(&row.body)
    .execute(transaction)
    .await;
    unless_it_exists(inserted, Kind::Release, &key)
}

async fn set_active(
    transaction: &mut SqliteConnection,
    project: &str,
    release: Option<Uuid>,
    expect: Option<Option<Uuid>>,
) -> Result<(), Error> {
    let current = sqlx::query("SELECT active FROM projects WHERE name = $1")
        .bind(project)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(current) = current else {
        return Err(Error::NotFound {
            kind: Kind::Project,
            key: project.to_owned(),
        });
    };
    let found: Option<String> = current.try_get("active")?;
    let found = found.map(|text| id("projects.active", &text)).transpose()?;
    let conflict = |expected| Error::ActiveConflict {
        project: project.to_owned(),
        expected,
        found,
    };
    if let Some(expected) = expect
        && expected != found
    {
        return Err(conflict(expected));
    }
    if let Some(release) = release {
        let owner: Option<String> =
            sqlx::query_scalar("SELECT project FROM releases WHERE id = $1")
                .bind(release.to_string())
                .fetch_optional(&mut *transaction)
                .await?;
        belongs(Kind::Release, release, owner, project)?;
    }
    // The guard again, for a database where another writer may have come between.
    let done = sqlx::query(
        "UPDATE projects SET active = $1, version = version + 1 \
         WHERE name = $2 AND (active = $3 OR (active IS NULL AND $3 IS NULL))",
    )
    .bind(release.map(|id| id.to_string()))
    .bind(project)
    .bind(found.map(|id| id.to_string()))
    .execute(transaction)
    .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(conflict(expect.unwrap_or(found)))
    }
}

async fn insert_plugin(transaction: &mut SqliteConnection, row: &PluginRow) -> Result<(), Error> {
    let inserted = sqlx::query(
        "INSERT INTO plugins (name, version, digest, created_at, body) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&row.name)
    .bind(&row.version)
    .bind(&row.digest)
    .bind(row.created_at)
    .bind(&row.body)
    .execute(transaction)
    .await;
    unless_it_exists(inserted, Kind::Plugin, &plugin_key(&row.name, &row.version))
}

async fn put_secret(transaction: &mut SqliteConnection, row: &SecretRow) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO secrets (project, name, sealed, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (project, name) \
         DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at",
    )
    .bind(&row.project)
    .bind(&row.name)
    .bind(&row.sealed)
    .bind(row.created_at)
    .bind(row.updated_at)
    .execute(transaction)
    .await?;
    Ok(())
}

async fn insert_token(transaction: &mut SqliteConnection, row: &TokenRow) -> Result<(), Error> {
    let key = row.id.to_string();
    let inserted = sqlx::query(
        "INSERT INTO tokens (id, name, hash, scopes, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&key)
    .bind(&row.name)
    .bind(&row.hash)
    .bind(&row.scopes)
    .bind(row.created_at)
    .bind(row.expires_at)
    .execute(transaction)
    .await;
    unless_it_exists(inserted, Kind::Token, &key)
}

/// How the feed names a plugin.
fn plugin_key(name: &str, version: &str) -> String {
    format!("{name}@{version}")
}

/// How the feed names a secret.
fn secret_key(project: &str, name: &str) -> String {
    format!("{project}/{name}")
}

/// Refuses a record that is missing, or that is another project's.
fn belongs(kind: Kind, id: Uuid, owner: Option<String>, project: &str) -> Result<(), Error> {
    match owner {
        Some(owner) if owner == project => Ok(()),
        Some(owner) => Err(Error::ForeignRelease {
            id,
            project: project.to_owned(),
            owner,
        }),
        None => Err(Error::NotFound {
            kind,
            key: id.to_string(),
        }),
    }
}

fn one_row(done: &SqliteQueryResult, kind: Kind, key: &str) -> Result<(), Error> {
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(Error::NotFound {
            kind,
            key: key.to_owned(),
        })
    }
}

fn unless_it_exists(
    inserted: Result<SqliteQueryResult, sqlx::Error>,
    kind: Kind,
    key: &str,
) -> Result<(), Error> {
    match inserted {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Err(Error::Exists {
            kind,
            key: key.to_owned(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// A count as a column holds it.
fn column(what: &'static str, value: u64) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| Error::OutOfRange { what, value })
}
