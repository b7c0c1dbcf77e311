//! The way of a deployment in: its head is settled and recorded, and its run begins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cofferdam_blobs::Ingest;
use cofferdam_ledger::{Change, Durability, Kind, NewDeployment};
use serde_json::json;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Host, Inner};
use crate::catalog::blocking;
use crate::check::Check;
use crate::data_dir::make_dir;
use crate::error::Error;
use crate::events::EventKind;
use crate::faults::point;
use crate::head::{ExpectedDigest, Head};
use crate::hold;
use crate::idempotency::{IdempotencyKey, Request};
use crate::intake::Intake;
use crate::live::{Live, PackageState};
use crate::name::{DeploymentId, ProjectName};
use crate::pipeline::{RELEASE, Run, spans};
use crate::plan::Plan;
use crate::record::{Body, Package, Record, Time};
use crate::status::Status;

/// How long is waited before a deployment that has just been accepted is looked for again: between its commit and its run
/// there is a moment.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a request with an idempotency key comes to.
#[derive(Debug)]
pub enum Begun {
    /// It is the first of its kind: a deployment whose package arrives.
    New(Intake),
    /// It was sent before. Its package is compared with the first one's, and starts nothing.
    Repeat(Repeat),
}

/// A request that was sent before. Its package has to be given to it like to an [`Intake`].
#[derive(Debug)]
pub struct Repeat {
    host: Arc<Inner>,
    request: Request,
    id: DeploymentId,
    /// The digest of the first request's package.
    blake3: String,
    hasher: Box<blake3::Hasher>,
}

impl Repeat {
    /// The deployment that the first request became.
    #[must_use]
    pub fn id(&self) -> DeploymentId {
        self.id
    }

    /// Takes the next bytes of the package.
    pub fn write(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Says that every byte has been given.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the package is not the first one's.
    pub async fn finish(self) -> Result<Record, Error> {
        if self.hasher.finalize().to_hex().as_str() != self.blake3 {
            return Err(self.request.differs(self.id, "package"));
        }
        self.host.record(self.id).await
    }
}

impl Host {
    /// Accepts a deployment: its head is checked and recorded, and its pipeline starts with the first
    /// byte that the returned intake is given.
    ///
    /// # Errors
    ///
    /// When the head, a plugin or a request is refused, and when nothing more is accepted.
    pub async fn begin(
        &self,
        project: &ProjectName,
        head: Head,
        media_type: Option<String>,
    ) -> Result<Intake, Error> {
        self.inner
            .clone()
            .begin(project, head, (media_type, None), Once::Never)
            .await
    }

    /// The record of the deployment that a request with this head became when it was sent before under this key, for
    /// a request whose package is not in it.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the key was used with another head.
    pub async fn repeated(
        &self,
        project: &ProjectName,
        head: &Head,
        token: Uuid,
        key: &IdempotencyKey,
    ) -> Result<Option<Record>, Error> {
        let request = Request::new(token, project.clone(), key.clone(), head);
        match self.inner.clone().seen(&request).await? {
            Seen::Never { .. } => Ok(None),
            Seen::Before(repeat) => self.inner.record(repeat.id).await.map(Some),
        }
    }

    /// The same for a request that may be sent again, under a key that is `token`'s own. While the first request
    /// of the key still arrives, a second one waits to see what becomes of it.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`]; [`Error::Conflict`] when the key was used with another head.
    pub async fn begin_once(
        &self,
        project: &ProjectName,
        head: Head,
        media_type: Option<String>,
        token: Uuid,
        key: IdempotencyKey,
    ) -> Result<Begun, Error> {
        let inner = &self.inner;
        let request = Request::new(token, project.clone(), key, &head);
        inner.recovered().await;
        loop {
            let replaces = match inner.clone().seen(&request).await? {
                Seen::Never { replaces } => replaces,
                Seen::Before(repeat) => return Ok(Begun::Repeat(repeat)),
            };
            let once = Once::Under(&request, replaces);
            let begun = inner
                .clone()
                .begin(project, head.clone(), (media_type.clone(), None), once)
                .await;
            match begun {
                Ok(intake) => return Ok(Begun::New(intake)),
                // Another request of the same key was faster.
                Err(Error::Ledger(cofferdam_ledger::Error::Exists {
                    kind: Kind::IdempotencyKey,
                    ..
                })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Says what a deployment with this head would get, and starts nothing.
    ///
    /// # Errors
    ///
    /// When the head, a plugin or a configuration is refused, the project is under a hold, or a granted secret does
    /// not exist. A request that is refused is no error here: it is what the answer says.
    pub async fn check(&self, project: &ProjectName, head: &Head) -> Result<Check, Error> {
        head.check(project)?;
        hold::check(&self.inner.ledger, project).await?;
        let activator = &self.inner.activator;
        let check = Plan::check(head, project, &activator.catalog, &activator.policy).await?;
        if check.allowed {
            // What is granted must be there, too.
            let plan = Plan::settle(head, project, &activator.catalog, &activator.policy).await?;
            plan.check_secrets(&self.inner.secrets, project).await?;
        }
        Ok(check)
    }
}

/// Whether a request has a key, and whose key it takes over.
enum Once<'a> {
    Never,
    Under(&'a Request, Option<Uuid>),
}

/// What is known of a request's key.
enum Seen {
    /// Nothing, or of a deployment that has nothing to compare with.
    Never {
        replaces: Option<Uuid>,
    },
    Before(Repeat),
}

impl Inner {
    /// Looks a request's key up, and waits while the first request of the key arrives.
    async fn seen(self: Arc<Self>, request: &Request) -> Result<Seen, Error> {
        let project = request.project.as_str();
        loop {
            let row = self
                .ledger
                .idempotency_key(request.token, project, request.key.as_str())
                .await?;
            let Some(row) = row else {
                return Ok(Seen::Never { replaces: None });
            };
            let replaces = Some(row.deployment);
            if row.expires_at <= Time::now().as_millis() {
                return Ok(Seen::Never { replaces });
            }
            request.check_head(&row)?;
            let id = DeploymentId::from(row.deployment);
            let live = self.live(id);
            let Some(deployment) = self.ledger.deployment(row.deployment).await? else {
                return Ok(Seen::Never { replaces });
            };
            let body = Body::parse(&deployment)?;
            request.check_package(id, &body.package)?;
            if let Some(blake3) = body.package.blake3 {
                return Ok(Seen::Before(Repeat {
                    request: request.clone(),
                    id,
                    blake3,
                    hasher: Box::default(),
                    host: self,
                }));
            }
            match live {
                _ if deployment.finished => return Ok(Seen::Never { replaces }),
                Some(live) => {
                    // Whatever comes of it is in the record then.
                    if !matches!(live.package_settled().await, PackageState::Durable) {
                        live.ended().await;
                    }
                }
                // Between its commit and its run there is a moment.
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// The same for a package that is here already.
    pub(super) async fn begin_stored(
        self: Arc<Self>,
        project: &ProjectName,
        head: Head,
        package: (Option<String>, Ingest),
        once: Option<(Uuid, IdempotencyKey)>,
    ) -> Result<Intake, Error> {
        let (media_type, stored) = package;
        let package = (media_type, Some(stored));
        let Some((token, key)) = once else {
            return self.begin(project, head, package, Once::Never).await;
        };
        let request = Request::new(token, project.clone(), key, &head);
        match self.clone().seen(&request).await? {
            Seen::Never { replaces } => {
                let once = Once::Under(&request, replaces);
                self.begin(project, head, package, once).await
            }
            // Another request of the same key was faster.
            Seen::Before(repeat) => Err(request.differs(repeat.id, "package")),
        }
    }

    /// What the package is, if anybody said so; and its bytes, if they are here already and do not arrive.
    async fn begin(
        self: Arc<Self>,
        project: &ProjectName,
        head: Head,
        package: (Option<String>, Option<Ingest>),
        once: Once<'_>,
    ) -> Result<Intake, Error> {
        self.recovered().await;
        if self.stopping.load(Ordering::SeqCst) {
            return Err(Error::Stopping);
        }
        if self.is_leaving(project) {
            return Err(Error::Conflict {
                message: format!("project {project} is being torn down: deploy when it is gone"),
            });
        }
        head.check(project)?;
        hold::check(&self.ledger, project).await?;
        let plan = Plan::settle(
            &head,
            project,
            &self.activator.catalog,
            &self.activator.policy,
        )
        .await?;
        plan.check_secrets(&self.secrets, project).await?;

        let id = DeploymentId::new();
        let accepted = self.accept(id, project, head, package, &plan, once).await;
        let (live, ingest, expected) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.discard(self.data.staging(id)).await;
                if let Err(error) = self.logs.remove(id.as_uuid()) {
                    tracing::warn!(deployment = %id, %error, "the log of a refused deployment stays behind");
                }
                self.data.remove_open_end(id);
                return Err(error);
            }
        };
        self.remember(&live);
        let turn = self.queue.enter(project, id);
        let run = Run {
            host: self.clone(),
            live: live.clone(),
            plan,
            from: 0,
            has_begun: false,
            package: Some(ingest.follow()),
            turn,
        };
        let span = spans::of_deployment(id, project);
        span.follows_from(tracing::Span::current());
        tokio::spawn(run.finish().instrument(span));
        self.begun.notify_waiters();
        Ok(Intake::new(self, live, ingest, expected))
    }

    /// Makes a place for a deployment and records it. On failure the caller takes the place away; the
    /// record is the last thing that can fail.
    async fn accept(
        &self,
        id: DeploymentId,
        project: &ProjectName,
        head: Head,
        (media_type, stored): (Option<String>, Option<Ingest>),
        plan: &Plan,
        once: Once<'_>,
    ) -> Result<(Arc<Live>, Ingest, Option<ExpectedDigest>), Error> {
        let release = self.data.staging(id).join(RELEASE);
        let marker = self.data.open_end(id);
        blocking(move || {
            make_dir(&release)?;
            std::fs::write(&marker, "").map_err(Error::io(format!("write {}", marker.display())))
        })
        .await??;
        point("staging-made");
        let log = self.logs.create(id.as_uuid())?;
        let fields =
            json!({ "status": Status::Queued, "project": project, "message": head.message });
        log.append(EventKind::Phase, None, fields).await?;
        let expected = head.digest.clone();
        let ingest = match stored {
            Some(ingest) => ingest,
            None if expected
                .as_ref()
                .is_some_and(|digest| digest.sha256.is_some()) =>
            {
                self.blobs.ingest_with_sha256(project.as_str()).await?
            }
            None => self.blobs.ingest(project.as_str()).await?,
        };

        let body = Body {
            package: Package {
                media_type,
                ..Package::default()
            },
            steps: plan.records(),
            plan: plan.kept(),
            head,
            ..Body::default()
        };
        let now = Time::now().as_millis();
        let mut changes = vec![
            Change::PutProject {
                name: project.to_string(),
                created_at: now,
            },
            Change::InsertDeployment(NewDeployment {
                id: id.as_uuid(),
                project: project.to_string(),
                status: Status::Queued.as_str().to_owned(),
                created_at: now,
                body: body.to_json(),
            }),
        ];
        if let Once::Under(request, replaces) = once {
            changes.push(Change::PutIdempotencyKey {
                row: request.row(id),
                replaces,
            });
        }
        self.ledger.commit(Durability::Process, changes).await?;
        point("accepted");
        let live = Live::new(id, project.clone(), body, log, self.ledger.clone());
        Ok((live, ingest, expected))
    }
}
