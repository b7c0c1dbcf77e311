//! Events joined late, resumed and left.

use futures::StreamExt as _;
use serde_json::json;

use crate::package::{self, site};
use crate::server::{Server, assert_dense, events_in};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_late_sees_every_event_once_and_whoever_resumes_sees_the_rest() {
    let server = Server::start();
    let head = json!({ "pipeline": { "install": [{ "plugin": "precompress" }] } });
    let record = server
        .deploy("watched", &head, package::tar(&site("watched")))
        .await;
    let id = record["id"].as_str().unwrap();

    // Several join while it runs, and one when it is over.
    let (one, two) = tokio::join!(server.events(id, 0), server.events(id, 0));
    server.end_of(&record).await;
    let late = server.events(id, 0).await;
    assert_dense(&one, 1);
    assert_eq!(one, two);
    assert_eq!(one, late);

    for after in [1, 3, late.len() as u64 - 1] {
        let rest = server.events(id, after).await;
        assert_eq!(
            rest,
            late[usize::try_from(after).unwrap()..],
            "after {after}"
        );
    }

    let last = server.get_json(&format!("/v1/deployments/{id}")).await;
    assert_eq!(last["events"]["last"], late.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_leaves_stops_nothing() {
    let server = Server::start();
    server
        .admit("slow", cofferdam_test_guests::program("print_slowly"))
        .await;
    let head = json!({ "pipeline": { "install": [{ "plugin": "slow", "config": { "lines": 40, "pause_ms": 25 } }] } });
    let record = server
        .deploy("left", &head, package::tar(&site("left")))
        .await;
    let id = record["id"].as_str().unwrap();

    let response = server
        .request(
            reqwest::Method::GET,
            &format!("/v1/deployments/{id}/events"),
        )
        .send()
        .await
        .unwrap();
    let mut stream = response.bytes_stream();
    let mut seen = String::new();
    while !seen.contains("event: line") && !seen.contains("event:line") {
        let bytes = stream
            .next()
            .await
            .expect("the stream goes on until done")
            .unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes));
    }
    drop(stream);

    let ended = server.end_of(&record).await;
    assert_eq!(ended["status"], "succeeded", "{ended:#}");
    // What was seen before leaving and what is read after it are one log.
    let before = events_in(&seen[..seen.rfind("\n\n").unwrap() + 2]);
    let rest = server
        .events(id, before.last().unwrap()["seq"].as_u64().unwrap())
        .await;
    let whole: Vec<_> = before.into_iter().chain(rest).collect();
    assert_dense(&whole, 1);
    let lines = whole
        .iter()
        .filter(|event| event["kind"] == "line" && event["step"] == "install-1")
        .count();
    assert_eq!(lines, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_there_as_text_and_as_json_lines() {
    let server = Server::start();
    let record = server
        .succeed("logged", &json!({}), package::tar(&site("logged")))
        .await;
    let path = format!("/v1/deployments/{}/log", record["id"].as_str().unwrap());
    let text = server
        .request(reqwest::Method::GET, &path)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.contains("[extract]"), "{text}");
    let lines = server
        .request(reqwest::Method::GET, &path)
        .header("Accept", "application/x-ndjson")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let events: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_dense(&events, 1);
}
