//! What a commit is made of.

use std::fmt;

use uuid::Uuid;

use crate::{
    DeliveryRow, HoldRow, IdempotencyRow, NewActivation, NewAudit, NewDeployment, PluginRow,
    ReleaseRow, SecretRow, ServiceRow, TokenRow, WebhookRow,
};

/// What a commit must survive before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process: the operating system has it. It reaches the disk with the next
    /// [`Durability::Power`] commit, or when the log is checkpointed.
    Process,
    /// The loss of power: it is synced before the commit returns, and every earlier commit with it.
    Power,
}

/// A commit's number: 1 for the first, one more for each that follows, with no gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit(pub u64);

impl Commit {
    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One change of one record. The changes of a commit happen in their order, all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes sure that a project exists. One that does keeps its age, and nothing is said in the feed.
    PutProject {
        /// Its name.
        name: String,
        /// When it was first seen, in milliseconds since the epoch.
        created_at: i64,
    },
    /// Records a deployment. Its project must exist.
    InsertDeployment(NewDeployment),
    /// Moves a deployment on, if it still is what the caller saw and has not ended.
    UpdateDeployment {
        /// Which one.
        id: Uuid,
        /// The version the caller saw.
        expect: u64,
        /// Its new status.
        status: String,
        /// Whether this ends it, for ever.
        finished: bool,
        /// The rest of the record, JSON.
        body: String,
    },
    /// Records what a deployment left. The deployment must be of the same project.
    InsertRelease(ReleaseRow),
    /// Makes a release of the project the one it serves, or none.
    SetActive {
        /// The project, which must exist.
        project: String,
        /// The release to serve from now on.
        release: Option<Uuid>,
        /// When given, the change holds only if this is what the project serves now.
        expect: Option<Option<Uuid>>,
    },
    /// Records an admitted plugin. A version is admitted once.
    InsertPlugin(PluginRow),
    /// Forgets a plugin.
    RemovePlugin {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
    },
    /// Records a secret, or replaces the one of the same project and name; that keeps its `created_at`.
    PutSecret(SecretRow),
    /// Forgets a secret.
    RemoveSecret {
        /// The project it belongs to.
        project: String,
        /// Its name.
        name: String,
    },
    /// Records a token.
    InsertToken(TokenRow),
    /// Forgets a token.
    RemoveToken {
        /// Its id.
        id: Uuid,
    },
    /// Forgets a release that no project serves.
    RemoveRelease {
        /// Its id.
        id: Uuid,
    },
    /// Forgets a project and everything that belongs to it, but for the audit log. One that is not there is
    /// gone already. All its deployments must have ended.
    RemoveProject {
        /// Its name.
        name: String,
    },
    /// Gives a project's lease to a deployment, under the number of this commit. Nobody may have it.
    TakeLease {
        /// The project.
        project: String,
        /// The deployment that is to run.
        deployment: Uuid,
        /// The process that runs it.
        owner: String,
        /// When, in milliseconds since the epoch.
        at: i64,
    },
    /// Notes that the owner of a lease is alive, if the lease still is its own.
    RenewLease {
        /// The project.
        project: String,
        /// The number under which the lease was taken.
        fence: u64,
        /// When, in milliseconds since the epoch.
        at: i64,
    },
    /// Gives a lease back, if it still has this number.
    FreeLease {
        /// The project.
        project: String,
        /// The number under which the lease was taken.
        fence: u64,
    },
    /// Changes nothing, and lets the commit happen only while the lease has this number.
    RequireLease {
        /// The project.
        project: String,
        /// The number under which the lease was taken.
        fence: u64,
    },
    /// Puts a project under a hold, in place of one that it is under.
    PutHold(HoldRow),
    /// Ends a project's hold. Without one, nothing is said in the feed.
    RemoveHold {
        /// The project.
        project: String,
    },
    /// Remembers a request. Its key must not be in use, but by the request that became `replaces`.
    PutIdempotencyKey {
        /// The request.
        row: IdempotencyRow,
        /// The deployment whose key this may take over.
        replaces: Option<Uuid>,
    },
    /// Forgets requests whose time has passed.
    ForgetIdempotencyKeys {
        /// Those that expire at or before this, in milliseconds since the epoch.
        before: i64,
    },
    /// A change of which the feed says nothing.
    Beside(Beside),
}

/// Changes of records that are this machine's own, or that go with another change: the feed says nothing of
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beside {
    /// Adds to the audit log.
    Audit(NewAudit),
    /// Adds to the history of a project's pointer, in the commit that moves it.
    Activation(NewActivation),
    /// Keeps a deployment's release and package from any retention.
    Pin {
        /// The deployment.
        deployment: Uuid,
        /// Its project.
        project: String,
        /// When, in milliseconds since the epoch.
        at: i64,
    },
    /// Takes a pin away, if there is one.
    Unpin {
        /// The deployment.
        deployment: Uuid,
    },
    /// Records how a service does, if that is news.
    PutService(ServiceRow),
    /// Forgets the services of a release.
    RemoveServices {
        /// The project.
        project: String,
        /// The release.
        release: Uuid,
    },
    /// Records where a project's news go; a later one replaces it.
    PutWebhook(WebhookRow),
    /// Forgets where a project's news go, and what was still to be told.
    RemoveWebhook {
        /// The project.
        project: String,
    },
    /// Puts news where they wait to be told, if the project has a webhook.
    Enqueue(DeliveryRow),
    /// Puts off a delivery that nobody took.
    Postpone {
        /// The delivery.
        delivery: Uuid,
        /// When to try next, in milliseconds since the epoch.
        next_at: i64,
        /// Why nobody took it.
        error: String,
    },
    /// Forgets a delivery, which was taken or is given up.
    Dequeue {
        /// The delivery.
        delivery: Uuid,
    },
}

impl From<Beside> for Change {
    fn from(beside: Beside) -> Change {
        Change::Beside(beside)
    }
}
