//! The queries. Each is one statement, and so sees one state of the ledger.

mod lease;

use sqlx::{Row, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{
    ChangeRow, DeploymentFilter, DeploymentRow, Error, Kind, Ledger, PluginRow, ProjectRow,
    ReleaseRow, SecretRow, TokenRow,
};

/// How many rows one page of deployments or of the feed has at most: what a caller asks beyond it is
/// quietly cut, so that a page's memory is bounded.
pub const MAX_PAGE: u32 = 1000;

macro_rules! deployments {
    ($rest:literal) => {
        concat!(
            "SELECT id, project, status, version, finished, created_at, finished_at, body \
             FROM deployments ",
            $rest
        )
    };
}

macro_rules! releases {
    ($rest:literal) => {
        concat!(
            "SELECT id, project, digest, files, bytes, created_at, body FROM releases ",
            $rest
        )
    };
}

macro_rules! plugins {
    ($rest:literal) => {
        concat!(
            "SELECT name, version, digest, created_at, body FROM plugins ",
            $rest
        )
    };
}

macro_rules! secrets {
    ($rest:literal) => {
        concat!(
            "SELECT project, name, sealed, created_at, updated_at FROM secrets ",
            $rest
        )
    };
}

macro_rules! tokens {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, hash, scopes, created_at, expires_at FROM tokens ",
            $rest
        )
    };
}

/// # Reading
///
/// A read sees every commit that was acknowledged before it began.
///
/// # Errors
///
/// All of these answer [`Error::Corrupt`] when what is stored cannot be true, [`Error::Closed`] after
/// [`Ledger::close`], and [`Error::Database`] when the database fails.
impl Ledger {
    /// The deployment with this id.
    pub async fn deployment(&self, id: Uuid) -> Result<Option<DeploymentRow>, Error> {
        let row = sqlx::query(deployments!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.shared.readers)
            .await
            .map_err(read_error)?;
        row.as_ref().map(deployment).transpose()
    }

    /// One page of deployments, newest first.
    pub async fn deployments(
        &self,
        filter: &DeploymentFilter,
    ) -> Result<Vec<DeploymentRow>, Error> {
        // Above every UUIDv7, so that the first page needs no query of its own.
        let before = filter.before.unwrap_or(Uuid::max()).to_string();
        let limit = i64::from(filter.limit.min(MAX_PAGE));
        let query = match (&filter.project, &filter.status) {
            (None, None) => sqlx::query(deployments!("WHERE id < $1 ORDER BY id DESC LIMIT $2"))
                .bind(before)
                .bind(limit),
            (Some(project), None) => sqlx::query(deployments!(
                "WHERE project = $3 AND id < $1 ORDER BY id DESC LIMIT $2"
            ))
            .bind(before)
            .bind(limit)
            .bind(project),
            (None, Some(status)) => sqlx::query(deployments!(
                "WHERE status = $3 AND id < $1 ORDER BY id DESC LIMIT $2"
            ))
            .bind(before)
            .bind(limit)
            .bind(status),
            (Some(project), Some(status)) => sqlx::query(deployments!(
                "WHERE project = $3 AND status = $4 AND id < $1 ORDER BY id DESC LIMIT $2"
            ))
            .bind(before)
            .bind(limit)
            .bind(project)
            .bind(status),
        };
        let rows = query
            .fetch_all(&self.shared.readers)
            .await
            .map_err(read_error)?;
        rows.iter().map(deployment).collect()
    }

    /// The project's first deployment after this one, or its very first.
    pub async fn deployment_after(
        &self,
        project: &str,
        after: Option<Uuid>,
    ) -> Result<Option<Uuid>, Error> {
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let found: Option<String> = sqlx::query_scalar(
            "SELECT id FROM deployments WHERE project = $1 AND id > $2 ORDER BY id LIMIT 1",
        )
        .bind(project)
        .bind(after)
        .fetch_optional(&self.shared.readers)
        .await
        .map_err(read_error)?;
        found.map(|text| id("deployments.id", &text)).transpose()
    }

    /// Every deployment that has not ended, oldest first.
    pub async fn unfinished(&self) -> Result<Vec<DeploymentRow>, Error> {
        let rows = sqlx::query(deployments!("WHERE finished = 0 ORDER BY id"))
            .fetch_all(&self.shared.readers)
            .await
            .map_err(read_error)?;
        rows.iter().map(deployment).collect()
    }

    /// The project with this name.
    pub async fn project(&self, name: &str) -> Result<Option<ProjectRow>, Error> {
        let row =
            sqlx::query("SELECT name, active, created_at, version FROM projects WHERE name = $1")
                .bind(name)
                .fetch_optional(&self.shared.readers)
                .await
                .map_err(read_error)?;
        row.as_ref().map(project).transpose()
    }

    /// Every project, by name.
    pub async fn projects(&self) -> Result<Vec<ProjectRow>, Error> {
        let rows =
            sqlx::query("SELECT name, active, created_at, version FROM projects ORDER BY name")
                .fetch_all(&self.shared.readers)
                .await
                .map_err(read_error)?;
        rows.iter().map(project).collect()
    }

    /// The release that the deployment with this id made.
    pub async fn release(&self, id: Uuid) -> Result<Option<ReleaseRow>, Error> {
        let row = sqlx::query(releases!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.shared.readers)
            .await
            .map_err(read_error)?;
        row.as_ref().map(release).transpose()
    }

    /// The project's releases, newest first.
    pub async fn releases(&self, project: &str) -> Result<Vec<ReleaseRow>, Error> {
        let rows = sqlx::query(releases!("WHERE project = $1 ORDER BY id DESC"))
            .bind(project)
            .fetch_all(&self.shared.readers)
            .await
            .map_err(read_error)?;
        rows.iter().map(release).collect()
    }

    /// The plugin with exactly this name and version.
    pub async fn plugin(&self, name: &str, version: &str) -> Result<Option<PluginRow>, Error> {
        let row = sqlx::query(plugins!("WHERE name = $1 AND version = $2"))
            .bind(name)
            .bind(version)
            .fetch_optional(&self.shared.readers)
            .await
            .map_err(read_error)?;
        row.as_ref().map(plugin).transpose()
    }

    /// The plugin whose component has this digest; the one admitted first, if several are the same.
    pub async fn plugin_by_digest(&self, digest: &str) -> Result<Option<PluginRow>, Error> {
        let row = sqlx::query(plugins!(
            "WHERE digest = $1 ORDER BY created_at, name, version LIMIT 1"
        ))
        .bind(digest)
        .fetch_optional(&self.shared.readers)
        .await
        .map_err(read_error)?;
        row.as_ref().map(plugin).transpose()
    }

    /// The plugins of this name, or all of them, by name and then in the order in which they were
    /// admitted. Versions are text here: their order is the caller's business.
    pub async fn plugins(&self, name: Option<&str>) -> Result<Vec<PluginRow>, Error> {
        let query = match name {
            Some(name) => sqlx::query(plugins!("WHERE name = $1 ORDER BY created_at, version"))
                .bind(name.to_owned()),
            None => sqlx::query(plugins!("ORDER BY name, created_at, version")),
        };
        let rows = query
            .fetch_all(&self.shared.readers)
            .await
            .map_err(read_error)?;
        rows.iter().map(plugin).collect()
    }

    /// The project's secret of this name.
    pub async fn secret(&self, project: &str, name: &str) -> Result<Option<SecretRow>, Error> {
        let row = sqlx::query(secrets!("WHERE project = $1 AND name = $2"))
            .bind(project)
            .bind(name)
            .fetch_optional(&self.shared.readers)
            .await
            .map_err(read_error)?;
        row.as_ref().map(secret).transpose()
    }

    /// The project's secrets, by name.
    pub async fn secrets(&self, project: &str) -> Result<Vec<SecretRow>, Error> {
        let rows = sqlx::query(secrets!("WHERE project = $1 ORDER BY name"))
            .bind(project)
            .fetch_all(&self.shared.readers)
            .await
            .map_err(read_error)?;
        rows.iter().map(secret).collect()
    }

    /// How many secrets there are, of all projects.
    pub async fn secret_count(&self) -> Result<u64, Error> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM secrets")
            .fetch_one(&self.shared.readers)
            .await
            .map_err(read_error)?;
        number("the count of secrets", count)
    }

    /// The token with this hash.
    pub async fn token(&self, hash: &str) -> Result<Option<TokenRow>, Error> {
        let row = sqlx::query(tokens!("WHERE hash = $1"))
            .bind(hash)
            .fetch_optional(&self.shared.readers)
            .await
            .map_err(read_error)?;
        row.as_ref().map(token).transpose()
    }

    /// Every token, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, Error> {
        let rows = sqlx::query(tokens!("ORDER BY created_at, id"))
            .fetch_all(&self.shared.readers)
            .await
            .map_err(read_error)?;
        rows.iter().map(token).collect()
    }

    /// How many deployments there are in each status that any has.
    pub async fn deployment_counts(&self) -> Result<Vec<(String, u64)>, Error> {
        let rows =
            sqlx::query("SELECT status, count(*) FROM deployments GROUP BY status ORDER BY status")
                .fetch_all(&self.shared.readers)
                .await
                .map_err(read_error)?;
        let count = |row: &SqliteRow| {
            Ok((
                row.try_get(0)?,
                number("the count of deployments", row.try_get(1)?)?,
            ))
        };
        rows.iter().map(count).collect()
    }

    /// How many projects there are.
    pub async fn project_count(&self) -> Result<u64, Error> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM projects")
            .fetch_one(&self.shared.readers)
            .await
            .map_err(read_error)?;
        number("the count of projects", count)
    }

    /// The number of the last commit; 0 before the first.
    pub async fn head(&self) -> Result<u64, Error> {
        let head: i64 = sqlx::query_scalar("SELECT number FROM head WHERE one = 1")
            .fetch_one(&self.shared.readers)
            .await
            .map_err(read_error)?;
        number("head.number", head)
    }

    /// What the commits after this one touched, in order: whole commits, about `limit` rows of them.
    ///
    /// A commit is never cut: the first is answered in full though it alone exceeds the limit. An empty
    /// answer means that there is nothing new to see; commits that touched nothing do not show.
    pub async fn changes_since(&self, commit: u64, limit: u32) -> Result<Vec<ChangeRow>, Error> {
        // Beyond the column's range nothing can have been committed.
        let after = i64::try_from(commit).unwrap_or(i64::MAX);
        let limit = limit.clamp(1, MAX_PAGE);
        let rows = sqlx::query(
            "SELECT number, kind, key FROM changes WHERE number > $1 \
             ORDER BY number, position LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.shared.readers)
        .await
        .map_err(read_error)?;
        let mut changes: Vec<ChangeRow> = rows.iter().map(change).collect::<Result<_, _>>()?;
        let Some(cut) = changes.get(limit as usize).map(|row| row.commit) else {
            return Ok(changes);
        };
        changes.retain(|row| row.commit < cut);
        if !changes.is_empty() {
            return Ok(changes);
        }
        // The first commit alone exceeds the page. Commits never change, so a second look is safe.
        let rows = sqlx::query(
            "SELECT number, kind, key FROM changes WHERE number = $1 ORDER BY position",
        )
        .bind(i64::try_from(cut).unwrap_or(i64::MAX))
        .fetch_all(&self.shared.readers)
        .await
        .map_err(read_error)?;
        rows.iter().map(change).collect()
    }
}

fn deployment(row: &SqliteRow) -> Result<DeploymentRow, Error> {
    Ok(DeploymentRow {
        id: id("deployments.id", row.try_get("id")?)?,
        project: row.try_get("project")?,
        status: row.try_get("status")?,
        version: number("deployments.version", row.try_get("version")?)?,
        finished: row.try_get::<i64, _>("finished")? == 1,
        created_at: row.try_get("created_at")?,
        finished_at: row.try_get("finished_at")?,
        body: row.try_get("body")?,
    })
}

fn release(row: &SqliteRow) -> Result<ReleaseRow, Error> {
    Ok(ReleaseRow {
        id: id("releases.id", row.try_get("id")?)?,
        project: row.try_get("project")?,
        digest: row.try_get("digest")?,
        files: number("releases.files", row.try_get("files")?)?,
        bytes: number("releases.bytes", row.try_get("bytes")?)?,
        created_at: row.try_get("created_at")?,
        body: row.try_get("body")?,
    })
}

fn project(row: &SqliteRow) -> Result<ProjectRow, Error> {
    let active: Option<&str> = row.try_get("active")?;
    Ok(ProjectRow {
        name: row.try_get("name")?,
        active: active.map(|text| id("projects.active", text)).transpose()?,
        created_at: row.try_get("created_at")?,
        version: number("projects.version", row.try_get("version")?)?,
    })
}

fn plugin(row: &SqliteRow) -> Result<PluginRow, Error> {
    Ok(PluginRow {
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        digest: row.try_get("digest")?,
        created_at: row.try_get("created_at")?,
        body: row.try_get("body")?,
    })
}

fn secret(row: &SqliteRow) -> Result<SecretRow, Error> {
    Ok(SecretRow {
        project: row.try_get("project")?,
        name: row.try_get("name")?,
        sealed: row.try_get("sealed")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

fn token(row: &SqliteRow) -> Result<TokenRow, Error> {
    Ok(TokenRow {
        id: id("tokens.id", row.try_get("id")?)?,
        name: row.try_get("name")?,
        hash: row.try_get("hash")?,
        scopes: row.try_get("scopes")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}

fn change(row: &SqliteRow) -> Result<ChangeRow, Error> {
    let kind: &str = row.try_get("kind")?;
    Ok(ChangeRow {
        commit: number("changes.number", row.try_get("number")?)?,
        kind: kind.parse::<Kind>().map_err(|()| Error::Corrupt {
            what: format!("changes.kind is {kind:?}"),
        })?,
        key: row.try_get("key")?,
    })
}

/// A count out of its column.
pub(crate) fn number(what: &str, value: i64) -> Result<u64, Error> {
    u64::try_from(value).map_err(|_| Error::Corrupt {
        what: format!("{what} is {value}"),
    })
}

/// An id out of its column.
pub(crate) fn id(what: &str, text: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(text).map_err(|_| Error::Corrupt {
        what: format!("{what} is {text:?}"),
    })
}

/// A pool that was closed is the ledger being closed, not a failure.
pub(crate) fn read_error(error: sqlx::Error) -> Error {
    match error {
        sqlx::Error::PoolClosed => Error::Closed,
        other => other.into(),
    }
}
