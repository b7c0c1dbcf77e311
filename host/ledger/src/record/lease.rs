//! Leases, holds and idempotency keys.

use uuid::Uuid;

/// The right of one deployment of a project to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// The project.
    pub project: String,
    /// The deployment that runs.
    pub deployment: Uuid,
    /// The process that runs it, in the caller's own notation.
    pub owner: String,
    /// The number of the commit that took the lease: greater than that of every earlier holder.
    pub fence: u64,
    /// When it was taken, in milliseconds since the epoch.
    pub acquired_at: i64,
    /// When its owner was last heard of, in milliseconds since the epoch.
    pub renewed_at: i64,
}

/// Why a project takes no deployments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRow {
    /// The project.
    pub project: String,
    /// The reason, for people.
    pub reason: String,
    /// The token that asked for it.
    pub token: Uuid,
    /// Since when, in milliseconds since the epoch.
    pub created_at: i64,
}

/// A request that its client may send again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRow {
    /// The token that sent it.
    pub token: Uuid,
    /// The project that it deploys to.
    pub project: String,
    /// What the client calls it.
    pub key: String,
    /// The deployment that it became.
    pub deployment: Uuid,
    /// The digest of its head.
    pub head: String,
    /// When it was first seen, in milliseconds since the epoch.
    pub created_at: i64,
    /// When it is forgotten, in milliseconds since the epoch. The ledger does not judge it.
    pub expires_at: i64,
}
