//! Components that answer HTTP requests.

use std::convert::Infallible;
use std::time::Duration;

use crate::harness::{PATIENCE, program, sandbox};
use bytes::Bytes;
use cofferdam_sandbox::{ComponentKind, HttpService, ServiceError, ServiceLimits, ServiceSpec};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use tokio::sync::mpsc;

fn service(change: impl FnOnce(&mut ServiceLimits)) -> HttpService {
    let mut limits = ServiceLimits::default();
    change(&mut limits);
    let env = [("GREETING".to_owned(), "hello".to_owned())].into();
    sandbox()
        .service(
            &program("service"),
            ServiceSpec {
                name: "web".into(),
                env,
                limits,
            },
        )
        .unwrap()
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path)
        .header("host", "blog.localhost")
        .body(Empty::new())
        .unwrap()
}

async fn call(service: &HttpService, path: &str) -> Result<Response<Bytes>, ServiceError> {
    tokio::time::timeout(PATIENCE, async {
        let (head, body) = service.call(get(path)).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    })
    .await
    .expect("it answers in time")
}

#[tokio::test]
async fn each_request_is_answered_by_an_instance_of_its_own() {
    let service = service(|_| {});
    let answers = (0..40).map(|_| {
        let service = service.clone();
        tokio::spawn(async move { call(&service, "/hello").await.unwrap() })
    });
    for answer in answers.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.body()[..]),
            (200, &b"hello\n"[..])
        );
    }
    assert_eq!(call(&service, "/nothing").await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_service_sees_its_environment_and_nothing_else() {
    let service = service(|_| {});
    assert_eq!(
        &call(&service, "/environment").await.unwrap().body()[..],
        b"GREETING=hello\n"
    );
    assert_eq!(
        &call(&service, "/files").await.unwrap().body()[..],
        b"false"
    );
    assert_eq!(
        &call(&service, "/print").await.unwrap().body()[..],
        b"printed\n"
    );
    let fetched = call(&service, "/fetch").await.unwrap();
    assert!(
        fetched.body().starts_with(b"refused"),
        "{:?}",
        fetched.body()
    );
    assert!(
        String::from_utf8_lossy(fetched.body()).contains("HttpRequestDenied"),
        "{:?}",
        fetched.body()
    );
}

#[tokio::test]
async fn a_service_that_never_answers_ends_at_its_limits() {
    let by_cpu = call(&service(|limits| limits.cpu_ms = 100), "/loop")
        .await
        .unwrap_err();
    assert!(
        matches!(by_cpu, ServiceError::CpuExceeded { limit_ms: 100, .. }),
        "{by_cpu}"
    );
    let by_wall = call(&service(|limits| limits.wall_ms = 100), "/loop")
        .await
        .unwrap_err();
    assert!(
        matches!(by_wall, ServiceError::TimedOut { limit_ms: 100, .. }),
        "{by_wall}"
    );
    let asleep = call(&service(|limits| limits.wall_ms = 100), "/sleep")
        .await
        .unwrap_err();
    assert!(
        matches!(asleep, ServiceError::TimedOut { limit_ms: 100, .. }),
        "{asleep}"
    );
}

#[tokio::test]
async fn a_service_that_fails_says_how() {
    let service = service(|limits| limits.memory_bytes = 8 << 20);
    let memory = call(&service, "/memory").await.unwrap_err();
    assert!(
        matches!(memory, ServiceError::MemoryExceeded { .. }),
        "{memory}"
    );
    let trapped = call(&service, "/panic").await.unwrap_err();
    assert!(
        matches!(&trapped, ServiceError::Trapped { message, .. } if message.contains("unreachable")),
        "{trapped}"
    );
    for path in ["/silent", "/error"] {
        let error = call(&service, path).await.unwrap_err();
        assert!(
            matches!(error, ServiceError::NoResponse { .. }),
            "{path}: {error}"
        );
    }
    assert_eq!(
        call(&service, "/hello").await.unwrap().status(),
        200,
        "the next request is not affected"
    );
}

#[tokio::test]
async fn a_body_whose_guest_fails_never_looks_whole() {
    let service = service(|_| {});
    for path in ["/broken", "/late"] {
        let error = call(&service, path).await.unwrap_err();
        assert!(
            matches!(error, ServiceError::Trapped { .. }),
            "{path}: {error}"
        );
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let service = service(|_| {});
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let frames = futures_of(move |context| receiver.poll_recv(context));
    let request = Request::post("/echo")
        .header("host", "blog.localhost")
        .body(StreamBody::new(frames))
        .unwrap();
    let mut body = service.call(request).await.unwrap().into_body();
    // Each block comes back before the next is sent, so nothing waits for an end.
    for number in 0..50_u8 {
        sender
            .send(Bytes::from(vec![number; 50_000]))
            .await
            .unwrap();
        let mut returned = 0;
        while returned < 50_000 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(frame.iter().all(|&byte| byte == number));
            returned += frame.len();
        }
    }
    drop(sender);
    assert!(body.frame().await.is_none());
}

/// A stream of data frames from a polling function.
fn futures_of(
    mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Bytes>>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures::stream::poll_fn(move |context| {
        poll(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    })
}

#[tokio::test]
async fn a_slow_client_is_not_the_guests_time() {
    let service = service(|limits| limits.wall_ms = 300);
    let mut body = service.call(get("/stream")).await.unwrap().into_body();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        body.frame().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_long_loses_the_response() {
    let service = service(|limits| limits.stall_ms = 100);
    let mut body = service.call(get("/stream")).await.unwrap().into_body();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let error = loop {
        match body
            .frame()
            .await
            .expect("it does not end as if it were whole")
        {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, ServiceError::Stalled { limit_ms: 100 }),
        "{error}"
    );
}

#[tokio::test]
async fn dropping_the_body_or_the_call_stops_the_guest() {
    // The guest holds the request's body; when it is gone, so is the guest.
    let service = service(|_| {});
    let request = |path: &str| {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
        let frames = futures_of(move |context| receiver.poll_recv(context));
        (
            sender,
            Request::post(path)
                .header("host", "blog.localhost")
                .body(StreamBody::new(frames))
                .unwrap(),
        )
    };
    let (alive, streaming) = request("/stream");
    let response = service.call(streaming).await.unwrap();
    assert!(!alive.is_closed());
    drop(response);
    tokio::time::timeout(PATIENCE, alive.closed())
        .await
        .unwrap();

    for path in ["/loop", "/sleep"] {
        let (alive, waiting) = request(path);
        let abandoned =
            tokio::time::timeout(Duration::from_millis(100), service.call(waiting)).await;
        assert!(abandoned.is_err());
        tokio::time::timeout(PATIENCE, alive.closed())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_request_without_a_host_is_refused() {
    // Often: the reason must be there whenever the caller learns that there is no response.
    let service = service(|_| {});
    for _ in 0..200 {
        let request = Request::get("/hello").body(Empty::<Bytes>::new()).unwrap();
        let refusal = service.call(request).await.map(drop).unwrap_err();
        assert!(matches!(refusal, ServiceError::Request { .. }), "{refusal}");
    }
}

#[tokio::test]
async fn a_trap_before_the_response_is_always_told_as_one() {
    let service = service(|_| {});
    for _ in 0..100 {
        let error = call(&service, "/panic").await.unwrap_err();
        assert!(matches!(error, ServiceError::Trapped { .. }), "{error}");
    }
}

#[test]
fn a_component_that_is_both_counts_as_a_program() {
    assert_eq!(program("service").kind(), ComponentKind::Command);
}
