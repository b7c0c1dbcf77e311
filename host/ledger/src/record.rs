//! The records, as they are stored.
//!
//! The ledger keeps what it must search and guard in columns; everything else about a record is its
//! `body`, JSON text that belongs to whoever wrote it.

mod lease;

use std::{fmt, str::FromStr};

use uuid::Uuid;

pub use lease::{HoldRow, IdempotencyRow, LeaseRow};

/// A deployment that is about to be recorded. It starts unfinished, at version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeployment {
    /// Its id, a `UUIDv7`: ids order deployments by time.
    pub id: Uuid,
    /// The project, which must exist.
    pub project: String,
    /// The status it starts with.
    pub status: String,
    /// When it was created, in milliseconds since the epoch.
    pub created_at: i64,
    /// The rest of the record, JSON.
    pub body: String,
}

/// One run of a pipeline over one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentRow {
    /// Its id, a `UUIDv7`.
    pub id: Uuid,
    /// The project it belongs to.
    pub project: String,
    /// Its status, a word of the caller's.
    pub status: String,
    /// 1 when inserted, one more with every update.
    pub version: u64,
    /// Whether it has ended. Once true, nothing changes the row again.
    pub finished: bool,
    /// When it was created, in milliseconds since the epoch.
    pub created_at: i64,
    /// When it ended, in milliseconds since the epoch: the time of the commit that said so.
    pub finished_at: Option<i64>,
    /// The rest of the record, JSON.
    pub body: String,
}

/// Which deployments to list; the default is the newest of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentFilter {
    /// Only those of this project.
    pub project: Option<String>,
    /// Only those with this status.
    pub status: Option<String>,
    /// Only those older than this one: the last id of the page before.
    pub before: Option<Uuid>,
    /// How many at most; [`MAX_PAGE`](crate::MAX_PAGE) caps it.
    pub limit: u32,
}

impl Default for DeploymentFilter {
    /// Every deployment, 50 to a page.
    fn default() -> DeploymentFilter {
        DeploymentFilter {
            project: None,
            status: None,
            before: None,
            limit: 50,
        }
    }
}

/// What a successful pipeline left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRow {
    /// The id of the deployment that made it.
    pub id: Uuid,
    /// The project, which must be the deployment's.
    pub project: String,
    /// The digest of its tree.
    pub digest: String,
    /// How many regular files it has.
    pub files: u64,
    /// How many bytes they hold.
    pub bytes: u64,
    /// When it was frozen, in milliseconds since the epoch.
    pub created_at: i64,
    /// The rest of the record, JSON.
    pub body: String,
}

/// A named thing that is deployed again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectRow {
    /// Its name.
    pub name: String,
    /// The release it serves.
    pub active: Option<Uuid>,
    /// When it was first seen, in milliseconds since the epoch.
    pub created_at: i64,
    /// 1 when created, one more whenever the active release is set.
    pub version: u64,
}

/// An admitted plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRow {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The digest of its component.
    pub digest: String,
    /// When it was admitted, in milliseconds since the epoch.
    pub created_at: i64,
    /// The rest of the record, JSON.
    pub body: String,
}

/// A secret, of which only the sealed value is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// The project it belongs to.
    pub project: String,
    /// Its name within the project.
    pub name: String,
    /// The value, encrypted by whoever wrote it.
    pub sealed: Vec<u8>,
    /// When it was first set, in milliseconds since the epoch.
    pub created_at: i64,
    /// When it was last set, in milliseconds since the epoch.
    pub updated_at: i64,
}

/// A bearer token, of which only the hash is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id, to name it by.
    pub id: Uuid,
    /// What people call it; may be empty.
    pub name: String,
    /// The hash of the token.
    pub hash: String,
    /// What it allows, in the caller's own notation.
    pub scopes: String,
    /// When it was made, in milliseconds since the epoch.
    pub created_at: i64,
    /// When it stops to be good, in milliseconds since the epoch; never, if absent. The ledger does not
    /// judge it.
    pub expires_at: Option<i64>,
}

/// One line of the feed: a record that a commit touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRow {
    /// The commit's number.
    pub commit: u64,
    /// What kind of record.
    pub kind: Kind,
    /// Which one: a deployment's, release's or token's id, a project's name, a plugin's `name@version`,
    /// a secret's `project/name`.
    /// A record that is not there any more was removed.
    pub key: String,
}

/// The kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A [`DeploymentRow`].
    Deployment,
    /// A [`ReleaseRow`].
    Release,
    /// A [`ProjectRow`], which includes the active release.
    Project,
    /// A [`PluginRow`].
    Plugin,
    /// A [`SecretRow`].
    Secret,
    /// A [`TokenRow`].
    Token,
    /// A [`HoldRow`].
    Hold,
    /// An [`IdempotencyRow`]. The feed says nothing of them, nor of leases.
    IdempotencyKey,
}

impl Kind {
    /// The word it is recorded as.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Deployment => "deployment",
            Kind::Release => "release",
            Kind::Project => "project",
            Kind::Plugin => "plugin",
            Kind::Secret => "secret",
            Kind::Token => "token",
            Kind::Hold => "hold",
            Kind::IdempotencyKey => "idempotency key",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(word: &str) -> Result<Kind, ()> {
        [
            Kind::Deployment,
            Kind::Release,
            Kind::Project,
            Kind::Plugin,
            Kind::Secret,
            Kind::Token,
            Kind::Hold,
            Kind::IdempotencyKey,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == word)
        .ok_or(())
    }
}
