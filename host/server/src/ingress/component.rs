//! `wasi:http` services: a request is handed to a component of its own, and its answer handed back, with
//! what belongs to one connection left out on both ways.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_deploy::{HttpService, Route, ServiceError};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, response,
};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::body::{Body, BodyError};
use super::notice::notice;

/// What concerns one connection and not the message (RFC 9110, section 7.6.1), beside what `Connection`
/// names.
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    // Answered by our own connection when the component reads the body.
    EXPECT,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whom a request came from, and how.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Caller {
    pub(super) peer: Option<IpAddr>,
    pub(super) over_tls: bool,
}

/// Answers a request by a component.
pub(super) async fn answer(
    service: &HttpService,
    route: &Arc<Route>,
    caller: Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    if !prepare(&mut parts, caller) {
        return no_address();
    }
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let called = service.call(Request::from_parts(parts, body));
    let answered = tokio::select! {
        answered = called => answered,
        // It was replaced, and has had its time.
        () = route.retired() => return replaced(),
    };
    match answered {
        Ok(response) => {
            route.health.answered();
            let (mut head, body) = response.into_parts();
            if let Err(fault) = clean(&mut head) {
                tracing::warn!(project = %route.project, service = route.service, path, fault, "a service's answer cannot be sent");
                return bad_answer();
            }
            let body = send(&method, head.status, route, body);
            Response::from_parts(head, body)
        }
        Err(error) => {
            if is_its_own(&error) {
                route.health.failed();
            }
            failed(route, &path, &error)
        }
    }
}

/// The body of a component's answer, as far as there is one. What it says of its end is logged here: the
/// client only sees its connection break.
fn send<B>(method: &Method, status: StatusCode, route: &Arc<Route>, body: B) -> Body
where
    B: http_body::Body<Data = Bytes, Error = ServiceError> + Send + 'static,
{
    let route = route.clone();
    let body = body.map_err(move |error| {
        match error {
            ServiceError::Stalled { .. } | ServiceError::Unsent => {
                tracing::debug!(project = %route.project, service = route.service, %error, "a client did not go on");
            }
            _ => {
                if is_its_own(&error) {
                    route.health.failed();
                }
                tracing::warn!(project = %route.project, service = route.service, %error, "an answer broke off");
            }
        }
        BodyError::from(error)
    });
    if *method == Method::HEAD {
        // Nobody wants the rest, and dropping it stops the component: a HEAD has nothing else to do.
        return Body::empty();
    }
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        // Nothing can be sent, but the component may still be at work on what it was asked for; it ends by
        // itself or by its limits.
        if !body.is_end_stream() {
            let mut body = Box::pin(body);
            tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
        }
        return Body::empty();
    }
    Body::streamed(body)
}

/// Makes a request what the component should see: an absolute target, no header of the connection, and
/// where it came from as we know it, not as the client says. False when there is no such request.
fn prepare(parts: &mut Parts, caller: Caller) -> bool {
    let Caller { peer, over_tls } = caller;
    let scheme = if over_tls {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    let authority = match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(HOST).cloned(),
    };
    let Some(authority) = authority else {
        return false;
    };
    let target = Uri::builder()
        .scheme(scheme)
        .authority(authority.as_bytes())
        .path_and_query(
            parts
                .uri
                .path_and_query()
                .cloned()
                .unwrap_or(PathAndQuery::from_static("/")),
        )
        .build();
    let Ok(target) = target else {
        return false;
    };
    if parts.method == Method::CONNECT || !target.path().starts_with('/') {
        return false;
    }
    parts.uri = target;
    strip(&mut parts.headers);
    let claimed: Vec<_> = parts
        .headers
        .keys()
        .filter(|name| {
            name.as_str().starts_with("x-forwarded-") || *name == FORWARDED || *name == "x-real-ip"
        })
        .cloned()
        .collect();
    for name in claimed {
        parts.headers.remove(name);
    }
    if let Some(peer) =
        peer.and_then(|peer| HeaderValue::try_from(peer.to_canonical().to_string()).ok())
    {
        parts.headers.insert(FORWARDED_FOR, peer);
    }
    let proto = if over_tls { "https" } else { "http" };
    parts.headers.insert(FORWARDED_HOST, authority.clone());
    parts
        .headers
        .insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    parts.headers.insert(HOST, authority);
    true
}

/// Makes an answer one that can be sent. What a component says about its length must be true on the
/// connection, or the next answer would be read as the rest of this one.
fn clean(head: &mut response::Parts) -> Result<(), &'static str> {
    if head.status.is_informational() {
        return Err("its status is informational");
    }
    strip(&mut head.headers);
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let number = digits.iter().all(u8::is_ascii_digit)
            && length
                .to_str()
                .is_ok_and(|text| text.parse::<u64>().is_ok());
        if !number || lengths.next().is_some() {
            return Err("its content-length is not one number");
        }
    }
    Ok(())
}

/// Removes what belongs to one connection.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

fn no_address() -> Response<Body> {
    notice(
        StatusCode::BAD_REQUEST,
        "That is not an address",
        "This kind of request is not served here.",
    )
}

fn bad_answer() -> Response<Body> {
    notice(
        StatusCode::BAD_GATEWAY,
        "Something broke here",
        "The program behind this page did not answer properly. The server's log says why.",
    )
}

/// Whether a failure is the service's own, and not its client's or the host's.
fn is_its_own(error: &ServiceError) -> bool {
    !matches!(
        error,
        ServiceError::Request { .. }
            | ServiceError::Stalled { .. }
            | ServiceError::Unsent
            | ServiceError::Busy { .. }
            | ServiceError::Host { .. }
    )
}

fn replaced() -> Response<Body> {
    let mut response = notice(
        StatusCode::SERVICE_UNAVAILABLE,
        "One moment",
        "This project was replaced by a new release while your request was under way. Try again.",
    );
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The answer for a component that gave none. Why is for the log alone.
fn failed(route: &Route, path: &str, error: &ServiceError) -> Response<Body> {
    if let ServiceError::Host { .. } = error {
        tracing::error!(project = %route.project, service = route.service, path, %error, "a service could not be run");
    } else {
        tracing::warn!(project = %route.project, service = route.service, path, %error, "a service did not answer");
    }
    match error {
        ServiceError::Request { .. } => no_address(),
        ServiceError::Unsent => notice(
            StatusCode::REQUEST_TIMEOUT,
            "Your request did not arrive",
            "The rest of what you sent did not come in time. Try again.",
        ),
        ServiceError::TimedOut { .. } | ServiceError::CpuExceeded { .. } => notice(
            StatusCode::GATEWAY_TIMEOUT,
            "That took too long",
            "The program behind this page did not answer in the time it has.",
        ),
        ServiceError::Busy { .. } => {
            let mut response = notice(
                StatusCode::SERVICE_UNAVAILABLE,
                "Too busy",
                "The server has as many requests as it can hold. Try again in a moment.",
            );
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        ServiceError::Host { .. } => notice(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Something broke here",
            "The server could not run the program behind this page. Its log says why.",
        ),
        _ => bad_answer(),
    }
}

#[cfg(test)]
mod tests;
