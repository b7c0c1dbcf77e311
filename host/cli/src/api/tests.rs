//! The client against a server of a few lines, that misbehaves on purpose.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::follow::Follow;
use super::upload::{Answer, Sent};
use super::{Api, is_loopback, refusal};
use crate::event::Event;
use crate::exit::Failure;
use crate::package::Package;

/// Answers each connection with the next of `answers`, after the request's head; remembers the heads.
async fn server(answers: Vec<String>) -> (Api, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await;
            seen.lock().unwrap().push(head);
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            // What the client still sends is read, as a server that refuses early has to.
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
    let api = Api::new(&url, Some("secret".to_owned()), Path::new("/nowhere")).unwrap();
    (api, heads)
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

fn answer(status: &str, media_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An event stream that ends where `body` ends.
fn stream(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}")
}

fn event(seq: u64, kind: &str, rest: &str) -> String {
    format!("id: {seq}\nevent: {kind}\ndata: {{\"seq\":{seq},\"deployment\":\"d1\"{rest}}}\n\n")
}

async fn everything(follow: &mut Follow) -> Result<Vec<u64>, Failure> {
    let mut seen = Vec::new();
    while let Some(events) = follow.next().await? {
        seen.extend(events.iter().filter_map(|event: &Event| event.seq));
    }
    Ok(seen)
}

/// A package without end, or of `parts` parts of 64 KiB.
fn package(parts: Option<usize>) -> Package {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let part = Bytes::from_static(&[b'x'; 64 * 1024]);
        for _ in 0..parts.unwrap_or(usize::MAX) {
            if sender.send(Ok(part.clone())).await.is_err() {
                return;
            }
        }
    });
    Package {
        media_type: "application/x-tar",
        bytes: parts.map(|parts| parts as u64 * 64 * 1024),
        parts: receiver,
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_the_package_is_shown_with_its_detail() {
    let problem =
        json!({"status": 413, "code": "package_too_large", "detail": "at most 1 GiB is taken"});
    let (api, heads) = server(vec![answer(
        "413 Payload Too Large",
        "application/problem+json",
        &problem.to_string(),
    )])
    .await;
    let sent = Arc::new(Sent::default());
    let project = "blog".parse().unwrap();
    let deployed = api
        .deploy(
            &project,
            &json!({}),
            None,
            package(None),
            Answer::Events,
            &sent,
        )
        .await;
    let failure = deployed.unwrap_err();
    assert_eq!(
        (failure.exit_code(), failure.to_string()),
        (3, "at most 1 GiB is taken".to_owned())
    );
    assert!(failure.advice().is_some());
    assert!(!sent.complete());
    let head = heads.lock().unwrap()[0].clone();
    assert!(
        head.starts_with("post /v1/projects/blog/deployments "),
        "{head}"
    );
    assert!(head.contains("authorization: bearer secret"), "{head}");
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
}

#[tokio::test]
async fn a_package_of_known_length_is_announced_and_its_head_comes_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = head(&mut stream).await;
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let record = answer("202 Accepted", "application/json", r#"{"id":"d1"}"#);
        stream.write_all(record.as_bytes()).await.unwrap();
        body
    });
    let api = Api::new(&url, None, Path::new("/nowhere")).unwrap();
    let sent = Arc::new(Sent::default());
    let project = "blog".parse().unwrap();
    let head = json!({"message": "hi"});
    let answer = api
        .deploy(
            &project,
            &head,
            Some("key-1"),
            package(Some(3)),
            Answer::Record,
            &sent,
        )
        .await
        .unwrap();
    assert_eq!(api.json(answer).await.unwrap()["id"], "d1");
    assert_eq!((sent.bytes(), sent.complete()), (3 * 64 * 1024, true));
    let body = server.await.unwrap();
    let start = String::from_utf8_lossy(&body[..600]).into_owned();
    assert!(start.find("name=\"head\"").unwrap() < start.find("name=\"package\"").unwrap());
    assert!(start.contains("{\"message\":\"hi\"}"), "{start}");
    assert!(body.ends_with(b"--\r\n"));
}

#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_where_it_was_left_with_no_gap_and_no_repeat() {
    let half = "id: 3\nevent: line\ndata: {\"seq\":3,";
    let (api, heads) = server(vec![
        stream(&(event(1, "phase", "") + &event(2, "line", "") + half)),
        answer("503 Service Unavailable", "text/plain", "restarting"),
        // Two is repeated, and the reader is told that it was too slow.
        stream(&(event(2, "line", "") + &event(3, "line", "") + "event: resync\n\n")),
        stream(
            &(event(4, "line", "")
                + ": heartbeat\n\n"
                + &event(5, "done", ",\"status\":\"failed\"")),
        ),
    ])
    .await;
    let mut follow = Follow::of(&api, "d1".to_owned(), 0);
    assert_eq!(everything(&mut follow).await.unwrap(), [1, 2, 3, 4, 5]);
    let heads = heads.lock().unwrap();
    assert!(!heads[0].contains("last-event-id"), "{}", heads[0]);
    assert!(heads[1].contains("last-event-id: 2"), "{}", heads[1]);
    assert!(heads[2].contains("last-event-id: 2"), "{}", heads[2]);
    assert!(heads[3].contains("last-event-id: 3"), "{}", heads[3]);
    assert!(
        heads[3].starts_with("get /v1/deployments/d1/events "),
        "{}",
        heads[3]
    );
}

#[tokio::test]
async fn the_answer_to_a_deployment_names_it_and_is_followed_past_its_own_end() {
    let (api, _) = server(vec![
        stream(&event(1, "phase", ",\"status\":\"queued\"")),
        stream(&event(2, "done", ",\"status\":\"succeeded\"")),
    ])
    .await;
    let sent = Arc::new(Sent::default());
    let project = "blog".parse().unwrap();
    let answer = api
        .deploy(
            &project,
            &json!({}),
            None,
            package(Some(1)),
            Answer::Events,
            &sent,
        )
        .await
        .unwrap();
    let mut follow = Follow::answer(&api, answer).await.unwrap();
    assert_eq!(follow.id(), None);
    assert_eq!(everything(&mut follow).await.unwrap(), [1, 2]);
    assert_eq!(follow.id(), Some("d1"));
}

#[tokio::test]
async fn a_deployment_that_is_over_and_seen_to_its_end_has_nothing_more() {
    let (api, heads) = server(vec![
        "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned(),
    ])
    .await;
    let mut follow = Follow::of(&api, "d1".to_owned(), 9);
    assert_eq!(everything(&mut follow).await.unwrap(), Vec::<u64>::new());
    assert!(heads.lock().unwrap()[0].contains("last-event-id: 9"));
}

#[tokio::test]
async fn a_server_that_stays_away_is_given_up_with_what_is_known() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let api = Api::new(&url, None, Path::new("/nowhere")).unwrap();
    let mut follow = Follow::of(&api, "d1".to_owned(), 7).with_patience(Duration::from_millis(300));
    let failure = everything(&mut follow).await.unwrap_err();
    assert_eq!(failure.exit_code(), 4);
    assert!(
        failure
            .to_string()
            .contains("cofferdam events d1 --after 7"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_stream_that_may_not_be_seen_is_a_refusal_and_not_a_retry() {
    let (api, _) = server(vec![answer("404 Not Found", "text/plain", "no")]).await;
    let mut follow = Follow::of(&api, "d1".to_owned(), 0);
    assert_eq!(everything(&mut follow).await.unwrap_err().exit_code(), 3);
}

#[tokio::test]
async fn an_id_may_be_short_as_long_as_it_is_one() {
    let list =
        json!({"deployments": [{"id": "0196-aaaa-1111"}, {"id": "0196-bbbb-2222"}]}).to_string();
    let answers = vec![answer("200 OK", "application/json", &list); 3];
    let (api, _) = server(answers).await;
    assert_eq!(api.resolve("2222").await.unwrap(), "0196-bbbb-2222");
    assert_eq!(api.resolve("0196").await.unwrap_err().exit_code(), 2);
    assert_eq!(api.resolve("cccc").await.unwrap_err().exit_code(), 3);
    assert_eq!(api.resolve("../x").await.unwrap_err().exit_code(), 2);
}

#[test]
fn a_stored_token_is_for_this_machine_alone() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("admin.token"), "stored\n").unwrap();
    let token = |url: &str, given: Option<&str>| {
        let api = Api::new(url, given.map(str::to_owned), data.path()).unwrap();
        api.token
    };
    for local in [
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://localhost:1",
        "http://127.9.9.9",
    ] {
        assert_eq!(token(local, None).as_deref(), Some("stored"), "{local}");
    }
    for elsewhere in [
        "http://10.0.0.1",
        "http://localhost.example.org",
        "http://0.0.0.0:1",
    ] {
        assert_eq!(token(elsewhere, None), None, "{elsewhere}");
        assert_eq!(token(elsewhere, Some("given")).as_deref(), Some("given"));
    }
    assert!(!is_loopback(&"http://example.org".parse().unwrap()));
}

#[test]
fn an_address_that_cannot_be_spoken_to_is_usage() {
    for url in ["127.0.0.1:9300", "http://", "ftp://a"] {
        let failure = Api::new(url, None, Path::new("/nowhere")).unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{url}");
    }
}

#[test]
fn a_refusal_and_a_server_in_trouble_are_told_apart() {
    let code = |status: u16, text: &str| refusal("http://x", status, text.as_bytes()).exit_code();
    assert_eq!(code(401, ""), 3);
    assert_eq!(code(422, r#"{"code":"config_invalid","detail":"no"}"#), 3);
    assert_eq!(code(507, r#"{"code":"storage_full"}"#), 3);
    assert_eq!(code(500, r#"{"code":"internal"}"#), 4);
    assert_eq!(code(502, "<html>"), 4);
    assert_eq!(code(503, r#"{"code":"not_ready"}"#), 4);
}
