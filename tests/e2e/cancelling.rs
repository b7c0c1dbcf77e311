//! Cancelling a deployment in every state: what is acknowledged has stopped.

use std::io::Read as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::isolating::{children, runs};
use crate::package::{self, site};
use crate::queueing::{begin_upload, client, newest, sleeping, step_is};
use crate::server::{Server, assert_dense, wait_for};

/// What a cancel may take on a machine that has time for it.
const PROMISE: Duration = Duration::from_millis(200);

/// How often the promise may be missed because the machine was busy with something else.
const ATTEMPTS: usize = 6;

/// Cancels, and answers the status, the document, and how long it took.
async fn cancel(server: &Server, id: &str) -> (u16, Value, Duration) {
    let path = format!("/v1/deployments/{id}/cancel");
    let begun = Instant::now();
    let response = server.request(Method::POST, &path).send().await.unwrap();
    let took = begun.elapsed();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap(), took)
}

/// How long the server takes for two synced commits and their answers: what the machine makes of the same kind of
/// work, now.
async fn control(server: &Server) -> Duration {
    let begun = Instant::now();
    let request = server.request(Method::PUT, "/v1/projects/control/hold");
    let answer = request
        .body(r#"{"reason":"control"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let request = server.request(Method::DELETE, "/v1/projects/control/hold");
    assert_eq!(request.send().await.unwrap().status().as_u16(), 204);
    begun.elapsed()
}

/// What holds at the very moment at which a cancel is acknowledged.
async fn assert_stopped(server: &Server, id: &str) {
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    let events = server.events(id, 0).await;
    assert_dense(&events, 1);
    assert_eq!(events.last().unwrap()["status"], "cancelled");
    let again = server.events(id, 0).await;
    assert_eq!(events.len(), again.len());
}

/// Runs `attempt`, which answers how long a cancel took, until one keeps the promise.
async fn within_the_promise(server: &Server, mut attempt: impl AsyncFnMut() -> Duration) {
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let took = attempt().await;
        let control = control(server).await;
        // A control that takes its time says that the machine is not ours alone.
        if took < PROMISE + 8 * control {
            return;
        }
        seen.push((took, control));
    }
    panic!("no cancel was acknowledged in time; with their controls: {seen:?}");
}

/// The worker that runs a step: only such a one has a thread that listens for orders.
fn busy(server: &Server) -> Option<u32> {
    let listens = |process: &u32| {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
        tasks.into_iter().flatten().flatten().any(|task| {
            let name = std::fs::read_to_string(task.path().join("comm"));
            name.is_ok_and(|name| name.trim_end() == "orders")
        })
    };
    children(server.process()).into_iter().find(listens)
}

async fn a_step_is_cancelled_in_time(guest: &str) {
    let server = Server::start();
    server
        .admit("guest", cofferdam_test_guests::program(guest))
        .await;
    let head = json!({ "pipeline": { "install": [{ "plugin": "guest" }] } });
    within_the_promise(&server, async || {
        let record = server
            .deploy("blog", &head, package::tar(&site("never")))
            .await;
        let id = record["id"].as_str().unwrap().to_owned();
        step_is(&server, &id, 1, "running").await;
        let worker = wait_for("the step's process", async || busy(&server)).await;
        let (status, record, took) = cancel(&server, &id).await;
        assert!(!runs(worker), "no guest's code runs any more");
        assert_eq!(status, 200, "{record:#}");
        assert_eq!(record["status"], "cancelled", "{record:#}");
        assert_eq!(record["error"]["code"], "cancelled", "{record:#}");
        assert_eq!(record["steps"][1]["status"], "cancelled", "{record:#}");
        assert_stopped(&server, &id).await;
        took
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_loops_is_stopped_and_then_it_is_said() {
    a_step_is_cancelled_in_time("loop_forever").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_sleeps_is_stopped_and_then_it_is_said() {
    a_step_is_cancelled_in_time("sleep_forever").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_prints_is_stopped_and_then_it_is_said() {
    a_step_is_cancelled_in_time("print_forever").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_flight_is_cancelled_and_its_sender_is_told() {
    let server = Server::start();
    let package = package::tar(&site("half"));
    let mut count = 0;
    within_the_promise(&server, async || {
        count += 1;
        let mut upload = begin_upload(&server, "blog", None, 1 << 20, &package[..2000]);
        let id = newest(&server, "blog", count).await;
        step_is(&server, &id, 0, "running").await;
        let (status, record, took) = cancel(&server, &id).await;
        assert_eq!((status, &record["status"]), (200, &json!("cancelled")));
        assert_eq!(record["package"]["blake3"], Value::Null);
        assert_stopped(&server, &id).await;
        // It has not sent the rest and is not waited for.
        let mut answer = String::new();
        upload.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
        assert!(
            answer.contains("\"cancelled\"") && answer.contains(&id),
            "{answer}"
        );
        took
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_waits_is_cancelled_where_it_waits() {
    let server = Server::start_with(&["--max-steps", "1"]);
    let running = sleeping(&server, "blog").await;
    let behind = server
        .deploy("blog", &json!({}), package::tar(&site("behind")))
        .await;
    let beside = server
        .deploy("shop", &json!({}), package::tar(&site("beside")))
        .await;
    let beside = beside["id"].as_str().unwrap();
    step_is(&server, beside, 0, "queued").await;
    for id in [behind["id"].as_str().unwrap(), beside, &running] {
        let (status, record, _) = cancel(&server, id).await;
        assert_eq!((status, &record["status"]), (200, &json!("cancelled")));
    }
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    let record = server
        .succeed("shop", &json!({}), package::tar(&site("after")))
        .await;
    assert_eq!(record["steps"][0]["status"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_the_same_twice_and_one_that_comes_too_late_is_told_the_end() {
    let server = Server::start();
    let id = sleeping(&server, "blog").await;
    // Two at a time, and one afterwards.
    let (one, two) = tokio::join!(cancel(&server, &id), cancel(&server, &id));
    let three = cancel(&server, &id).await;
    for (status, record, _) in [&one, &two, &three] {
        assert_eq!((*status, &record["status"]), (200, &json!("cancelled")));
        assert_eq!(record["version"], one.1["version"]);
    }
    let done = server
        .succeed("blog", &json!({}), package::tar(&site("done")))
        .await;
    let done = done["id"].as_str().unwrap();
    let (status, problem, _) = cancel(&server, done).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("succeeded"), "{detail}");
    assert_eq!(client(&server, &["cancel", done]).status.code(), Some(3));
    let (status, ..) = cancel(&server, "0198c0de-0000-7000-8000-000000000000").await;
    assert_eq!(status, 404);
    let read_only = reqwest::Client::new()
        .post(server.url(&format!("/v1/deployments/{done}/cancel")))
        .send()
        .await
        .unwrap();
    assert_eq!(read_only.status().as_u16(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cancelled_leaves_the_trash_empty_and_the_project_as_it_was() {
    let server = Server::start();
    server
        .succeed("blog", &json!({}), package::tar(&site("before")))
        .await;
    let id = sleeping(&server, "blog").await;
    let cancelled = client(&server, &["cancel", &id]);
    assert!(cancelled.status.success(), "{cancelled:?}");
    assert!(String::from_utf8_lossy(&cancelled.stdout).contains(&id));
    assert!(server.serves("blog", "/").await.1.contains("before"));
    wait_for("the trash to be empty", async || {
        server.names_in("trash").is_empty().then_some(())
    })
    .await;
}
