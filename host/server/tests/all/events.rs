//! Events and logs, read whole, in parts and again.

use serde_json::Value;

use crate::harness::{TestServer, shared, site};

/// The numbers, kinds and data of the events in a stream that has ended.
fn parse(text: &str) -> Vec<(u64, String, Value)> {
    let blocks = text.split("\n\n").filter(|block| block.contains("data: "));
    let event = |block: &str| {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {block:?}"))
                .to_owned()
        };
        let data = serde_json::from_str(&field("data: ")).unwrap();
        (field("id: ").parse().unwrap(), field("event: "), data)
    };
    blocks.map(event).collect()
}

async fn read(server: &TestServer, path: &str, last: Option<u64>) -> Vec<(u64, String, Value)> {
    let mut request = server
        .request("GET", path)
        .header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    parse(&answer.text().await.unwrap())
}

#[tokio::test]
async fn the_stream_is_dense_and_ends_after_done() {
    let server = shared();
    // Joined while it runs.
    let id = server.deploy("stream", site()).await;
    let events = read(&server, &format!("/v1/deployments/{id}/events"), None).await;
    for (at, (number, kind, data)) in events.iter().enumerate() {
        assert_eq!(*number, at as u64 + 1);
        assert_eq!(data["seq"], *number);
        assert_eq!(data["deployment"], id.as_str());
        assert_eq!(
            kind == "done",
            at + 1 == events.len(),
            "{kind} is number {number}"
        );
    }
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_with_no_gap_and_no_repeat() {
    let server = shared();
    let id = server.deploy("resume", site()).await;
    let path = format!("/v1/deployments/{id}/events");
    let all = read(&server, &path, None).await;
    let last = all.len() as u64;
    for seen in 0..last {
        let expected = &all[usize::try_from(seen).unwrap()..];
        assert_eq!(
            read(&server, &path, Some(seen)).await,
            expected,
            "after {seen}"
        );
        let by_query = read(&server, &format!("{path}?after={seen}"), None).await;
        assert_eq!(by_query, expected, "after={seen}");
    }
    // The header is what a reconnecting EventSource adds to the address it was given.
    let both = read(&server, &format!("{path}?after=0"), Some(last - 1)).await;
    assert_eq!(both.len(), 1);
    // There is nothing more to come, and this is the answer that keeps it from asking again.
    let request = server.request("GET", &path).header("last-event-id", last);
    assert_eq!(request.send().await.unwrap().status(), 204);
    for (query, header) in [("?after=x", "1x"), ("?after=-1", "-1"), ("?since=1", "")] {
        let path = format!("{path}{query}");
        let answer = server.request("GET", &path).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{query}");
        let request = server.request("GET", path.split('?').next().unwrap());
        let answer = request
            .header("last-event-id", header)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{header:?}");
    }
}

#[tokio::test]
async fn a_stream_that_is_left_stops_nothing() {
    let server = shared();
    let headers = format!(
        "Accept: text/event-stream\r\nContent-Length: {}\r\nConnection: close\r\n",
        site().len()
    );
    let mut raw = server
        .begin("PUT /v1/projects/leave/deployments", &headers)
        .await;
    raw.send(&site()).await;
    let event = raw.read_until("\"seq\":1").await + &raw.read_until("\n\n").await;
    let id = event
        .split("\"deployment\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    server
        .eventually(&format!("/v1/deployments/{id}"), |record| {
            !record["package"]["bytes"].is_null()
        })
        .await;
    drop(raw);
    assert_eq!(server.ended(id).await["status"], "succeeded");
}

#[tokio::test]
async fn the_log_is_text_for_people_and_lines_of_json_for_programs() {
    let server = shared();
    let id = server.deploy("log", site()).await;
    server.ended(&id).await;
    let events = read(&server, &format!("/v1/deployments/{id}/events"), None).await;
    let path = format!("/v1/deployments/{id}/log");
    let by_accept = server
        .request("GET", &path)
        .header("accept", "application/x-ndjson");
    let by_query = server.request("GET", &format!("{path}?format=jsonl"));
    for request in [by_accept, by_query] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        let text = answer.text().await.unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let data: Vec<_> = events.iter().map(|(_, _, data)| data.clone()).collect();
        assert_eq!(lines, data);
    }
    let answer = server.request("GET", &path).send().await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    let text = answer.text().await.unwrap();
    let printed = events.iter().filter(|(_, kind, _)| kind == "line").count();
    assert!(printed > 0, "the steps of this deployment print something");
    assert!(text.lines().count() >= printed);
    assert!(text.lines().all(|line| line.starts_with('[')), "{text}");
    let wrong = server
        .request("GET", &format!("{path}?format=xml"))
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 400);
}
