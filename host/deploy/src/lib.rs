//! Deployments: a package goes in, three kinds of sandboxed step run over it, and an immutable release
//! comes out and is served.
//!
//! [`Host`] is everything that one data directory holds. [`Host::begin`] accepts a deployment and returns
//! its [`Intake`]; bytes given to the intake are stored as verified chunks and reach the extract step
//! while they still arrive. What happens is a log of numbered events ([`Host::events`]), where it stands
//! is a [`Record`] ([`Host::deployment`]), and what answers for a host name is a [`Route`]
//! ([`Host::route`]).
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | [`head`], `plan`, `grant` | what a client asks for, and what it is settled to before a byte is read |
//! | [`policy`], `check` | the operator's ceilings; what a package would get under them |
//! | `cache` | what install steps keep from one deployment to the next |
//! | `intake`, `live` | the package's way in; the one place where a running deployment is recorded |
//! | `upload` | packages that arrive in several requests, and who may write to them |
//! | `queue`, `lease`, `places` | whose turn it is; the right to run, for one run; how many steps run at a time |
//! | `hold`, `idempotency` | projects that take no deployments; requests that are sent again |
//! | `pipeline` | the steps, the freezing and the end |
//! | [`freeze`] | from a staging directory to an immutable, digested, durable release |
//! | `activation`, `readiness`, `route` | from the description of services to what answers for a host name |
//! | `reconcile` | what should be served, held against what is |
//! | `release` | what becomes of releases: history, rollback, sharing, retention, removal |
//! | [`events`] | the append-only log of a deployment, its replay and its live subscribers |
//! | `status` | the state, derived in one function from what was recorded |
//! | `ending` | the last events of a log, for the pipeline and for recovery |
//! | `journal`, `recovery` | what is about to be done to the disk; what a start does about what the last run left |
//! | [`faults`] | where tests kill the host |
//! | `secrets` | values that steps are granted by name, sealed at rest |
//! | [`backup`], `health` | the whole state in one file and back; quick looks at whether it is whole |
//! | `meter` | figures about what the host does |
//! | `schema` | JSON schemas of texts with rules |
//! | `catalog`, `token`, `data_dir` | admitted plugins, bearer tokens, the directory itself |
//! | `audit`, `webhook` | who did what; who is told of a project's ends |
//! | `follow` | the events of all of a project's deployments |
//! | [`hint`] | what to do about each code |
//! | `signature` | which keys the operator trusts to sign plugins |
//!
//! # Example
//!
//! ```no_run
//! # async fn example(package: Vec<bytes::Bytes>) -> Result<(), cofferdam_deploy::Error> {
//! use cofferdam_deploy::{Head, Host, HostOptions, Isolation, Next, Policy, StorageOptions};
//!
//! let options = HostOptions { data: "data".into(), shipped: Vec::new(), domain: "localhost".to_owned(), isolation: Isolation::Thread, policy: Policy::built_in(), max_steps: 4, storage: StorageOptions::default() };
//! let host = Host::open(options).await?;
//! let mut intake = host.begin(&"blog".parse()?, Head::default(), None).await?;
//! let mut events = host.events(intake.id(), 0).await?;
//! for bytes in package {
//!     intake.write(bytes).await?;
//! }
//! intake.finish().await?;
//! while let Next::Event(event) = events.next().await? {
//!     println!("{}", event.json);
//! }
//! # Ok(())
//! # }
//! ```

mod activation;
mod audit;
pub mod backup;
mod cache;
mod catalog;
mod check;
mod data_dir;
mod ending;
mod error;
pub mod events;
pub mod faults;
mod follow;
pub mod freeze;
mod grant;
pub mod head;
mod health;
pub mod hint;
mod hold;
mod host;
mod idempotency;
mod intake;
mod journal;
mod lease;
mod live;
mod meter;
mod name;
mod pipeline;
mod places;
mod plan;
pub mod policy;
mod queue;
mod readiness;
mod reconcile;
mod record;
mod recovery;
mod release;
mod route;
mod schema;
mod secrets;
mod service;
mod signature;
mod status;
mod storage;
mod token;
pub mod units;
mod upload;
mod webhook;

pub use audit::{Act, AuditEntry, AuditQuery, Origin};
pub use catalog::{Admission, PluginView, ShippedPlugin};
pub use check::{Check, ServiceCheck, StepCheck};
pub use cofferdam_blobs::{
    Assembly, ChunkId, ChunkList, ChunkRef, Chunker, ChunkerParams, Digest as BlobDigest,
    Error as BlobError, Input, MAX_LISTED_CHUNKS, Named, Supply,
};
pub use cofferdam_sandbox::worker::{Isolation, WorkerOptions};
pub use cofferdam_sandbox::{HttpService, Phase, ServiceError};
pub use error::{Error, ErrorKind};
pub use events::{Next, StoredEvent, Subscription};
pub use follow::{ProjectEvents, ProjectNext};
pub use grant::{Finding, GrantRecord};
pub use head::Head;
pub use health::{LedgerHealth, ledger_health, packages_health};
pub use hold::HoldView;
pub use host::{
    Begun, Broken, Filter, Host, HostOptions, Latest, MAX_PAGE, MAX_UPLOADS, PackageReader,
    ProjectView, Repeat,
};
pub use idempotency::IdempotencyKey;
pub use intake::{Intake, Refusal};
pub use lease::LeaseView;
pub use meter::{BUCKETS, Figures, Histogram, HistogramView};
pub use name::{
    DeploymentId, NameError, PluginName, PluginRef, ProjectName, SecretName, ServiceName, TokenName,
};
pub use places::default_max_steps;
pub use plan::check_config;
pub use policy::Policy;
pub use readiness::Readiness;
pub use reconcile::{ServiceState, ServiceView};
pub use record::{
    ErrorRecord, EventsRecord, Package, Record, ReleaseRecord, Service, ServiceKind, StepRecord,
    StepStatus, Time,
};
pub use release::{Activation, Cause, FileChange, FileChanges, Rollback, StepTime, Tally};
pub use route::{Health, Route, StaticRoot, Target};
pub use secrets::{MAX_SECRET_BYTES, MAX_SECRETS, SecretStore, SecretView, StoredSecret};
pub use signature::SignaturePolicy;
pub use status::{STATUSES, Status};
pub use storage::{Collected, StorageOptions};
pub use token::{Identity, MAX_SCOPES, MAX_TOKENS, NewToken, Scope, TokenStore, TokenView};
pub use upload::{Append, UploadClaim, UploadId, UploadView};
pub use webhook::{NewWebhook, WebhookView};
