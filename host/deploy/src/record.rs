//! The record of a deployment: what the ledger keeps of it and what a client is shown.

use cofferdam_blobs::BlobId;
use cofferdam_ledger::DeploymentRow;
use cofferdam_sandbox::{Phase, Receipt};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::Origin;
use crate::error::Error;
use crate::events::Summary;
use crate::grant::GrantRecord;
use crate::head::{Head, Request};
use crate::hint;
use crate::journal::Journal;
use crate::name::{DeploymentId, ProjectName, ServiceName};
use crate::plan::PlanRecord;
use crate::readiness::Readiness;
use crate::status::{Status, derive};

/// A deployment as a client sees it (DESIGN section 6).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The deployment.
    pub id: DeploymentId,
    /// What is deployed.
    pub project: ProjectName,
    /// Where it stands.
    pub status: Status,
    /// Grows by one with every recorded change.
    pub version: u64,
    /// When it was accepted.
    pub created_at: Time,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// The head's message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// Whom it was begun for, and from where.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<Origin>,
    /// The package.
    pub package: Package,
    /// The steps, in the order in which they run.
    pub steps: Vec<StepRecord>,
    /// What came out.
    pub release: Option<ReleaseRecord>,
    /// What went wrong.
    pub error: Option<ErrorRecord>,
    /// The event log in short.
    pub events: EventsRecord,
}

/// What the ledger keeps of a deployment, beside the columns it searches by.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) head: Head,
    /// Whom it was begun for.
    #[serde(default)]
    pub(crate) origin: Option<Origin>,
    pub(crate) blob: Option<BlobId>,
    pub(crate) package: Package,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) release: Option<ReleaseRecord>,
    pub(crate) error: Option<ErrorRecord>,
    pub(crate) events: EventsRecord,
    /// What was settled when the deployment was accepted, and is not in its steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) plan: Vec<PlanRecord>,
    #[serde(default, skip_serializing_if = "Journal::is_empty")]
    pub(crate) journal: Journal,
}

/// What is known of the package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Package {
    /// Its length, once it is durable.
    pub bytes: Option<u64>,
    /// How many bytes have arrived.
    pub received: u64,
    /// Its BLAKE3 digest in hex, once it is durable.
    pub blake3: Option<String>,
    /// Its SHA-256 digest in hex, once it is durable, if the head promised one.
    pub sha256: Option<String>,
    /// What the client, or its first bytes, said it is.
    pub media_type: Option<String>,
}

/// How far a step has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepStatus {
    /// Not started.
    #[default]
    Pending,
    /// Waiting until fewer steps run.
    Queued,
    /// Running.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended otherwise.
    Failed,
    /// Stopped by the host.
    Cancelled,
}

/// One step of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StepRecord {
    /// `extract`, `install-1`, ..., `load`.
    pub name: String,
    /// Its place in the pipeline.
    pub phase: Phase,
    /// The plugin, by name and version where it has them.
    pub plugin: String,
    /// The digest of the component that runs.
    pub digest: String,
    /// How far it has come.
    pub status: StepStatus,
    /// When it started.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// What it was granted beside its limits, which the receipt has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantRecord>,
    /// What it used, next to what it was granted.
    pub receipt: Option<Receipt>,
    /// What it was granted and did not use: what its request could leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<String>,
}

impl StepRecord {
    pub(crate) fn pending(name: &str, phase: Phase, plugin: &str, digest: &str) -> Self {
        Self {
            name: name.to_owned(),
            phase,
            plugin: plugin.to_owned(),
            digest: digest.to_owned(),
            status: StepStatus::Pending,
            started_at: None,
            finished_at: None,
            grant: None,
            receipt: None,
            unused: Vec::new(),
        }
    }
}

/// A release in a record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseRecord {
    /// BLAKE3 over its files (see [`crate::freeze`]).
    pub digest: String,
    /// How many regular files it has.
    pub files: u64,
    /// Their bytes together.
    pub bytes: u64,
    /// What it runs.
    pub services: Vec<Service>,
    /// Where it is served; `None` when it has no service.
    pub url: Option<String>,
}

/// What a release runs, as its load step described it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Its name within the release.
    pub name: ServiceName,
    /// What it is.
    #[serde(flatten)]
    pub kind: ServiceKind,
    /// How it is asked whether it is ready to take traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Readiness>,
}

/// The kinds of service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ServiceKind {
    /// Files under a directory of the release.
    Static {
        /// The directory, relative to the release; `.` is the release itself.
        root: String,
    },
    /// A `wasi:http` component.
    Component {
        /// The component's file, relative to the release.
        path: String,
        /// What the service asks for.
        #[serde(default, skip_serializing_if = "Request::is_empty")]
        request: Box<Request>,
    },
}

impl ServiceKind {
    /// Whether a program answers, which may need time to get ready, and may fail.
    pub(crate) fn is_component(&self) -> bool {
        matches!(self, Self::Component { .. })
    }
}

impl Service {
    /// Reads the typed output with which a load step describes a service. Unlike the derived reader it
    /// refuses fields that it does not know: a misspelt one must not be lost in silence.
    pub(crate) fn parse(output: &serde_json::Value) -> Result<Self, String> {
        let service: Self =
            serde_json::from_value(output.clone()).map_err(|error| error.to_string())?;
        let known: &[&str] = match service.kind {
            ServiceKind::Static { .. } => &["name", "kind", "root", "ready"],
            ServiceKind::Component { .. } => &["name", "kind", "path", "request", "ready"],
        };
        let unknown = output
            .as_object()
            .and_then(|fields| fields.keys().find(|key| !known.contains(&key.as_str())));
        match unknown {
            Some(field) => Err(format!(
                "unknown field `{field}`, expected one of {}",
                known.join(", ")
            )),
            None => Ok(service),
        }
    }
}

/// Why a deployment ended badly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorRecord {
    /// The stable code (DESIGN section 7).
    pub code: String,
    /// The reason in a sentence.
    pub message: String,
    /// The step that failed, if it was one.
    pub step: Option<String>,
    /// The last lines that the step printed.
    pub lines: Vec<String>,
    /// The exit code, when the step exited by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<i32>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<Box<str>>,
}

impl ErrorRecord {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            step: None,
            lines: Vec::new(),
            exit_code: None,
            hint: hint::of(code).map(Box::from),
        }
    }
}

/// The event log in short.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct EventsRecord {
    /// The number of the newest event.
    pub last: u64,
    /// How many lines limits have dropped.
    pub dropped: u64,
    /// The first and the last entries around a marker.
    pub summary: Summary,
}

/// A moment in RFC 3339, UTC, with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(i64);

impl Time {
    /// The moment that is now.
    #[must_use]
    pub fn now() -> Self {
        Self(Timestamp::now().as_millisecond())
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0
    }

    pub(crate) fn from_millis(millis: i64) -> Self {
        Self(millis)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp:.3}"),
            Err(_) => f.write_str("unknown"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let timestamp = Timestamp::deserialize(deserializer)?;
        Ok(Self(timestamp.as_millisecond()))
    }
}

impl Body {
    pub(crate) fn parse(row: &DeploymentRow) -> Result<Self, Error> {
        serde_json::from_str(&row.body).map_err(|source| Error::Damaged {
            what: format!("deployment {}", row.id),
            source,
        })
    }

    /// Ends the deployment badly: whatever of it ran or waited has been stopped.
    pub(crate) fn fail(&mut self, error: ErrorRecord) {
        for step in &mut self.steps {
            if matches!(step.status, StepStatus::Running | StepStatus::Queued) {
                step.status = StepStatus::Cancelled;
                step.finished_at = Some(Time::now());
            }
        }
        self.error = Some(error);
        self.forget_the_way();
    }

    /// Leaves out what only a deployment under way needs.
    pub(crate) fn forget_the_way(&mut self) {
        self.plan = Vec::new();
        self.journal = Journal::default();
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a body has only string keys and serialises")
    }

    /// Puts the record together.
    pub(crate) fn into_record(self, row: &DeploymentRow) -> Result<Record, Error> {
        Ok(Record {
            id: row.id.into(),
            project: row.project.parse()?,
            status: derive(&self),
            version: row.version,
            created_at: Time::from_millis(row.created_at),
            finished_at: row.finished_at.map(Time::from_millis),
            message: self.head.message,
            by: self.origin,
            package: self.package,
            steps: self.steps,
            release: self.release,
            error: self.error,
            events: self.events,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_in_utc_with_milliseconds() {
        let time = Time::from_millis(1_700_000_000_007);
        assert_eq!(
            serde_json::to_value(time).unwrap(),
            "2023-11-14T22:13:20.007Z"
        );
        let back: Time = serde_json::from_value(serde_json::to_value(time).unwrap()).unwrap();
        assert_eq!(back, time);
    }

    #[test]
    fn a_service_is_flat_and_closed() {
        let service =
            Service::parse(&serde_json::json!({"name": "web", "kind": "static", "root": "public"}))
                .unwrap();
        assert_eq!(
            service.kind,
            ServiceKind::Static {
                root: "public".to_owned()
            }
        );
        assert!(
            Service::parse(&serde_json::json!({"name": "web", "kind": "exec", "path": "sh"}))
                .is_err()
        );
        let misspelt =
            serde_json::json!({"name": "web", "kind": "static", "root": ".", "rot": "x"});
        assert!(Service::parse(&misspelt).unwrap_err().contains("rot"));
    }
}
