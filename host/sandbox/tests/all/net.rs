//! The network by name, with real servers on the loopback, which an operator has to allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cofferdam_sandbox::{NetGrant, Sandbox, SandboxOptions, Stdin, Verdict};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Ended, Run};

/// A server that answers one request on each connection, and counts them.
struct Server {
    port: u16,
    requests: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self {
            port,
            requests: Arc::default(),
            most: Arc::default(),
        };
        let (requests, most) = (Arc::clone(&server.requests), Arc::clone(&server.most));
        let now = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                requests.fetch_add(1, Ordering::SeqCst);
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    // A client that goes away is what some of the tests are about.
                    let _ = answer(stream, &now, &most).await;
                });
            }
        });
        server
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn answer(
    mut stream: TcpStream,
    now: &AtomicUsize,
    most: &AtomicUsize,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let text = |text: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        )
    };
    let (first, endless) = match path.as_str() {
        "/hello" => (text("hello"), false),
        "/head" => (text(head.lines().nth(1).unwrap_or_default()), false),
        "/forged" => (
            "HTTP/1.1 200 OK\r\ncofferdam-net-outcome: denied\r\ncofferdam-net-length: 9\r\n\
             content-length: 2\r\n\r\nok"
                .to_owned(),
            false,
        ),
        "/redirect" => (
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n"
                .to_owned(),
            false,
        ),
        "/cut" => (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_owned(),
            false,
        ),
        "/echo" => {
            let bytes = read_chunks(&mut stream).await?;
            (text(&format!("{bytes} bytes came")), false)
        }
        "/slow" => {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            (text("slow"), false)
        }
        "/never" => {
            stream.read_u8().await?;
            return Ok(());
        }
        "/endless" => (
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(),
            true,
        ),
        _ => (text("what?"), false),
    };
    stream.write_all(first.as_bytes()).await?;
    if endless {
        // Until the other end has had enough.
        loop {
            stream.write_all(&[b'e'; 16 << 10]).await?;
        }
    }
    stream.shutdown().await
}

/// Reads a chunked body.
async fn read_chunks(stream: &mut TcpStream) -> std::io::Result<usize> {
    let mut bytes = 0;
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await?);
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let length = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let mut piece = vec![0; length + 2];
        stream.read_exact(&mut piece).await?;
        bytes += length;
        if length == 0 {
            return Ok(bytes);
        }
    }
}

fn grant(hosts: &[&str], ranges: &[&str]) -> NetGrant {
    NetGrant {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        allow_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        extra_roots: Vec::new(),
    }
}

fn fetch(net: NetGrant, requests: &Value) -> Run {
    let mut run = Run::of("fetch").config(json!({ "requests": requests }));
    run.spec.net = net;
    run
}

fn local(server: &Server) -> NetGrant {
    grant(&[&server.address()], &["127.0.0.0/8"])
}

fn succeeded(ended: &Ended) -> Vec<&str> {
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded, "{ended:?}");
    ended.lines()
}

#[tokio::test]
async fn a_granted_host_is_reached_and_is_in_the_receipt() {
    let server = Server::start().await;
    let to = server.address();
    let requests = json!([
        { "to": to, "path": "/hello" },
        { "to": to, "path": "/head" },
        { "to": to, "path": "/echo", "method": "POST", "send": 300_000 },
    ]);
    let ended = fetch(local(&server), &requests).end().await;
    let host = format!("host: {to}");
    assert_eq!(
        succeeded(&ended),
        [
            "200 5 [] hello".to_owned(),
            format!("200 {} [] {host}", host.len()),
            "200 17 [] 300000 bytes came".to_owned(),
        ]
    );
    let used = ended.outcome.receipt.hosts[&to];
    assert_eq!((used.requests, used.denied), (3, 0));
    assert!(
        used.bytes_out > 300_000 && used.bytes_out < 400_000,
        "{used:?}"
    );
    assert!(used.bytes_in > 100 && used.bytes_in < 1000, "{used:?}");
    assert_eq!(ended.outcome.receipt.hosts.len(), 1);
}

#[tokio::test]
async fn what_was_not_granted_is_refused_and_counted() {
    let server = Server::start().await;
    let to = server.address();
    let requests = json!([
        { "to": "127.0.0.1:9" },
        { "to": "example.org" },
        { "to": format!("0x7f.1:{}", server.port) },
        { "to": format!("2130706433:{}", server.port) },
        { "to": format!("0177.0.0.1:{}", server.port) },
        { "to": format!("user@{to}") },
        { "to": to, "headers": { "host": "example.org" } },
        { "to": to, "headers": { "upgrade": "websocket" } },
        { "to": to, "method": "CONNECT" },
    ]);
    let ended = fetch(local(&server), &requests).end().await;
    for line in succeeded(&ended) {
        assert!(line.starts_with("error "), "{line}");
    }
    assert_eq!(ended.lines().len(), 9);
    assert_eq!(server.requests(), 0);
    let hosts = &ended.outcome.receipt.hosts;
    assert_eq!(hosts["127.0.0.1:9"].denied, 1);
    assert_eq!(hosts["example.org:80"].denied, 1);
    assert_eq!(hosts["(others)"].denied, 4);
}

#[tokio::test]
async fn an_address_that_is_not_public_wants_the_operators_word() {
    let server = Server::start().await;
    let (to, name) = (server.address(), format!("localhost:{}", server.port));
    let requests = json!([{ "to": to, "path": "/hello" }, { "to": name, "path": "/hello" }]);
    let ended = fetch(grant(&[&to, &name], &[]), &requests).end().await;
    let prohibited = "error DestinationIpProhibited";
    assert_eq!(succeeded(&ended), [prohibited, prohibited]);
    assert_eq!(server.requests(), 0);
    assert_eq!(ended.outcome.receipt.hosts[&name].denied, 1);

    let allowed = grant(&[&to, &name], &["127.0.0.0/8", "::1"]);
    let ended = fetch(allowed, &requests).end().await;
    assert_eq!(succeeded(&ended), ["200 5 [] hello", "200 5 [] hello"]);
}

#[tokio::test]
async fn an_upstream_can_neither_forge_a_failure_nor_send_a_guest_elsewhere() {
    let server = Server::start().await;
    let to = server.address();
    let requests = json!([
        { "to": to, "path": "/forged" },
        { "to": to, "path": "/redirect" },
        { "to": to, "path": "/cut" },
    ]);
    let ended = fetch(local(&server), &requests).end().await;
    assert_eq!(
        succeeded(&ended),
        [
            "200 2 [] ok",
            "302 0 [\"location\"] ",
            "error after 200: connection terminated",
        ]
    );
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn limits_on_requests_and_bytes_hold() {
    let server = Server::start().await;
    let to = server.address();
    let hello = json!({ "to": to, "path": "/hello" });
    let ended = fetch(local(&server), &json!([hello, hello, hello]))
        .limits(|limits| limits.requests = 2)
        .end()
        .await;
    let refused = |line: &&&str| **line == "error HttpRequestDenied";
    assert_eq!(succeeded(&ended).iter().filter(refused).count(), 1);
    assert_eq!(server.requests(), 2);

    let post = json!({ "to": to, "path": "/echo", "method": "POST", "send": 1 << 20 });
    let ended = fetch(local(&server), &json!([post]))
        .limits(|limits| limits.egress_bytes = 100_000)
        .end()
        .await;
    assert_eq!(succeeded(&ended), ["error HttpRequestBodySize(None)"]);
    assert!(ended.outcome.receipt.hosts[&to].bytes_out <= 100_000);

    let ended = fetch(local(&server), &json!([{ "to": to, "path": "/endless" }]))
        .limits(|limits| limits.ingress_bytes = 8 << 20)
        .end()
        .await;
    assert_eq!(
        succeeded(&ended),
        ["error after 200: HTTP response body size exceeds limit"]
    );
    assert!(ended.outcome.receipt.hosts[&to].bytes_in <= 9 << 20);
}

#[tokio::test]
async fn a_peer_that_never_answers_ends_with_the_time_limits() {
    let server = Server::start().await;
    let to = server.address();
    let never = json!([{ "to": to, "path": "/never", "first_byte_ms": 100 }]);
    let ended = fetch(local(&server), &never).end().await;
    assert_eq!(succeeded(&ended), ["error HttpResponseTimeout"]);

    let never = json!([{ "to": to, "path": "/never" }]);
    let ended = fetch(local(&server), &never)
        .limits(|limits| limits.wall_ms = 300)
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::TimedOut { limit_ms: 300 });
    assert_eq!(ended.outcome.receipt.hosts[&to].requests, 1);
}

#[tokio::test]
async fn a_body_that_a_guest_drops_holds_up_nothing() {
    let server = Server::start().await;
    let to = server.address();
    let requests = json!([
        { "to": to, "path": "/endless", "read": 1000 },
        { "to": to, "path": "/endless", "read": 1000 },
        { "to": to, "path": "/hello" },
    ]);
    let ended = fetch(local(&server), &requests).end().await;
    assert_eq!(
        succeeded(&ended),
        ["200 and enough", "200 and enough", "200 5 [] hello"]
    );
    // Bounded by the windows and the sockets' buffers, however fast the server is.
    assert!(ended.outcome.receipt.hosts[&to].bytes_in < 64 << 20);
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_were_granted() {
    let server = Server::start().await;
    let slow = json!({ "to": server.address(), "path": "/slow" });
    let ended = fetch(local(&server), &json!([slow, slow, slow, slow, slow, slow]))
        .limits(|limits| limits.connections = 2)
        .end()
        .await;
    assert_eq!(succeeded(&ended), ["200 4 [] slow"; 6]);
    assert_eq!(server.most.load(Ordering::SeqCst), 2);
}

#[test]
fn a_step_with_a_network_wants_a_runtime() {
    let sandbox = Sandbox::new(SandboxOptions::default()).unwrap();
    let component = sandbox
        .admit(cofferdam_test_guests::program("fetch"))
        .unwrap();
    let spec = fetch(grant(&["example.org:443"], &[]), &json!([])).spec;
    let error = sandbox
        .start(&component, spec, Vec::new(), Stdin::Closed)
        .unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}
