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
mod doc;
mod events;
mod guard;
mod health;
mod holds;
mod log;
mod missing;
mod openapi;
mod page;
mod plugins;
mod problem;
mod project_events;
mod projects;
mod releases;
mod request_id;
mod routes;
mod secrets;
mod store;
mod tokens;
mod uploads;
mod webhooks;

use std::sync::Arc;

use self::guard::Bodies;
use self::problem::Problem;
use self::request_id::{RequestId, X_REQUEST_ID};
use self::routes::{Access, Answer, ENDPOINTS, Endpoint, Right};
use crate::connections::Peer;
use crate::metrics::Metrics;
use crate::trace_parent;
use crate::upload::body::{BodyLimits, UploadBody};
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Query, RawPathParams};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use bytes::BytesMut;
use cofferdam_deploy::{DeploymentId, Host, Identity, ProjectName, Scope};
use http::header::{CONNECTION, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::field::{self, display};
use tracing::{Instrument as _, Span, debug, info, info_span};

/// Components that are received or admitted at a time. Each is held in memory whole.
const MAX_ADMISSIONS: usize = 2;

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
    bodies: Bodies,
    metrics: Arc<Metrics>,
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
        metrics: Arc<Metrics>,
    ) -> Self {
        let inner = Inner {
            host,
            body_limits,
            max_package_bytes,
            stop,
            detached: TaskTracker::new(),
            admissions: Arc::new(Semaphore::new(MAX_ADMISSIONS)),
            bodies: Bodies::default(),
            metrics,
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
        let (one, other) = (self.clone(), self.clone());
        router
            .method_not_allowed_fallback(move |request| {
                let api = one.clone();
                async move { api.refuse(request, Problem::bad_method()).await }
            })
            .fallback(move |request| {
                let api = other.clone();
                async move { api.refuse(request, Problem::no_route()).await }
            })
    }

    fn mount(&self, endpoint: &'static Endpoint) -> MethodRouter {
        let api = self.clone();
        let handler = move |params: Params, request: Request<Body>| {
            let api = api.clone();
            async move {
                let params = match params {
                    Ok(params) => params,
                    Err(error) => {
                        let problem = Problem::bad_request(error.body_text());
                        return api.refuse(request, problem).await;
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

    /// Answers a request that has no handler.
    async fn refuse(&self, request: Request<Body>, problem: Problem) -> Response {
        let (parts, body) = request.into_parts();
        // The path is the client's own text; what it says is not worth a line in a log.
        let seen = Seen::of(self, &parts, &body, "none");
        seen.through(async { Err(problem) }).await
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

    /// The body as JSON of at most this many bytes.
    async fn json_body<T: DeserializeOwned>(self, most: usize) -> Result<T, Problem> {
        let Self { api, body, .. } = self;
        let mut body = UploadBody::new(body, api.inner.body_limits.clone());
        let mut text = BytesMut::new();
        while let Some(bytes) = body.next().await? {
            if text.len() + bytes.len() > most {
                return Err(Problem::bad_request(format!(
                    "the document is longer than {most} bytes"
                )));
            }
            text.extend_from_slice(&bytes);
        }
        serde_json::from_slice(&text)
            .map_err(|error| Problem::bad_request(format!("the document cannot be read: {error}")))
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
    let seen = Seen::of(&call.api, &call.parts, &call.body, endpoint.path);
    let work = async move {
        let api = call.api.clone();
        let Admitted {
            identity,
            answer,
            audit,
        } = authorise(endpoint, call).await?;
        let answer = audited(api, answer, audit);
        match identity {
            Some(identity) => guard::under(identity, answer).await,
            None => answer.await,
        }
    };
    seen.through(work).await
}

/// Runs a handler. What changes something is done, and written down, though its client goes away.
async fn audited(
    api: Api,
    answer: Answer,
    audit: Option<audit::Pending>,
) -> Result<Response, Problem> {
    let Some(audit) = audit else {
        return answer.await;
    };
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

/// What a request leaves in the log. Tokens and queries do not.
struct Seen {
    id: RequestId,
    method: Method,
    metrics: Arc<Metrics>,
    span: Span,
    route: &'static str,
    has_body: bool,
}

impl Seen {
    fn of(api: &Api, parts: &Parts, body: &Body, route: &'static str) -> Self {
        let id = RequestId::of(&parts.headers);
        let peer = parts
            .extensions
            .get()
            .map(|Peer(address)| display(*address));
        let span = info_span!(
            "request",
            id = id.as_str(),
            method = %parts.method,
            route,
            peer,
            traceparent = trace_parent::of(&parts.headers),
            token = field::Empty,
            project = field::Empty,
            deployment = field::Empty,
            status = field::Empty,
            code = field::Empty,
        );
        let has_body = !http_body::Body::is_end_stream(body);
        Self {
            id,
            method: parts.method.clone(),
            metrics: api.inner.metrics.clone(),
            span,
            route,
            has_body,
        }
    }

    /// Runs the work of the request in its span, and makes an answer of what comes out.
    async fn through(self, work: impl Future<Output = Result<Response, Problem>>) -> Response {
        let Self {
            id,
            method,
            metrics,
            span,
            route,
            has_body,
        } = self;
        let begun = Instant::now();
        let mut response = match work.instrument(span.clone()).await {
            Ok(response) => response,
            Err(problem) => {
                span.record("code", problem.code());
                let mut response = problem.into_answer(&id);
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
        metrics.answered(route, &method, status.as_u16(), begun.elapsed());
        if routes::is_quiet(route) && status.is_success() {
            debug!(parent: &span, elapsed = ?begun.elapsed(), "answered");
        } else {
            info!(parent: &span, elapsed = ?begun.elapsed(), "answered");
        }
        let headers = response.headers_mut();
        headers.insert(X_REQUEST_ID, id.to_header());
        // Logs and packages hold what strangers wrote: no browser is to guess what it is.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// A request that may do what it asks for.
struct Admitted {
    /// Whoever asks; nobody for a route that is open.
    identity: Option<Identity>,
    answer: Answer,
    /// The row of the audit log that is written when it has been done.
    audit: Option<audit::Pending>,
}

/// Checks the token of a request against what its route demands, and binds the route's handler to what
/// was found. What a token may not see does not exist for it; what it may see and not do is forbidden.
async fn authorise(endpoint: &Endpoint, mut call: Call) -> Result<Admitted, Problem> {
    if let Access::Open(handler) = endpoint.access {
        return Ok(Admitted {
            identity: None,
            answer: handler(call),
            audit: None,
        });
    }
    let identity = auth::identify(call.api.host(), &call.parts.headers)?;
    let span = Span::current();
    span.record("token", display(identity.id));
    // What the last run left is about to be brought into order: until then, any answer would be of no worth.
    call.api.host().recovered().await;
    // For the handlers that record who asked.
    call.parts.extensions.insert(identity.clone());
    let mut judged = None;
    let handle: Box<dyn FnOnce(Call) -> Answer + Send> = match endpoint.access {
        Access::Open(handler) => Box::new(handler),
        Access::Token(handler) => {
            let identity = identity.clone();
            Box::new(move |call| handler(call, identity))
        }
        Access::Admin(handler) => {
            demand(&identity, &Scope::Admin)?;
            Box::new(handler)
        }
        Access::Reader(handler) => {
            demand(&identity, &Scope::Read(None))?;
            Box::new(handler)
        }
        Access::Project(right, handler) => {
            let project: ProjectName = match (call.param("project").parse(), right) {
                (Ok(project), _) => project,
                (Err(error), Right::Deploy) => {
                    return Err(cofferdam_deploy::Error::from(error).into());
                }
                (Err(error), Right::Read) => return Err(Problem::not_found(error.to_string())),
            };
            check(&identity, right, &project)?;
            span.record("project", display(&project));
            judged = Some(project.clone());
            Box::new(move |call| handler(call, project))
        }
        Access::Asked(handler) => {
            let project = uploads::asked(&call)?;
            check(&identity, Right::Deploy, &project)?;
            span.record("project", display(&project));
            judged = Some(project.clone());
            Box::new(move |call| handler(call, project))
        }
        Access::Upload(handler) => {
            let (host, name) = (call.api.host().clone(), call.param("upload").to_owned());
            let upload = uploads::find(&host, &name).await?;
            // The same words as for one that does not exist.
            check(&identity, Right::Deploy, &upload.project)
                .map_err(|problem| problem.or_not_found(&format!("upload {}", upload.id)))?;
            span.record("project", display(&upload.project));
            judged = Some(upload.project.clone());
            Box::new(move |call| handler(call, upload))
        }
        Access::Deployment(right, handler) => {
            let id: DeploymentId =
                call.param("id")
                    .parse()
                    .map_err(|error: cofferdam_deploy::NameError| {
                        Problem::not_found(error.to_string())
                    })?;
            let record = call.api.host().deployment_in_short(id).await?;
            // The same words as for one that does not exist.
            check(&identity, right, &record.project)
                .map_err(|problem| problem.or_not_found(&format!("deployment {id}")))?;
            span.record("project", display(&record.project));
            span.record("deployment", display(id));
            judged = Some(record.project.clone());
            Box::new(move |call| handler(call, record))
        }
    };
    let audit = audit::Pending::of(endpoint, &call, &identity, judged);
    let inner = &call.api.inner;
    let body = std::mem::take(&mut call.body);
    let limits = inner.body_limits.clone();
    let expect = call.parts.headers.get(http::header::EXPECT);
    let asks = expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let (bodies, metrics) = (&inner.bodies, &inner.metrics);
    call.body = guard::request_body(body, asks, &identity, bodies, limits, metrics).await?;
    Ok(Admitted {
        identity: Some(identity),
        answer: handle(call),
        audit,
    })
}

/// Refuses whoever may not do something whose existence is no secret.
fn demand(identity: &Identity, wanted: &Scope) -> Result<(), Problem> {
    if identity.allows(wanted) {
        Ok(())
    } else {
        Err(Problem::forbidden(wanted))
    }
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
        Identity::without_token("test", scopes)
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
