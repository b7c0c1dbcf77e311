//! Packages over HTTP/2.

use std::io;

use bytes::Bytes;
use futures::SinkExt as _;
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::{TestServer, shared, site_with};
use crate::uploads::{create, noise, offset, patch};

/// A connection whose client knows beforehand that HTTP/2 is spoken.
async fn connect<B>(server: &TestServer) -> (SendRequest<B>, JoinHandle<()>)
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(server.api).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driver = tokio::spawn(async move { drop(connection.await) });
    (sender, driver)
}

/// One request over HTTP/2, and its answer's head and body.
async fn over_http2(
    sender: &mut SendRequest<Full<Bytes>>,
    server: &TestServer,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (http::response::Parts, Vec<u8>) {
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", server.api))
        .header("authorization", format!("Bearer {}", server.token));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(body)).unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    (parts, body.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test]
async fn packages_are_sent_and_resumed_over_http2_as_over_http1() {
    let server = shared();
    let (mut sender, connection) = connect(&server).await;
    let package = site_with(&noise(7, 700_000));

    let path = "/v1/projects/two-direct/deployments";
    let (parts, body) = over_http2(&mut sender, &server, "PUT", path, &[], package.clone()).await;
    assert_eq!(parts.status, 202);
    let record: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(record["package"]["received"], package.len());

    let created = [("upload-complete", "?0")];
    let path = "/v1/uploads?project=two-pieces";
    let (parts, _) = over_http2(&mut sender, &server, "POST", path, &created, Vec::new()).await;
    assert_eq!(parts.status, 201);
    let place = parts.headers["location"].to_str().unwrap().to_owned();
    let partial = ("content-type", "application/partial-upload");
    let halves = [
        ("0", "?0", 0..300_000),
        ("300000", "?1", 300_000..package.len()),
    ];
    for (at, complete, range) in halves {
        let headers = [
            partial,
            ("upload-offset", at),
            ("upload-complete", complete),
        ];
        let bytes = package[range].to_vec();
        let (parts, _) = over_http2(&mut sender, &server, "PATCH", &place, &headers, bytes).await;
        assert_eq!(parts.status, 204);
        let (parts, _) = over_http2(&mut sender, &server, "HEAD", &place, &[], Vec::new()).await;
        assert_eq!(parts.headers["upload-complete"], complete);
    }
    let upload = place.rsplit('/').next().unwrap();
    let (parts, body) = over_http2(
        &mut sender,
        &server,
        "POST",
        "/v1/projects/two-pieces/deployments",
        &[("content-type", "application/json")],
        json!({ "upload": upload }).to_string().into_bytes(),
    )
    .await;
    assert_eq!(parts.status, 202);
    let record: Value = serde_json::from_slice(&body).unwrap();
    let digest = blake3::hash(&package).to_hex().to_string();
    assert_eq!(record["package"]["blake3"], digest);

    // A stream that is given up in the middle leaves what arrived, and the connection to the others.
    let place = create(&server, "two-broken", None).await;
    let (mut tell, body) = futures::channel::mpsc::channel::<io::Result<Frame<Bytes>>>(1);
    let (mut streaming, driver) = connect(&server).await;
    let request = http::Request::patch(format!("http://{}{place}", server.api))
        .header("authorization", format!("Bearer {}", server.token))
        .header("content-type", "application/partial-upload")
        .header("upload-offset", "0")
        .header("upload-complete", "?1")
        .body(StreamBody::new(body))
        .unwrap();
    let answer = tokio::spawn(async move { streaming.send_request(request).await });
    let piece = Bytes::copy_from_slice(&package[..200_000]);
    tell.send(Ok(Frame::data(piece))).await.unwrap();
    tell.send(Err(io::Error::other("gone"))).await.unwrap();
    assert!(answer.await.unwrap().is_err());
    let now = offset(&server, &place).await;
    assert!(now <= 200_000);
    let last = patch(&server, &place, now, true, &package[now..]).await;
    assert_eq!(last.status(), 204);
    driver.abort();
    connection.abort();
}
