//! Both protocols over real sockets, and peers that do not do their part.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::Ipv4Addr;

use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// How long anything here may take on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

type Answer = axum::body::Body;

/// A listener that answers `/endless` without end and anything else with the request's version.
async fn server(adjust: impl FnOnce(&mut ConnectionLimits)) -> (SocketAddr, ConnectionFigures) {
    let mut limits = ConnectionLimits::default();
    adjust(&mut limits);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let figures = ConnectionFigures::default();
    let listening = Listening {
        listener,
        limits,
        tls: None,
        figures: figures.clone(),
    };
    let service = tower::service_fn(|request: Request<Incoming>| async move {
        let body = if request.uri().path() == "/endless" {
            let piece = Bytes::from(vec![0; 16 * 1024]);
            let pieces = futures::stream::repeat_with(move || {
                Ok::<_, Infallible>(http_body::Frame::data(piece.clone()))
            });
            Answer::new(StreamBody::new(pieces))
        } else {
            Answer::from(format!("{:?}", request.version()))
        };
        Ok::<_, Infallible>(Response::new(body))
    });
    tokio::spawn(serve(listening, service, CancellationToken::new()));
    (address, figures)
}

type Sender = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

/// A client of HTTP/2 that knows beforehand that it is spoken, with small windows.
async fn http2(address: SocketAddr) -> (Sender, tokio::task::JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let driver = tokio::spawn(async move { drop(connection.await) });
    (sender, driver)
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let uri = format!("http://localhost{path}");
    Request::get(uri).body(Empty::new()).unwrap()
}

async fn closed(driver: tokio::task::JoinHandle<()>) {
    tokio::time::timeout(PATIENCE, driver)
        .await
        .expect("the connection stays open")
        .unwrap();
}

#[tokio::test]
async fn both_protocols_are_spoken_on_one_port() {
    let (address, _) = server(|_| {}).await;
    let (mut sender, _driver) = http2(address).await;
    for _ in 0..3 {
        let answer = sender.send_request(get("/")).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "HTTP/2.0");
    }
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    plain.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("HTTP/1.1"), "{text}");
}

#[tokio::test]
async fn a_connection_of_http2_without_requests_is_closed() {
    let (address, _) = server(|limits| limits.header_read = Duration::from_millis(200)).await;
    let (mut sender, driver) = http2(address).await;
    sender.send_request(get("/")).await.unwrap();
    closed(driver).await;
}

#[tokio::test]
async fn a_peer_whose_window_stays_shut_is_dropped() {
    let (address, _) = server(|limits| limits.write_stall = Duration::from_millis(300)).await;
    let (mut sender, driver) = http2(address).await;
    let answer = sender.send_request(get("/endless")).await.unwrap();
    // The answer is held and never read: its window closes, and the other end gives up.
    closed(driver).await;
    drop(answer);
}

#[tokio::test]
async fn a_peer_that_reads_slowly_is_kept() {
    let (address, _) = server(|limits| limits.write_stall = Duration::from_secs(2)).await;
    let (mut sender, _driver) = http2(address).await;
    let mut body = sender
        .send_request(get("/endless"))
        .await
        .unwrap()
        .into_body();
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < until {
        let frame = body.frame().await.unwrap().unwrap();
        assert!(frame.is_data());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_oldest_idle_connections_make_room() {
    let (address, figures) = server(|limits| limits.idle = 4).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Half a request is none.
        stream.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        idle.push(stream);
    }
    // The first ones are closed, the last ones can still say what they want.
    for stream in &mut idle[..4] {
        let mut end = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut end)).await;
        let _ = read.expect("an old idle connection stays open");
        assert_eq!(end, b"");
    }
    for stream in &mut idle[4..] {
        stream
            .write_all(b" a\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(figures.retired(), 4);
}
