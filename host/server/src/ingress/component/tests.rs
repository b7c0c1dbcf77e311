//! What a component is given, and what becomes of its answer. Real components answer in the end-to-end tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;

use super::*;

fn prepared(request: http::request::Builder) -> Option<Parts> {
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let caller = Caller {
        peer: Some("::ffff:192.0.2.7".parse().unwrap()),
        over_tls: false,
    };
    prepare(&mut parts, caller).then_some(parts)
}

#[test]
fn a_component_learns_where_a_request_came_from_from_us_alone() {
    let parts = prepared(
        Request::get("/a?b=c")
            .header("host", "api.localhost:8080")
            .header("x-forwarded-for", "203.0.113.1")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-prefix", "/evil")
            .header("x-real-ip", "203.0.113.1")
            .header("forwarded", "for=203.0.113.1")
            .header("cookie", "kept=1"),
    )
    .unwrap();
    assert_eq!(parts.uri, "http://api.localhost:8080/a?b=c");
    let mut headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("cookie", "kept=1"),
            ("host", "api.localhost:8080"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "api.localhost:8080"),
            ("x-forwarded-proto", "http"),
        ]
    );
}

#[test]
fn what_belongs_to_the_connection_stays_there() {
    let parts = prepared(
        Request::post("http://api.localhost/")
            .header("host", "other.localhost")
            .header("connection", "close, X-Private, x-forwarded-for, host")
            .header("connection", "upgrade")
            .header("x-private", "1")
            .header("upgrade", "websocket")
            .header("te", "trailers")
            .header("expect", "100-continue")
            .header("transfer-encoding", "chunked")
            .header("keep-alive", "timeout=5")
            .header("content-type", "text/plain"),
    )
    .unwrap();
    let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-type",
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto"
        ]
    );
    assert_eq!(parts.headers["host"], "api.localhost");
}

#[test]
fn a_tunnel_is_no_request_for_a_component() {
    assert!(
        prepared(
            Request::builder()
                .method(Method::CONNECT)
                .uri("api.localhost:80")
        )
        .is_none()
    );
    assert!(prepared(Request::options("*").header("host", "api.localhost")).is_none());
}

fn cleaned(response: response::Builder) -> Result<HeaderMap, &'static str> {
    let (mut head, ()) = response.body(()).unwrap().into_parts();
    clean(&mut head).map(|()| head.headers)
}

#[test]
fn an_answer_loses_what_would_break_the_connection() {
    let headers = cleaned(
        Response::builder()
            .header("connection", "close, x-hop")
            .header("x-hop", "1")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "h2c")
            .header("content-length", "5")
            .header("x-kept", "1"),
    )
    .unwrap();
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "x-kept"]);
}

#[test]
fn an_answer_that_lies_about_its_frame_is_refused() {
    assert!(cleaned(Response::builder().status(101)).is_err());
    assert!(cleaned(Response::builder().header("content-length", "+5")).is_err());
    assert!(cleaned(Response::builder().header("content-length", "")).is_err());
    assert!(
        cleaned(
            Response::builder()
                .header("content-length", "5")
                .header("content-length", "5")
        )
        .is_err()
    );
}

#[tokio::test]
async fn each_fault_has_its_status_and_tells_nothing_from_inside() {
    let tree = super::super::tests::release::Tree::new();
    let (service, message) = ("SECRET".to_owned(), "SECRET".to_owned());
    for (error, status) in [
        (
            ServiceError::TimedOut {
                service: service.clone(),
                limit_ms: 5,
            },
            504,
        ),
        (
            ServiceError::CpuExceeded {
                service: service.clone(),
                limit_ms: 5,
            },
            504,
        ),
        (
            ServiceError::Trapped {
                service: service.clone(),
                message: message.clone(),
            },
            502,
        ),
        (
            ServiceError::MemoryExceeded {
                service: service.clone(),
                limit_bytes: 5,
            },
            502,
        ),
        (
            ServiceError::NoResponse {
                service: service.clone(),
                message: message.clone(),
            },
            502,
        ),
        (
            ServiceError::Busy {
                message: message.clone(),
            },
            503,
        ),
        (
            ServiceError::Host {
                service,
                message: message.clone(),
            },
            500,
        ),
        (ServiceError::Request { message }, 400),
        (ServiceError::Unsent, 408),
    ] {
        let response = failed(&tree.route(), "/SECRET", &error);
        assert_eq!(response.status().as_u16(), status, "{error}");
        let page = response.into_body().collect().await.unwrap().to_bytes();
        assert!(
            !String::from_utf8_lossy(&page).contains("SECRET"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_answer_without_a_body_lets_the_component_finish_and_a_head_does_not() {
    let route = super::super::tests::release::Tree::new().route();
    let (frames, body) = body_of_frames();
    assert!(send(&Method::POST, StatusCode::NO_CONTENT, &route, body).is_end_stream());
    // Taken one after the other, so somebody reads.
    for _ in 0..3 {
        frames.send(Bytes::from_static(b"work")).await.unwrap();
    }
    let (frames, body) = body_of_frames();
    assert!(send(&Method::HEAD, StatusCode::OK, &route, body).is_end_stream());
    assert!(frames.send(Bytes::new()).await.is_err());
}

/// A body that takes its frames from a channel.
fn body_of_frames() -> (tokio::sync::mpsc::Sender<Bytes>, Frames) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    (sender, Frames(receiver))
}

struct Frames(tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = ServiceError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ServiceError>>> {
        self.0
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
