//! The network by name, the whole way: asked for in a head, allowed by the policy, used in a worker process, counted
//! in the receipt.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::json;

use crate::package::{self, site};
use crate::server::Server;

/// Answers every request with `hello`, and returns where.
fn peer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            // A client that has left wants no answer.
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
            );
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_reaches_the_host_that_the_policy_grants_and_no_other() {
    let (granted, other) = (peer(), peer());
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(
        &policy,
        format!(
            "[defaults]\nnet = [\"{granted}\"]\n\n[network]\nallow_ranges = [\"127.0.0.0/8\"]\n"
        ),
    )
    .unwrap();
    let server = Server::start_with(&["--policy", &policy.display().to_string()]);
    server
        .admit("fetch", cofferdam_test_guests::program("fetch"))
        .await;
    let head = |net: &[&String]| {
        let requests: Vec<_> = [&granted, &other]
            .iter()
            .map(|to| json!({ "to": to }))
            .collect();
        json!({ "pipeline": { "install": [{
            "plugin": "fetch",
            "config": { "requests": requests },
            "request": { "net": net },
        }] } })
    };
    let record = server
        .succeed("blog", &head(&[&granted]), package::tar(&site("fetched")))
        .await;
    let said = record["events"]["summary"].to_string();
    assert!(said.contains("hello"), "{said}");
    assert!(said.contains("HttpRequestDenied"), "{said}");
    let hosts = &record["steps"][1]["receipt"]["hosts"];
    assert_eq!(hosts[&granted]["requests"], 1, "{hosts}");
    assert!(hosts[&granted]["bytes_in"].as_u64().unwrap() > 0, "{hosts}");
    assert_eq!(hosts[&other]["denied"], 1, "{hosts}");

    // What the policy does not hold is refused before the package.
    let response = server
        .request(reqwest::Method::POST, "/v1/projects/blog/deployments")
        .header("Cofferdam-Head", head(&[&other]).to_string())
        .body(package::tar(&site("never")))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 403);
    let problem = response.text().await.unwrap();
    assert!(
        problem.contains("grant_denied") && problem.contains(&other),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_answers_costs_a_step_its_time_and_not_more() {
    // It takes connections and never says a word.
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = peer.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(
        &policy,
        format!("[defaults]\nnet = [\"{to}\"]\n\n[network]\nallow_ranges = [\"127.0.0.0/8\"]\n"),
    )
    .unwrap();
    let server = Server::start_with(&["--policy", &policy.display().to_string()]);
    server
        .admit("overstay", cofferdam_test_guests::program("overstay"))
        .await;
    let head = json!({ "pipeline": { "install": [{
        "plugin": "overstay",
        "config": { "how": "fetch", "to": to, "after_ms": 60_000 },
        "request": { "net": [to], "limits": { "wall_ms": 300 } },
    }] } });
    let record = server
        .fail("blog", &head, package::tar(&site("never")))
        .await;
    assert_eq!(record["error"]["code"], "step_timeout", "{record:#}");
    assert_eq!(
        record["steps"][1]["receipt"]["hosts"][&to]["requests"], 1,
        "{record:#}"
    );
}
