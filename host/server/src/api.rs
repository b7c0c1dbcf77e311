//! The HTTP API: a table of routes ([`routes`]), and what every request passes on its way to one.
//!
//! A request gets an id and a span; its token is checked against what its route demands; then the
//! route's handler runs with what was authorised, and not before a byte of the body was asked for. What
//! goes wrong on the way is a [`Problem`].

mod audit;
mod auth;
mod check;
mod deploy;
mod deployments;
mod events;
mod health;
mod holds;
mod log;
mod plugins;
mod problem;
mod projects;
mod routes;
mod secrets;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Query, RawPathParams};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use cofferdam_deploy::{DeploymentId, Host, Identity, ProjectName, Scope};
use http::header::{CONNECTION, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::field::{self, display};
use tracing::{Instrument as _, Span, debug, info, info_span};
use uuid::Uuid;

use self::problem::Problem;
use self::routes::{Access, Answer, ENDPOINTS, Endpoint, Right};
use crate::connections::Peer;
use crate::upload::body::BodyLimits;

/// Components that are received or admitted at a time. Each is held in memory whole.
const MAX_ADMISSIONS: usize = 2;

/// The name under which an answer carries its request's id.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The parameters of a path, unless they are not UTF-8.
type Params = Result<RawPathParams, RawPathParamsRejection>;

/// The API of one host. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    host: Host,
    body_limits: BodyLimits,
    max_package_bytes: u64,
    stop: CancellationToken,
    detached: TaskTracker,
    admissions: Arc<Semaphore>,
}

/// A request on its way to its handler.
pub(crate) struct Call {
    api: Api,
    parts: Parts,
    params: Vec<(String, String)>,
    body: Body,
}

impl Api {
    /// An API that ends its event streams when `stop` is cancelled.
    pub(crate) fn new(
        host: Host,
        body_limits: BodyLimits,
        max_package_bytes: u64,
        stop: CancellationToken,
    ) -> Self {
        let inner = Inner {
            host,
            body_limits,
            max_package_bytes,
            stop,
            detached: TaskTracker::new(),
            admissions: Arc::new(Semaphore::new(MAX_ADMISSIONS)),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The table of routes as a service. `HEAD` is answered wherever `GET` is.
    pub(crate) fn router(&self) -> Router {
        let mut router = Router::new();
        for endpoint in ENDPOINTS {
            router = router.route(endpoint.path, self.mount(endpoint));
        }
        router
            .method_not_allowed_fallback(|request| refuse(request, Problem::bad_method()))
            .fallback(|request| refuse(request, Problem::no_route()))
    }

    fn mount(&self, endpoint: &'static Endpoint) -> MethodRouter {
        let api = self.clone();
        let handler = move |params: Params, request: Request<Body>| {
            let api = api.clone();
            async move {
                let params = match params {
                    Ok(params) => params,
                    Err(error) => {
                        return refuse(request, Problem::bad_request(error.body_text())).await;
                    }
                };
                let params = params
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()));
                let params = params.collect();
                let (parts, body) = request.into_parts();
                answer(
                    endpoint,
                    Call {
                        api,
                        parts,
                        params,
                        body,
                    },
                )
                .await
            }
        };
        MethodRouter::new().on(endpoint.filter(), handler)
    }

    /// Returns when nothing that a request began is under way any more.
    pub(crate) async fn settled(&self) {
        self.inner.detached.close();
        self.inner.detached.wait().await;
    }

    /// Runs work that must not stop halfway when the client of a request goes away.
    fn detach<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.inner.detached.spawn(work.instrument(Span::current()))
    }

    fn host(&self) -> &Host {
        &self.inner.host
    }
}

impl Call {
    /// A parameter of the path, decoded.
    fn param(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// The query; a parameter that the route does not know is refused, because ignoring a filter answers
    /// another question.
    fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        match Query::try_from_uri(&self.parts.uri) {
            Ok(Query(query)) => Ok(query),
            Err(error) => Err(Problem::bad_request(error.body_text())),
        }
    }

    /// Who asks, for a record that people read.
    fn who(&self) -> String {
        match self.parts.extensions.get::<Identity>() {
            Some(Identity {
                name: Some(name), ..
            }) => format!("token {name}"),
            Some(identity) => format!("token {}", identity.id),
            None => "nobody".to_owned(),
        }
    }

    /// Whether the client's `Accept` names this media type.
    fn accepts(&self, media_type: &str) -> bool {
        let values = self.parts.headers.get_all(http::header::ACCEPT).iter();
        let ranges = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        let mut names = ranges.map(|range| range.split(';').next().unwrap_or_default().trim());
        names.any(|name| name.eq_ignore_ascii_case(media_type))
    }
}

/// Answers a request that a route of the table matches.
async fn answer(endpoint: &'static Endpoint, call: Call) -> Response {
    let seen = Seen::of(&call.parts, &call.body, endpoint.path);
    let work = async move {
        let api = call.api.clone();
        match authorise(endpoint, call).await? {
            Admitted {
                answer,
                audit: None,
            } => answer.await,
            // What changes something is done, and written down, though its client goes away.
            Admitted {
                answer,
                audit: Some(audit),
            } => {
                let done = api.detach(async move {
                    let response = answer.await?;
                    if response.status().is_success() {
                        let told = response.extensions().get().cloned();
                        audit.write(told.unwrap_or_default()).await;
                    }
                    Ok(response)
                });
                done.await.map_err(|error| Problem::internal(&error))?
            }
        }
    };
    seen.through(work).await
}

/// Answers a request that has no handler.
async fn refuse(request: Request<Body>, problem: Problem) -> Response {
    let (parts, body) = request.into_parts();
    // The path is the client's own text; what it says is not worth a line in a log.
    let seen = Seen::of(&parts, &body, "none");
    seen.through(async { Err(problem) }).await
}

/// What a request leaves in the log. Tokens and queries do not.
struct Seen {
    id: Uuid,
    span: Span,
    route: &'static str,
    has_body: bool,
}

impl Seen {
    fn of(parts: &Parts, body: &Body, route: &'static str) -> Self {
        let id = Uuid::now_v7();
        let peer = parts
            .extensions
            .get()
            .map(|Peer(address)| display(*address));
        let span = info_span!(
            "request",
            %id,
            method = %parts.method,
            route,
            peer,
            status = field::Empty,
            code = field::Empty,
        );
        let has_body = !http_body::Body::is_end_stream(body);
        Self {
            id,
            span,
            route,
            has_body,
        }
    }

    /// Runs the work of the request in its span, and makes an answer of what comes out.
    async fn through(self, work: impl Future<Output = Result<Response, Problem>>) -> Response {
        let Self {
            id,
            span,
            route,
            has_body,
        } = self;
        let begun = Instant::now();
        let mut response = match work.instrument(span.clone()).await {
            Ok(response) => response,
            Err(problem) => {
                span.record("code", problem.code());
                let mut response = problem.into_answer(id);
                if has_body {
                    // The client may still be sending: the connection lingers and closes.
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                response
            }
        };
        let status = response.status();
        span.record("status", status.as_u16());
        if routes::is_quiet(route) && status.is_success() {
            debug!(parent: &span, elapsed = ?begun.elapsed(), "answered");
        } else {
            info!(parent: &span, elapsed = ?begun.elapsed(), "answered");
        }
        let headers = response.headers_mut();
        let id = HeaderValue::from_str(&id.to_string()).expect("a UUID is ASCII");
        headers.insert(X_REQUEST_ID, id);
        // Logs and packages hold what strangers wrote: no browser is to guess what it is.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// A request that may do what it asks for.
struct Admitted {
    answer: Answer,
    /// The row of the audit log that is written when it has been done.
    audit: Option<audit::Pending>,
}

/// Checks the token of a request against what its route demands, and binds the route's handler to what
/// was found. What a token may not see does not exist for it; what it may see and not do is forbidden.
async fn authorise(endpoint: &Endpoint, mut call: Call) -> Result<Admitted, Problem> {
    if let Access::Open(handler) = endpoint.access {
        return Ok(Admitted {
            answer: handler(call),
            audit: None,
        });
    }
    let identity = auth::identify(call.api.host(), &call.parts.headers).await?;
    // For the handlers that record who asked.
    call.parts.extensions.insert(identity.clone());
    let pending = |call: &Call, project: Option<&ProjectName>| {
        audit::Pending::of(endpoint, call, &identity, project.cloned())
    };
    let (audit, answer) = match endpoint.access {
        Access::Open(handler) => (None, handler(call)),
        Access::Token(handler) => (pending(&call, None), handler(call, identity.clone())),
        Access::Admin(handler) if identity.allows(&Scope::Admin) => {
            (pending(&call, None), handler(call))
        }
        Access::Admin(_) => return Err(Problem::forbidden(&Scope::Admin)),
        Access::Project(right, handler) => {
            let project: ProjectName = match (call.param("project").parse(), right) {
                (Ok(project), _) => project,
                (Err(error), Right::Deploy) => {
                    return Err(cofferdam_deploy::Error::from(error).into());
                }
                (Err(error), Right::Read) => return Err(Problem::not_found(error.to_string())),
            };
            check(&identity, right, &project)?;
            (pending(&call, Some(&project)), handler(call, project))
        }
        Access::Deployment(right, handler) => {
            let id: DeploymentId =
                call.param("id")
                    .parse()
                    .map_err(|error: cofferdam_deploy::NameError| {
                        Problem::not_found(error.to_string())
                    })?;
            let record = call.api.host().deployment(id).await?;
            // The same words as for one that does not exist.
            check(&identity, right, &record.project)
                .map_err(|problem| problem.or_not_found(&format!("deployment {id}")))?;
            (pending(&call, Some(&record.project)), handler(call, record))
        }
    };
    Ok(Admitted { answer, audit })
}

fn check(identity: &Identity, right: Right, project: &ProjectName) -> Result<(), Problem> {
    let read = Scope::Read(Some(project.clone()));
    let wanted = match right {
        Right::Read => read.clone(),
        Right::Deploy => Scope::Deploy(Some(project.clone())),
    };
    if identity.allows(&wanted) {
        Ok(())
    } else if identity.allows(&read) {
        Err(Problem::forbidden(&wanted))
    } else {
        Err(Problem::absent(&format!("project {project}")))
    }
}

/// A JSON answer.
fn json(status: StatusCode, value: &impl serde::Serialize) -> Result<Response, Problem> {
    let text = serde_json::to_vec(value).map_err(|error| Problem::internal(&error))?;
    let content_type = [(http::header::CONTENT_TYPE, "application/json")];
    Ok((status, content_type, text).into_response())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn identity(scopes: &[&str]) -> Identity {
        let scopes = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
        Identity {
            id: Uuid::nil(),
            name: None,
            scopes,
        }
    }

    /// What a token may do to a project: nothing, see it, or change it.
    fn judged(scopes: &[&str], project: &str) -> (Result<(), String>, Result<(), String>) {
        let (identity, project) = (identity(scopes), project.parse().unwrap());
        let judge = |right| {
            let judged = check(&identity, right, &project);
            judged.map_err(|problem| problem.code().to_owned())
        };
        (judge(Right::Read), judge(Right::Deploy))
    }

    #[test]
    fn a_token_does_what_its_scopes_say_and_does_not_see_the_rest() {
        let (yes, hidden, shown) = (
            Ok(()),
            Err("not_found".to_owned()),
            Err("forbidden".to_owned()),
        );
        for (scopes, read, deploy) in [
            (&["admin"][..], &yes, &yes),
            (&["deploy:app"], &yes, &yes),
            (&["deploy:*"], &yes, &yes),
            (&["read:app"], &yes, &shown),
            (&["read:*"], &yes, &shown),
            (&["deploy:app2", "read:ap"], &hidden, &hidden),
            (&["deploy:other", "read:app"], &yes, &shown),
            (&[], &hidden, &hidden),
        ] {
            let expected = (read.clone(), deploy.clone());
            assert_eq!(judged(scopes, "app"), expected, "{scopes:?}");
        }
    }
}
