//! The ingress: what the world sees of the active releases.
//!
//! A request is routed by the host it names, and by nothing else. It holds its route until its answer is
//! sent, so that a swap in between never mixes two releases within one response.
//!
//! Layout:
//! - `authority`: the host a request names;
//! - `statics`: static services, on `name` (which paths are served), `site` (finding files), `shelf` (the
//!   small ones in memory), `coding`, `range`, `validator` and `media` (one matter of HTTP each);
//! - `component`: `wasi:http` services;
//! - `body`, `notice`: what is sent.

mod authority;
mod body;
mod coding;
mod component;
mod media;
mod name;
mod notice;
mod range;
mod shelf;
mod site;
mod statics;
#[cfg(test)]
mod tests;
mod validator;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cofferdam_deploy::{Host, Route, Target};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::field::{self, display};
use tracing::{Instrument as _, Span, info_span};

use self::body::Body;
use self::notice::notice;
use self::site::Site;
use self::statics::Statics;
use crate::connections::{self, Listening, OverTls, Peer};
use crate::metrics::Metrics;
use crate::trace_parent;

/// When to come back to a service that is being replaced: preparing a release takes seconds at most.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// Serves the active releases of `host` until `shutdown` is cancelled and what is in flight has drained.
pub(crate) async fn serve(
    listening: Listening,
    host: Host,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let ingress = Arc::new(Ingress::new(move |name: &str| host.route(name)));
    let budget = Arc::new(SpanBudget::new());
    let service = tower::service_fn(move |request| {
        let (ingress, metrics, budget) = (ingress.clone(), metrics.clone(), budget.clone());
        async move {
            let begun = Instant::now();
            let span = traced(&request, &budget);
            let response = ingress.answer(request).instrument(span.clone()).await;
            let status = response.status().as_u16();
            span.record("status", status);
            metrics.served(status, begun.elapsed());
            Ok::<_, Infallible>(response)
        }
    });
    connections::serve(listening, service, shutdown).await;
}

/// The span of a request that belongs to a trace which somebody keeps. Others have none: there may be tens of thousands a
/// second.
fn traced(request: &Request<Incoming>, budget: &SpanBudget) -> Span {
    let parent = trace_parent::sampled(request.headers());
    let Some(parent) = parent.filter(|_| budget.take()) else {
        return Span::none();
    };
    info_span!(
        "ingress",
        method = %request.method(),
        peer = request.extensions().get().map(|Peer(address)| display(address.ip())),
        traceparent = parent,
        project = field::Empty,
        deployment = field::Empty,
        service = field::Empty,
        status = field::Empty,
    )
}

/// The most spans in a second: any visitor may ask for one, and they are not to push out those of deployments, with which
/// they share a queue.
const SPANS_A_SECOND: u32 = 100;

/// How many spans were made in this second.
struct SpanBudget {
    since: Instant,
    second: AtomicU64,
    made: AtomicU32,
}

impl SpanBudget {
    fn new() -> SpanBudget {
        SpanBudget {
            since: Instant::now(),
            second: AtomicU64::new(0),
            made: AtomicU32::new(0),
        }
    }

    /// Whether there may be one more.
    fn take(&self) -> bool {
        let second = self.since.elapsed().as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.made.store(0, Ordering::Relaxed);
        }
        self.made.fetch_add(1, Ordering::Relaxed) < SPANS_A_SECOND
    }
}

/// Answers requests, given the table of routes.
struct Ingress<R> {
    route: R,
    statics: Statics,
}

impl<R: Fn(&str) -> Option<Arc<Route>>> Ingress<R> {
    fn new(route: R) -> Ingress<R> {
        Ingress {
            route,
            statics: Statics::new(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
            // It asks about the server as a whole, which has nothing to say.
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return response;
        }
        let Ok(host) = authority::host_of(&parts) else {
            return notice(
                StatusCode::BAD_REQUEST,
                "Whom is this for?",
                "The request names no host, or not exactly one.",
            );
        };
        let Some(route) = (self.route)(&host) else {
            return notice(
                StatusCode::NOT_FOUND,
                "No project here",
                "Nothing is deployed under this name.",
            );
        };
        let span = Span::current();
        if !span.is_disabled() {
            span.record("project", route.project.as_str());
            span.record("deployment", display(route.release));
            span.record("service", &*route.service);
        }
        let response = match &route.target {
            Target::Static(root) => {
                let site = Site {
                    release: route.release.as_uuid().into_bytes(),
                    digest: &route.digest,
                    service: &route.service,
                    dir: &root.dir,
                };
                self.statics.answer(site, &parts).await
            }
            Target::Http(service) => {
                let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
                let caller = component::Caller {
                    peer,
                    over_tls: parts.extensions.get::<OverTls>().is_some(),
                };
                component::answer(service, &route, caller, Request::from_parts(parts, body)).await
            }
            Target::Replacing => {
                let mut response = notice(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "One moment",
                    "This project is being replaced by a new release. Try again in a few seconds.",
                );
                response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
                response
            }
        };
        response.map(|body| body.leased(route))
    }
}

#[cfg(test)]
mod budget {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn visitors_have_so_many_spans_in_a_second_and_no_more() {
        let budget = SpanBudget::new();
        for _ in 0..3 {
            let made = (0..10_000).filter(|_| budget.take()).count();
            assert_eq!(made, SPANS_A_SECOND as usize);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
}
