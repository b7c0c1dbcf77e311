//! Components that answer HTTP requests.

use std::convert::Infallible;
use std::time::Duration;

use crate::harness::{PATIENCE, program, sandbox};
use bytes::Bytes;
use cofferdam_sandbox::{
    ComponentKind, HttpService, NetGrant, ServiceBody, ServiceError, ServiceLimits, ServiceSpec,
    ServiceState,
};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

fn service(change: impl FnOnce(&mut ServiceLimits)) -> HttpService {
    granted(|spec| change(&mut spec.limits))
}

fn granted(change: impl FnOnce(&mut ServiceSpec)) -> HttpService {
    let mut spec = ServiceSpec::new("web");
    spec.env = [("GREETING".to_owned(), "hello".to_owned())].into();
    change(&mut spec);
    sandbox().service(&program("service"), spec, None).unwrap()
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
    let (sender, request) = posted("/echo");
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

/// A request whose body comes through the channel.
fn posted(
    path: &str,
) -> (
    mpsc::Sender<Bytes>,
    Request<impl Body<Data = Bytes, Error = Infallible> + use<>>,
) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let frames = futures::stream::poll_fn(move |context| {
        let received = receiver.poll_recv(context);
        received.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    });
    let request = Request::post(path)
        .header("host", "blog.localhost")
        .body(StreamBody::new(frames));
    (sender, request.unwrap())
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

/// Why a response breaks off.
async fn broken(mut body: ServiceBody) -> ServiceError {
    loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("it ends as if it were whole"),
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_long_loses_the_response() {
    let service = service(|limits| limits.stall_ms = 100);
    let body = service.call(get("/stream")).await.unwrap().into_body();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let error = broken(body).await;
    assert!(
        matches!(error, ServiceError::Stalled { limit_ms: 100 }),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_that_sends_nothing_more_is_not_the_guests_fault() {
    let service = service(|limits| limits.wall_ms = 2000);
    let (sender, request) = posted("/echo");
    sender
        .send(Bytes::from_static(b"some of it"))
        .await
        .unwrap();
    let error = match service.call(request).await {
        Err(error) => error,
        Ok(response) => broken(response.into_body()).await,
    };
    assert!(matches!(error, ServiceError::Unsent), "{error}");
    drop(sender);
}

#[tokio::test]
async fn dropping_the_body_or_the_call_stops_the_guest() {
    // The guest holds the request's body; when it is gone, so is the guest.
    let service = service(|_| {});
    let (alive, streaming) = posted("/stream");
    let response = service.call(streaming).await.unwrap();
    assert!(!alive.is_closed());
    drop(response);
    tokio::time::timeout(PATIENCE, alive.closed())
        .await
        .unwrap();

    for path in ["/loop", "/sleep"] {
        let (alive, waiting) = posted(path);
        let abandoned =
            tokio::time::timeout(Duration::from_millis(100), service.call(waiting)).await;
        assert!(abandoned.is_err());
        tokio::time::timeout(PATIENCE, service.quiet())
            .await
            .unwrap();
        assert!(alive.is_closed(), "{path}: it is said to be quiet");
    }

    // Whatever it has answered, and whoever listens.
    let (alive, streaming) = posted("/stream");
    let response = service.call(streaming).await.unwrap();
    service.stop();
    tokio::time::timeout(PATIENCE, service.quiet())
        .await
        .unwrap();
    assert!(alive.is_closed());
    drop(response);
    assert!(service.call(posted("/hello").1).await.is_err());
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

async fn said(service: &HttpService, path: &str) -> String {
    let answer = call(service, path).await.unwrap();
    String::from_utf8(answer.body().to_vec()).unwrap()
}

/// Answers every connection's request with `hello`, or, when told to, never; and says where.
async fn peer(answers: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            if answers {
                let text = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
                // A client that has left wants no answer.
                let _ = stream.write_all(text).await;
            } else {
                silent.push(stream);
            }
        }
    });
    address
}

fn loopback(hosts: &[&str]) -> NetGrant {
    NetGrant {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        allow_ranges: vec!["127.0.0.0/8".parse().unwrap()],
        ..NetGrant::default()
    }
}

#[tokio::test]
async fn a_service_reaches_the_host_that_it_was_granted_and_no_other() {
    let (known, other) = (peer(true).await, peer(true).await);
    let service = granted(|spec| spec.net = loopback(&[&known]));
    let answers = (0..8).map(|_| {
        let (service, known) = (service.clone(), known.clone());
        tokio::spawn(async move { said(&service, &format!("/fetch?{known}")).await })
    });
    for answer in answers.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), "200 hello");
    }
    let refused = said(&service, &format!("/fetch?{other}")).await;
    assert!(refused.contains("HttpRequestDenied"), "{refused}");

    // Without the operator's word, an address of this machine is none for a granted service either.
    let service = granted(|spec| {
        spec.net = loopback(&[&known]);
        spec.net.allow_ranges.clear();
    });
    let refused = said(&service, &format!("/fetch?{known}")).await;
    assert!(refused.starts_with("refused"), "{refused}");
}

#[tokio::test]
async fn what_a_service_sends_is_bounded_by_its_limits() {
    let to = peer(true).await;
    let service = granted(|spec| {
        spec.net = loopback(&[&to]);
        spec.limits.requests = 0;
    });
    let refused = said(&service, &format!("/fetch?{to}")).await;
    assert!(refused.contains("HttpRequestDenied"), "{refused}");
    let service = granted(|spec| {
        spec.net = loopback(&[&to]);
        spec.limits.egress_bytes = 10;
    });
    let refused = said(&service, &format!("/fetch?{to}")).await;
    assert!(refused.starts_with("refused"), "{refused}");

    // One that waits for a peer that says nothing ends in time.
    let silent = peer(false).await;
    let service = granted(|spec| {
        spec.net = loopback(&[&silent]);
        spec.limits.wall_ms = 200;
    });
    let ended = call(&service, &format!("/fetch?{silent}")).await;
    assert!(
        matches!(ended, Err(ServiceError::TimedOut { limit_ms: 200, .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_service_gets_the_secrets_that_it_was_granted_and_its_failures_do_not_tell_them() {
    const SECRET: &str = "k9-Xv-p-ss-7f3Qz81LmX0w";
    let service = granted(|spec| spec.secrets.insert("KEY", SECRET));
    assert_eq!(said(&service, "/secret?KEY").await, SECRET);
    let refused = said(&service, "/secret?OTHER").await;
    assert!(refused.starts_with("refused"), "{refused}");
    for path in ["/secret-panic?KEY", "/secret-error?KEY"] {
        let error = call(&service, path).await.unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(!told.contains(&SECRET[..12]), "{told}");
    }
    let refused = said(&granted(|_| {}), "/secret?KEY").await;
    assert!(refused.starts_with("refused"), "{refused}");
}

fn keeping(
    directory: &std::path::Path,
    bytes: u64,
    change: impl FnOnce(&mut ServiceLimits),
) -> HttpService {
    let mut spec = ServiceSpec::new("web");
    change(&mut spec.limits);
    let state = ServiceState {
        directory: std::fs::File::open(directory).unwrap(),
        bytes,
    };
    sandbox()
        .service(&program("service"), spec, Some(state))
        .unwrap()
}

#[tokio::test]
async fn what_a_service_keeps_is_there_for_the_next_request_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(directory.path().join("beside"), "untouched").unwrap();
    let service = keeping(&kept, 1 << 20, |_| {});
    for expected in 1..=3 {
        assert_eq!(said(&service, "/count?visits").await, expected.to_string());
    }
    // Several at once.
    let visits = (0..8).map(|_| {
        let service = service.clone();
        tokio::spawn(async move { said(&service, "/count?visits").await })
    });
    for visit in visits.collect::<Vec<_>>() {
        visit.await.unwrap();
    }
    assert_eq!(std::fs::read(kept.join("visits")).unwrap(), [b'x'; 11]);
    // Another instance of it finds the same, and one without the grant finds nothing.
    assert_eq!(
        said(&keeping(&kept, 1 << 20, |_| {}), "/count?visits").await,
        "12"
    );
    let refused = said(&granted(|_| {}), "/count?visits").await;
    assert!(refused.starts_with("refused"), "{refused}");
    for path in ["/state/../beside", "/beside", "/state/link/beside"] {
        std::os::unix::fs::symlink("..", kept.join("link")).ok();
        let told = said(&service, &format!("/tamper?{path}")).await;
        assert!(!told.contains("WORKED"), "{told}");
    }
    let beside = std::fs::read_to_string(directory.path().join("beside")).unwrap();
    assert_eq!(beside, "untouched");
}

#[tokio::test]
async fn what_a_service_keeps_is_bounded_for_each_request_and_for_all_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let service = keeping(directory.path(), 10_000, |limits| limits.disk_bytes = 6_000);
    let refused = said(&service, "/fill?6001").await;
    assert!(refused.starts_with("refused"), "{refused}");
    assert_eq!(said(&service, "/fill?6000").await, "written");
    // It takes the place of the first, which the service does not know yet.
    let refused = said(&service, "/fill?4001").await;
    assert!(refused.starts_with("refused"), "{refused}");
    let held = std::fs::metadata(directory.path().join("filling")).unwrap();
    assert!(held.len() <= 10_000, "{held:?}");
    // Started anew, it knows what is there: nothing, once that is removed.
    std::fs::remove_file(directory.path().join("filling")).unwrap();
    let service = keeping(directory.path(), 10_000, |_| {});
    assert_eq!(said(&service, "/fill?10000").await, "written");
    let refused = said(&service, "/count?more").await;
    assert!(refused.starts_with("refused"), "{refused}");

    let none = keeping(directory.path(), 1 << 20, |limits| limits.files = 0);
    let refused = said(&none, "/count?new").await;
    assert!(refused.starts_with("refused"), "{refused}");
}
