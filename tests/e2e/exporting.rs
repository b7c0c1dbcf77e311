//! Traces: a real deployment as a collector receives it, and a collector that is of no use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::package::{self, site};
use crate::server::{Server, wait_for};
use crate::telling::receiver;

/// A trace and a span that the client says its request belongs to.
const TRACE: &str = "0123456789abcdef0123456789abcdef";
const PARENT: &str = "00000000000000ff";

/// Every span in what a collector received.
fn spans_in(body: &str) -> Vec<Value> {
    let request: Value = serde_json::from_str(body).unwrap();
    let scopes = request["resourceSpans"][0]["scopeSpans"]
        .as_array()
        .unwrap();
    scopes
        .iter()
        .flat_map(|scope| scope["spans"].as_array().unwrap().clone())
        .collect()
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|found| found["key"] == key);
    found.map_or(&Value::Null, |found| &found["value"]["stringValue"])
}

/// A deployment whose request names a trace; its id.
async fn deploy_within(server: &Server, request_id: &str, head: &Value) -> String {
    let response = server
        .request(reqwest::Method::POST, "/v1/projects/blog/deployments")
        .header("Cofferdam-Head", head.to_string())
        .header("X-Request-Id", request_id)
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .body(package::tar(&site("one")))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 202);
    let record: Value = response.json().await.unwrap();
    server.end_of(&record).await;
    record["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_one_trace_from_its_request_to_its_last_step() {
    // The first batch is not taken at first, and comes again.
    let (url, messages) = receiver(1).await;
    let address = url.trim_end_matches("/hook");
    let mut server = Server::start_with(&["--otlp", address]);
    server
        .admit("fail", cofferdam_test_guests::program("fail"))
        .await;
    let id = deploy_within(&server, "good-1", &json!({})).await;
    wait_for("the first batch to come again", async || {
        (messages.lock().unwrap().len() > 1).then_some(())
    })
    .await;
    let head = json!({ "pipeline": { "install": [{ "plugin": "fail" }] } });
    let bad = deploy_within(&server, "bad-1", &head).await;
    // What is not posted yet is posted at the end.
    server.terminate();
    server.wait();

    let messages = messages.lock().unwrap();
    for message in messages.iter() {
        assert!(message.headers.starts_with("POST /v1/traces HTTP/1.1"));
        assert_eq!(message.header("content-type"), "application/json");
    }
    assert_eq!(messages[0].body, messages[1].body, "posted again");
    let resource = messages[0].json()["resourceSpans"][0]["resource"].clone();
    assert!(resource.to_string().contains("service.name"), "{resource}");
    let spans: Vec<Value> = messages[1..]
        .iter()
        .flat_map(|message| spans_in(&message.body))
        .collect();
    let of = |deployment: &str, name: &str| {
        let found: Vec<_> = spans
            .iter()
            .filter(|span| {
                span["name"] == name
                    && *attribute(span, "cofferdam.deployment.id") == json!(deployment)
            })
            .collect();
        assert_eq!(found.len(), 1, "{name} of {deployment}: {spans:#?}");
        found[0].clone()
    };
    for (id, request_id) in [(&id, "good-1"), (&bad, "bad-1")] {
        let request = of(id, "POST /v1/projects/{project}/deployments");
        assert_eq!(request["traceId"], TRACE);
        assert_eq!(request["parentSpanId"], PARENT);
        assert_eq!(request["kind"], 2);
        let deployment = of(id, "deployment");
        assert_eq!(deployment["parentSpanId"], request["spanId"]);
        for name in ["queue", "step extract"] {
            let part = of(id, name);
            assert_eq!(part["parentSpanId"], deployment["spanId"], "{name}");
            assert_eq!(attribute(&part, "cofferdam.outcome"), "succeeded", "{name}");
        }
        for span in &spans {
            let asked = span["name"].as_str().unwrap().starts_with("GET");
            if asked || *attribute(span, "cofferdam.deployment.id") != json!(id) {
                continue;
            }
            assert_eq!(span["traceId"], TRACE, "{span:#}");
            assert_eq!(attribute(span, "cofferdam.request.id"), request_id);
            assert_eq!(attribute(span, "cofferdam.project"), "blog", "{span:#}");
            let time = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
            assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
        }
    }
    for name in ["step load", "freeze", "activate", "deployment"] {
        let span = of(&id, name);
        assert_eq!(attribute(&span, "cofferdam.outcome"), "succeeded", "{name}");
        assert_eq!(span["status"], Value::Null);
    }
    assert!(
        attribute(&of(&id, "step extract"), "cofferdam.plugin")
            .as_str()
            .unwrap()
            .starts_with("unpack@")
    );
    for name in ["step install-1", "deployment"] {
        let span = of(&bad, name);
        assert_eq!(attribute(&span, "cofferdam.outcome"), "failed", "{name}");
        assert_eq!(attribute(&span, "error.type"), "step_failed", "{name}");
        assert_eq!(span["status"]["code"], 2, "{name}");
    }
    let all: String = messages
        .iter()
        .map(|message| message.body.as_str())
        .collect();
    assert!(!all.contains("this did not work"), "what a plugin printed");
    assert!(!all.contains(&server.token), "a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visit_is_in_a_trace_that_somebody_keeps_and_in_no_other() {
    let (url, messages) = receiver(0).await;
    let address = url.trim_end_matches("/hook");
    let mut server = Server::start_with(&["--otlp", address]);
    let record = server
        .succeed("blog", &json!({}), package::tar(&site("one")))
        .await;
    let other = TRACE.replace('0', "f");
    let parents = [(TRACE, "00"), (TRACE, "01"), (other.as_str(), "00")];
    for (trace, flags) in parents.map(|(trace, flags)| (trace.to_owned(), flags)) {
        let visit = server
            .visit("blog", "/missing")
            .header("traceparent", format!("00-{trace}-{PARENT}-{flags}"));
        assert_eq!(visit.send().await.unwrap().status().as_u16(), 404);
    }
    server.terminate();
    server.wait();

    let messages = messages.lock().unwrap();
    let spans: Vec<Value> = messages
        .iter()
        .flat_map(|message| spans_in(&message.body))
        .filter(|span| *attribute(span, "cofferdam.service") != Value::Null)
        .collect();
    let [visit] = &spans[..] else {
        panic!("not one: {spans:#?}");
    };
    assert_eq!(visit["traceId"], TRACE);
    assert_eq!(visit["parentSpanId"], PARENT);
    assert_eq!((&visit["name"], &visit["kind"]), (&json!("GET"), &json!(2)));
    assert_eq!(attribute(visit, "cofferdam.project"), "blog");
    assert_eq!(*attribute(visit, "cofferdam.deployment.id"), record["id"]);
    assert!(visit.to_string().contains("\"404\""), "{visit:#}");
    assert_eq!(visit["status"], Value::Null, "what a visitor does wrong");
}

/// A collector that takes connections and never answers.
async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_never_answers_holds_nothing_up() {
    // Nobody listens on the port that was just given back.
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for collector in [gone, silent().await] {
        let server = Arc::new(Server::start_with(&["--otlp", &collector]));
        server
            .succeed("blog", &json!({}), package::tar(&site("one")))
            .await;
        // More spans than the queue holds.
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let server = server.clone();
                tokio::spawn(async move {
                    for _ in 0..400 {
                        let path = "/healthz";
                        let request = server.request(reqwest::Method::GET, path);
                        assert!(request.send().await.unwrap().status().is_success());
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let dropped = "cofferdam_trace_spans_total{outcome=\"dropped\"}";
        assert!(server.figure(dropped).await > Some(0));
        server
            .succeed("blog", &json!({}), package::tar(&site("two")))
            .await;
        let begun = Instant::now();
        let mut server = Arc::into_inner(server).unwrap();
        server.terminate();
        server.wait();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
}
