//! What can go wrong, and the stable code under which a user meets it.

use cofferdam_blobs as blobs;
use cofferdam_ledger as ledger;
use cofferdam_sandbox as sandbox;

use crate::events::EventError;
use crate::freeze::FreezeError;
use crate::hold::HoldView;
use crate::name::{DeploymentId, NameError, ProjectName};
use crate::record::Record;
use crate::upload::UploadId;

/// Whose fault it is, and so which kind of answer it deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong.
    Invalid,
    /// What was asked for does not exist, or may not be seen.
    NotFound,
    /// The state of things does not allow it now.
    Conflict,
    /// More was sent than may be.
    TooLarge,
    /// More was asked for than the operator allows.
    Forbidden,
    /// The request is well-formed and its content cannot be processed.
    Unprocessable,
    /// The server cannot take it now.
    Unavailable,
    /// There is no room.
    Storage,
    /// The host is at fault.
    Internal,
}

/// Everything that this crate can refuse or fail at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The head is not one.
    #[error("the head is not valid: {message}")]
    HeadInvalid {
        /// What is wrong with it.
        message: String,
    },
    /// A step's configuration does not fit its plugin.
    #[error("the configuration of {step} does not fit {plugin}: {message}")]
    ConfigInvalid {
        /// The step.
        step: String,
        /// The plugin.
        plugin: String,
        /// What does not fit.
        message: String,
    },
    /// No such plugin was admitted.
    #[error("the plugin {plugin} is not known here; admitted are: {known}")]
    PluginUnknown {
        /// What the pipeline asked for.
        plugin: String,
        /// What there is.
        known: String,
    },
    /// The component cannot run here.
    #[error("the component cannot be a plugin: {message}")]
    PluginIncompatible {
        /// Why.
        message: String,
    },
    /// The operator's policy does not admit this plugin.
    #[error("{plugin} is not admitted: {message}")]
    PluginUntrusted {
        /// Its name and version.
        plugin: String,
        /// Why, and what to do.
        message: String,
    },
    /// The policy on signatures cannot be followed.
    #[error("the policy on the signatures of plugins is not valid: {message}")]
    SignaturePolicy {
        /// Why.
        message: String,
    },
    /// A step asks for more than it may have.
    #[error("{step} asks for what it may not have: {}", denied.join("; "))]
    GrantDenied {
        /// The step.
        step: String,
        /// One sentence for each capability.
        denied: Vec<String>,
    },
    /// A text that is no scope of a token.
    #[error(
        "{scope:?} is not a scope; use admin, deploy:PROJECT, deploy:*, read:PROJECT or read:*"
    )]
    ScopeInvalid {
        /// The text.
        scope: String,
    },
    /// A token cannot be as it was asked for.
    #[error("the token is not valid: {message}")]
    TokenInvalid {
        /// What is wrong with it.
        message: String,
    },
    /// The value cannot be a secret.
    #[error("the secret is not valid: {message}")]
    SecretInvalid {
        /// What is wrong with it.
        message: String,
    },
    /// No message can be sent there.
    #[error("the webhook is not valid: {message}")]
    WebhookInvalid {
        /// Why.
        message: String,
    },
    /// The host cannot open or seal secrets.
    #[error("no secret can be used: {message}")]
    SecretsUnavailable {
        /// Why, and what its operator does about it.
        message: String,
    },
    /// The package does not have the digest that the head promised.
    #[error("the package has the {algorithm} digest {actual}, the head says {expected}")]
    DigestMismatch {
        /// `blake3` or `sha256`.
        algorithm: &'static str,
        /// The digest in the head.
        expected: String,
        /// The digest of the bytes that arrived.
        actual: String,
    },
    /// The package's bytes stopped coming.
    #[error("the upload was interrupted after {received} bytes")]
    UploadInterrupted {
        /// How many bytes had arrived.
        received: u64,
    },
    /// A package leans on chunks that its project does not hold.
    #[error(
        "the package leans on chunks that the project does not hold: ask again which are missing, and send those"
    )]
    ChunksMissing,
    /// A package's list of chunks makes no sense.
    #[error("{message}")]
    ListInvalid {
        /// What is wrong with it.
        message: String,
    },
    /// A chunk that was sent is another than the list says.
    #[error("{message}")]
    ChunkMismatch {
        /// Both digests.
        message: String,
    },
    /// A package, or an upload, has more bytes than are taken.
    #[error("it is larger than {limit} bytes, the most that is taken here")]
    PackageTooLarge {
        /// The most.
        limit: u64,
    },
    /// An upload is not where the request goes on.
    #[error("the upload has {expected} bytes, and the request goes on at {provided}")]
    UploadOffset {
        /// Where it is.
        expected: u64,
        /// Where the request thinks it is.
        provided: u64,
    },
    /// An upload is complete already.
    #[error("upload {id} is complete: deploy it, or make another")]
    UploadComplete {
        /// The upload.
        id: UploadId,
    },
    /// An upload has another length than was said.
    #[error("the upload was to have {length} bytes, and this would make {sent} of it")]
    UploadLength {
        /// The length that was said.
        length: u64,
        /// The length that it would get.
        sent: u64,
    },
    /// A newer request goes on with the upload.
    #[error("a newer request goes on with this upload")]
    TakenOver,
    /// The deployment ended while its package was still arriving.
    #[error("{}", failed_message(.record))]
    Failed {
        /// How it ended.
        record: Box<Record>,
    },
    /// What was asked for does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// A process of a deployment that was to stop does not die.
    #[error("deployment {deployment} was to stop, and something of it still runs: {message}")]
    StillRuns {
        /// The deployment.
        deployment: DeploymentId,
        /// What still runs.
        message: String,
    },
    /// The project takes no deployments for now.
    #[error(
        "project {project} takes no deployments since {}: {}",
        hold.since,
        hold.reason
    )]
    Held {
        /// The project.
        project: ProjectName,
        /// Why, and since when.
        hold: HoldView,
    },
    /// The reason of a hold is none.
    #[error("the hold is not valid: {message}")]
    HoldInvalid {
        /// What is wrong with it.
        message: String,
    },
    /// The idempotency key is none.
    #[error("the idempotency key is not valid: {message}")]
    KeyInvalid {
        /// What is wrong with it.
        message: String,
    },
    /// Another state of things stands in the way.
    #[error("{message}")]
    Conflict {
        /// Which.
        message: String,
    },
    /// A name that is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The host is stopping.
    #[error("the server is stopping; try again when it is back")]
    Stopping,
    /// The disk is full.
    #[error("there is no room left on the server's disk")]
    StorageFull,
    /// A project holds as many bytes of packages as it may.
    #[error(
        "the project {project} holds {used} of the {quota} bytes of packages that it may, and this one needs more: \
         remove packages of its old deployments (DELETE /v1/deployments/ID/package), or raise storage_bytes in the \
         server's policy"
    )]
    QuotaExceeded {
        /// Which.
        project: String,
        /// How many bytes it holds, running uploads included.
        used: u64,
        /// How many it may.
        quota: u64,
    },
    /// What is free on the disk is kept free.
    #[error(
        "{free} bytes are free on the server's disk, and {floor} have to stay free (serve --min-free): remove what is \
         not needed, then send it again"
    )]
    FloorReached {
        /// How many bytes are free.
        free: u64,
        /// How many have to stay free.
        floor: u64,
    },
    /// The data directory cannot be used.
    #[error("{message}")]
    DataDirectory {
        /// Why, and what to do.
        message: String,
    },
    /// A release cannot be made of what the steps left.
    #[error("the release is not valid: {message}")]
    ReleaseInvalid {
        /// Why.
        message: String,
    },
    /// A new release did not become ready.
    #[error("the release did not become ready: {message}")]
    NotReady {
        /// Why.
        message: String,
    },
    /// The ledger failed.
    #[error("the ledger failed")]
    Ledger(#[source] ledger::Error),
    /// The store of blobs failed.
    #[error("the blob store failed")]
    Blobs(#[source] blobs::Error),
    /// The sandbox failed, through no fault of the guest.
    #[error("the sandbox failed")]
    Sandbox(#[source] sandbox::Error),
    /// The event log failed.
    #[error("the event log failed")]
    Events(#[source] EventError),
    /// A release could not be frozen, through no fault of its own.
    #[error("a release could not be frozen")]
    Freeze(#[source] FreezeError),
    /// A file or directory of the host's own could not be used.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A record in the ledger does not parse.
    #[error("the record of {what} is damaged")]
    Damaged {
        /// Whose record.
        what: String,
        /// Where it does not parse.
        #[source]
        source: serde_json::Error,
    },
    /// A task of the host's own ended without a result.
    #[error("an internal task ended early")]
    Task,
}

fn failed_message(record: &Record) -> String {
    record.error.as_ref().map_or_else(
        || format!("the deployment has ended as {}", record.status.as_str()),
        |error| error.message.clone(),
    )
}

impl Error {
    /// The stable code of DESIGN section 7; `internal` for what a user can do nothing about.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::HeadInvalid { .. } | Self::Name(_) => "head_invalid",
            Self::ConfigInvalid { .. } => "config_invalid",
            Self::PluginUnknown { .. } => "plugin_unknown",
            Self::PluginIncompatible { .. } => "plugin_incompatible",
            Self::PluginUntrusted { .. } => "forbidden",
            Self::GrantDenied { .. } => "grant_denied",
            Self::SecretInvalid { .. }
            | Self::ScopeInvalid { .. }
            | Self::TokenInvalid { .. }
            | Self::WebhookInvalid { .. }
            | Self::HoldInvalid { .. }
            | Self::KeyInvalid { .. }
            | Self::UploadLength { .. } => "request_invalid",
            Self::DigestMismatch { .. } | Self::ChunkMismatch { .. } => "digest_mismatch",
            Self::ChunksMissing => "chunks_missing",
            Self::ListInvalid { .. } => "package_invalid",
            Self::PackageTooLarge { .. } => "package_too_large",
            Self::UploadOffset { .. } | Self::UploadComplete { .. } | Self::TakenOver => "conflict",
            Self::UploadInterrupted { .. } => "upload_interrupted",
            Self::Failed { record } => record
                .error
                .as_ref()
                .map_or("conflict", |error| &error.code),
            Self::NotFound { .. } => "not_found",
            Self::Conflict { .. } | Self::Held { .. } | Self::SecretsUnavailable { .. } => {
                "conflict"
            }
            Self::Stopping | Self::NotReady { .. } => "not_ready",
            Self::StorageFull | Self::QuotaExceeded { .. } | Self::FloorReached { .. } => {
                "storage_full"
            }
            Self::ReleaseInvalid { .. } => "release_invalid",
            Self::StillRuns { .. } | Self::Sandbox(sandbox::Error::Stuck { .. }) => "step_stuck",
            // Not the step's fault, and not one that the next attempt meets again.
            Self::Sandbox(sandbox::Error::Worker { .. } | sandbox::Error::Busy { .. }) => {
                "interrupted"
            }
            Self::DataDirectory { .. }
            | Self::SignaturePolicy { .. }
            | Self::Ledger(_)
            | Self::Blobs(_)
            | Self::Sandbox(_)
            | Self::Events(_)
            | Self::Freeze(_)
            | Self::Io { .. }
            | Self::Damaged { .. }
            | Self::Task => "internal",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::HeadInvalid { .. }
            | Self::Name(_)
            | Self::SecretInvalid { .. }
            | Self::ScopeInvalid { .. }
            | Self::TokenInvalid { .. }
            | Self::WebhookInvalid { .. }
            | Self::HoldInvalid { .. }
            | Self::KeyInvalid { .. } => ErrorKind::Invalid,
            Self::ConfigInvalid { .. }
            | Self::PluginUnknown { .. }
            | Self::PluginIncompatible { .. }
            | Self::DigestMismatch { .. }
            | Self::ChunkMismatch { .. }
            | Self::ReleaseInvalid { .. }
            | Self::NotReady { .. } => ErrorKind::Unprocessable,
            Self::PluginUntrusted { .. } | Self::GrantDenied { .. } => ErrorKind::Forbidden,
            Self::UploadInterrupted { .. }
            | Self::ListInvalid { .. }
            | Self::UploadLength { .. } => ErrorKind::Invalid,
            Self::PackageTooLarge { .. } => ErrorKind::TooLarge,
            Self::ChunksMissing
            | Self::UploadOffset { .. }
            | Self::UploadComplete { .. }
            | Self::TakenOver => ErrorKind::Conflict,
            Self::Failed { record } => match record.error.as_ref().map(|error| error.code.as_str())
            {
                Some("storage_full") => ErrorKind::Storage,
                Some("superseded" | "cancelled" | "chunks_missing") => ErrorKind::Conflict,
                Some("interrupted") => ErrorKind::Unavailable,
                Some("internal") => ErrorKind::Internal,
                _ => ErrorKind::Unprocessable,
            },
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Conflict { .. }
            | Self::StillRuns { .. }
            | Self::Held { .. }
            | Self::SecretsUnavailable { .. } => ErrorKind::Conflict,
            Self::Stopping
            | Self::Sandbox(
                sandbox::Error::Stuck { .. }
                | sandbox::Error::Worker { .. }
                | sandbox::Error::Busy { .. },
            ) => ErrorKind::Unavailable,
            Self::StorageFull | Self::QuotaExceeded { .. } | Self::FloorReached { .. } => {
                ErrorKind::Storage
            }
            Self::DataDirectory { .. }
            | Self::SignaturePolicy { .. }
            | Self::Ledger(_)
            | Self::Blobs(_)
            | Self::Sandbox(_)
            | Self::Events(_)
            | Self::Freeze(_)
            | Self::Io { .. }
            | Self::Damaged { .. }
            | Self::Task => ErrorKind::Internal,
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::StorageFull
            }
            _ => Self::Io { action, source },
        }
    }

    /// The whole chain of causes on one line, for a log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

impl From<ledger::Error> for Error {
    fn from(error: ledger::Error) -> Self {
        match error {
            ledger::Error::Full => Self::StorageFull,
            error => Self::Ledger(error),
        }
    }
}

impl From<blobs::Error> for Error {
    fn from(error: blobs::Error) -> Self {
        match error {
            blobs::Error::StorageFull { .. } => Self::StorageFull,
            blobs::Error::QuotaExceeded {
                namespace,
                used,
                quota,
            } => Self::QuotaExceeded {
                project: namespace,
                used,
                quota,
            },
            blobs::Error::FloorReached { free, floor, .. } => Self::FloorReached { free, floor },
            blobs::Error::NotHeld => Self::ChunksMissing,
            blobs::Error::List { .. } => Self::ListInvalid {
                message: error.to_string(),
            },
            blobs::Error::ChunkMismatch(_) => Self::ChunkMismatch {
                message: error.to_string(),
            },
            error => Self::Blobs(error),
        }
    }
}

impl From<EventError> for Error {
    fn from(error: EventError) -> Self {
        if error.is_full() {
            Self::StorageFull
        } else {
            Self::Events(error)
        }
    }
}

impl From<FreezeError> for Error {
    fn from(error: FreezeError) -> Self {
        if error.is_full() {
            Self::StorageFull
        } else if error.is_refusal() {
            Self::ReleaseInvalid {
                message: error.to_string(),
            }
        } else {
            Self::Freeze(error)
        }
    }
}
