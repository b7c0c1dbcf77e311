//! One deployment of a project at a time, and the right one: the queue, its lease, keys, holds and the cap on steps.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Output;

use reqwest::Method;
use serde_json::{Value, json};

use crate::package::{self, site};
use crate::server::{Server, cofferdam, wait_for};

/// A head whose install step sleeps for ever.
pub(crate) fn endless() -> Value {
    json!({ "pipeline": { "install": [{ "plugin": "forever" }] } })
}

/// A deployment whose install step sleeps for ever, at a moment when it does.
pub(crate) async fn sleeping(server: &Server, project: &str) -> String {
    server
        .admit("forever", cofferdam_test_guests::program("sleep_forever"))
        .await;
    let record = server
        .deploy(project, &endless(), package::tar(&site("never")))
        .await;
    let id = record["id"].as_str().unwrap().to_owned();
    step_is(server, &id, 1, "running").await;
    id
}

pub(crate) async fn step_is(server: &Server, id: &str, at: usize, status: &str) -> Value {
    wait_for(&format!("step {at} to be {status}"), async || {
        let record = server.get_json(&format!("/v1/deployments/{id}")).await;
        (record["steps"][at]["status"] == status).then_some(record)
    })
    .await
}

/// A command of the client's.
pub(crate) fn client(server: &Server, arguments: &[&str]) -> Output {
    cofferdam()
        .args(arguments)
        .args(["--url", &server.url(""), "--token", &server.token])
        .output()
        .unwrap()
}

/// Begins an upload and sends the first part of it. The rest is the caller's to send, or not.
pub(crate) fn begin_upload(
    server: &Server,
    project: &str,
    key: Option<&str>,
    announced: usize,
    first: &[u8],
) -> TcpStream {
    let mut stream = TcpStream::connect(server.api).unwrap();
    let key = key.map_or_else(String::new, |key| format!("Idempotency-Key: {key}\r\n"));
    let head = format!(
        "POST /v1/projects/{project}/deployments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         {key}Content-Length: {announced}\r\n\r\n",
        server.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(first).unwrap();
    stream.flush().unwrap();
    stream
}

/// The newest deployment of a project, once there are so many.
pub(crate) async fn newest(server: &Server, project: &str, count: usize) -> String {
    wait_for(&format!("{count} deployments"), async || {
        let page = server
            .get_json(&format!("/v1/deployments?project={project}"))
            .await;
        let list = page["deployments"].as_array().unwrap();
        (list.len() == count).then(|| list[0]["id"].as_str().unwrap().to_owned())
    })
    .await
}

async fn ended(server: &Server, id: &str) -> Value {
    server.end_of(&json!({ "id": id })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_deployment_takes_the_place_of_one_that_waits_and_is_named_in_it() {
    let server = Server::start();
    let running = sleeping(&server, "blog").await;
    let package = |title: &str| package::tar(&site(title));
    let older = server.deploy("blog", &json!({}), package("older")).await;
    assert_eq!(older["status"], "queued", "{older:#}");
    let newer = server.deploy("blog", &json!({}), package("newer")).await;
    let older = server.end_of(&older).await;
    assert_eq!(older["status"], "cancelled", "{older:#}");
    assert_eq!(older["error"]["code"], "superseded");
    let message = older["error"]["message"].as_str().unwrap();
    assert!(message.contains(newer["id"].as_str().unwrap()), "{message}");

    let lease = server.get_json("/v1/projects/blog").await["lease"].clone();
    assert_eq!(lease["deployment"], json!(running), "{lease}");
    let cancelled = client(&server, &["cancel", &running]);
    assert!(cancelled.status.success(), "{cancelled:?}");
    let newer = server.end_of(&newer).await;
    assert_eq!(newer["status"], "succeeded", "{newer:#}");
    assert!(server.serves("blog", "/").await.1.contains("newer"));
    let view = server.get_json("/v1/projects/blog").await;
    assert_eq!(view["lease"], Value::Null, "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_has_not_cost_the_deployment_before_it_its_place() {
    let server = Server::start();
    let running = sleeping(&server, "blog").await;
    let waiting = server
        .deploy("blog", &json!({}), package::tar(&site("whole")))
        .await;
    let package = package::tar(&site("half"));
    let upload = begin_upload(&server, "blog", None, 1 << 20, &package[..1000]);
    let broken = newest(&server, "blog", 3).await;
    drop(upload);
    let broken = ended(&server, &broken).await;
    assert_eq!(broken["error"]["code"], "upload_interrupted", "{broken:#}");
    assert!(client(&server, &["cancel", &running]).status.success());
    let waiting = server.end_of(&waiting).await;
    assert_eq!(waiting["status"], "succeeded", "{waiting:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_beyond_the_cap_wait_are_seen_to_and_take_turns_with_other_projects() {
    let server = Server::start_with(&["--max-steps", "1"]);
    let running = sleeping(&server, "blog").await;
    let record = server
        .deploy("shop", &json!({}), package::tar(&site("shop")))
        .await;
    let id = record["id"].as_str().unwrap().to_owned();
    let record = step_is(&server, &id, 0, "queued").await;
    assert_eq!(record["status"], "queued", "{record:#}");
    assert!(client(&server, &["cancel", &running]).status.success());
    let record = ended(&server, &id).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    let events = server.events(&id, 0).await;
    let queued = |event: &&Value| event["kind"] == "phase" && event["step"] == "extract";
    let said = events.iter().find(queued).unwrap();
    assert_eq!(
        (&said["status"], &said["places"]),
        (&json!("queued"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_is_the_same_deployment_and_one_that_differs_is_refused() {
    let server = Server::start();
    let package = package::tar(&site("once"));
    let send = async |head: Value, body: Vec<u8>, key: &str| {
        let response = server
            .request(Method::POST, "/v1/projects/blog/deployments")
            .header("Cofferdam-Head", head.to_string())
            .header("Idempotency-Key", key)
            .body(body)
            .send()
            .await
            .unwrap();
        let location = response.headers().get("location").cloned();
        let status = response.status().as_u16();
        (status, location, response.json::<Value>().await.unwrap())
    };
    let first = send(json!({}), package.clone(), "k1").await;
    assert_eq!(first.0, 202, "{first:?}");
    let again = send(json!({}), package.clone(), "k1").await;
    assert_eq!((again.0, &again.1), (202, &first.1), "{again:?}");
    assert_eq!(again.2["id"], first.2["id"]);
    assert_eq!(again.2["package"]["blake3"], first.2["package"]["blake3"]);
    server.end_of(&first.2).await;
    let later = send(json!({}), package.clone(), "k1").await;
    assert_eq!((later.0, &later.2["status"]), (202, &json!("succeeded")));

    for (head, body) in [
        (json!({}), package::tar(&site("another"))),
        (json!({ "message": "another" }), package.clone()),
    ] {
        let refused = send(head, body, "k1").await;
        assert_eq!((refused.0, &refused.2["code"]), (409, &json!("conflict")));
        let detail = refused.2["detail"].as_str().unwrap();
        assert!(detail.contains(first.2["id"].as_str().unwrap()), "{detail}");
    }
    let refused = send(json!({}), package.clone(), "not a key").await;
    assert_eq!(
        (refused.0, &refused.2["code"]),
        (400, &json!("request_invalid"))
    );
    let other = send(json!({}), package, "k2").await;
    assert_ne!(other.2["id"], first.2["id"]);
    newest(&server, "blog", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_waits_for_a_first_request_that_still_arrives_and_replaces_one_that_broke() {
    let server = Server::start();
    // A short one would begin nothing before its last byte.
    let mut entries = site("slow");
    entries[0].bytes.resize(200_000, b' ');
    let package = package::tar(&entries);
    let (first, rest) = package.split_at(1000);
    let repeat = || {
        let request = server
            .request(Method::POST, "/v1/projects/blog/deployments")
            .header("Idempotency-Key", "slow")
            .body(package.clone());
        tokio::spawn(async move { request.send().await.unwrap().json::<Value>().await.unwrap() })
    };
    let mut upload = begin_upload(&server, "blog", Some("slow"), package.len(), first);
    let id = newest(&server, "blog", 1).await;
    let waiting = repeat();
    upload.write_all(rest).unwrap();
    let answer = waiting.await.unwrap();
    assert_eq!(answer["id"], json!(id), "{answer:#}");
    ended(&server, &id).await;

    let broken = begin_upload(&server, "shop", Some("slow"), package.len(), first);
    let id = newest(&server, "shop", 1).await;
    let request = server
        .request(Method::POST, "/v1/projects/shop/deployments")
        .header("Idempotency-Key", "slow")
        .body(package.clone());
    let waiting =
        tokio::spawn(async move { request.send().await.unwrap().json::<Value>().await.unwrap() });
    drop(broken);
    let answer = waiting.await.unwrap();
    assert_ne!(answer["id"], json!(id), "{answer:#}");
    let record = server.end_of(&answer).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    assert_eq!(
        ended(&server, &id).await["error"]["code"],
        "upload_interrupted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_under_a_hold_refuses_deployments_and_says_why() {
    let server = Server::start();
    let running = sleeping(&server, "blog").await;
    let waiting = server
        .deploy("blog", &json!({}), package::tar(&site("waits")))
        .await;
    let hold = client(&server, &["hold", "blog", "--reason", "stocktaking"]);
    assert!(hold.status.success(), "{hold:?}");
    let view = server.get_json("/v1/projects/blog").await;
    assert_eq!(view["hold"]["reason"], "stocktaking", "{view}");

    let directory = tempfile::tempdir().unwrap();
    package::write_to(directory.path(), &site("refused"));
    let path = directory.path().display().to_string();
    let refused = client(&server, &["deploy", &path, "--project", "blog"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("stocktaking") && said.contains("conflict"),
        "{said}"
    );
    // One that waited when the hold came is not let in by the back door.
    assert!(client(&server, &["cancel", &running]).status.success());
    let waiting = server.end_of(&waiting).await;
    assert_eq!(waiting["error"]["code"], "conflict", "{waiting:#}");
    let message = waiting["error"]["message"].as_str().unwrap();
    assert!(message.contains("stocktaking"), "{message}");

    for _ in 0..2 {
        let release = client(&server, &["hold", "blog", "--release"]);
        assert!(release.status.success(), "{release:?}");
    }
    let deployed = client(&server, &["deploy", "--wait", &path, "--project", "blog"]);
    assert!(deployed.status.success(), "{deployed:?}");
    let usage = client(&server, &["hold", "blog"]);
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlock_says_whom_it_breaks_and_lets_the_next_one_run() {
    let server = Server::start();
    let running = sleeping(&server, "blog").await;
    let waiting = server
        .deploy("blog", &json!({}), package::tar(&site("next")))
        .await;
    let unlocked = client(&server, &["unlock", "blog"]);
    assert!(unlocked.status.success(), "{unlocked:?}");
    let said = String::from_utf8_lossy(&unlocked.stdout);
    let process = format!("/{}/", server.process());
    assert!(said.contains(&running) && said.contains(&process), "{said}");
    let broken = ended(&server, &running).await;
    assert_eq!(broken["status"], "failed", "{broken:#}");
    assert_eq!(broken["error"]["code"], "interrupted", "{broken:#}");
    let waiting = server.end_of(&waiting).await;
    assert_eq!(waiting["status"], "succeeded", "{waiting:#}");
    let nobody = client(&server, &["unlock", "blog"]);
    assert!(nobody.status.success(), "{nobody:?}");
    assert!(String::from_utf8_lossy(&nobody.stdout).contains("nobody"));
}
