//! The network by name, the whole way: asked for in a head, allowed by the policy, used in a worker process, counted
//! in the receipt.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::json;

use crate::authority::encrypted_peer;
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
async fn a_receipt_says_what_was_granted_what_was_used_and_what_was_not() {
    let (used, spare) = (peer(), peer());
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(
        &policy,
        format!(
            "[defaults]\nnet = [\"{used}\", \"{spare}\"]\n\n[network]\nallow_ranges = [\"127.0.0.0/8\"]\n"
        ),
    )
    .unwrap();
    let server = Server::start_with(&["--policy", &policy.display().to_string()]);
    server
        .admit("fetch", cofferdam_test_guests::program("fetch"))
        .await;
    let secret = server
        .request(reqwest::Method::PUT, "/v1/projects/blog/secrets/SPARE")
        .body("a secret that nobody asks for")
        .send()
        .await
        .unwrap();
    assert!(secret.status().is_success(), "{secret:?}");
    let head = json!({ "pipeline": { "install": [{
        "plugin": "fetch",
        "config": { "requests": [{ "to": used }] },
        "request": {
            "net": [used, spare],
            "secrets": ["SPARE"],
            "cache": true,
            "env": { "LANG": "C" },
            "limits": { "memory_bytes": 1 << 30, "wall_ms": 60_000 },
        },
    }] } });
    let record = server
        .succeed("blog", &head, package::tar(&site("fetched")))
        .await;
    let events = server.events(record["id"].as_str().unwrap(), 0).await;
    let receipt = events
        .iter()
        .find(|event| event["kind"] == "receipt" && event["step"] == "install-1")
        .unwrap();
    assert_eq!(
        receipt["grant"],
        json!({ "env": ["LANG"], "secrets": ["SPARE"], "net": [used, spare], "cache": true })
    );
    assert_eq!(receipt["granted"]["memory_bytes"], 1 << 30, "{receipt:#}");
    assert_eq!(receipt["granted"]["wall_ms"], 60_000, "{receipt:#}");
    assert_eq!(
        receipt["unused"],
        json!([
            format!("net {spare}"),
            "secret SPARE",
            "cache",
            "limits.memory_bytes"
        ])
    );
    for figure in [
        "wall_ms",
        "cpu_ms",
        "waited_ms",
        "peak_memory_bytes",
        "bytes_written",
        "bytes_read",
        "files_created",
        "files_opened",
        "peak_handles",
        "lines",
        "output_bytes",
        "dropped_lines",
        "dropped_bytes",
    ] {
        assert!(receipt[figure].is_u64(), "{figure}: {receipt:#}");
    }
    let host = &receipt["hosts"][&used];
    assert_eq!((&host["requests"], &host["denied"]), (&json!(1), &json!(0)));
    assert!(host["bytes_out"].as_u64().unwrap() > 0, "{receipt:#}");
    assert!(receipt["hosts"].get(&spare).is_none(), "{receipt:#}");
    let told = &record["steps"][1];
    assert_eq!(told["unused"], receipt["unused"]);
    assert_eq!(told["receipt"]["hosts"], receipt["hosts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_reaches_an_encrypted_host_by_the_authority_that_the_operator_trusts() {
    let directory = tempfile::tempdir().unwrap();
    let trusted = encrypted_peer(&directory.path().join("authority.pem"));
    let stranger = encrypted_peer(&directory.path().join("stranger.pem"));
    let policy = directory.path().join("policy.toml");
    let text = format!(
        "[defaults]\nnet = [\"{trusted}\", \"{stranger}\"]\n\n[network]\nallow_ranges = [\"127.0.0.0/8\", \"::1\"]\n\
         extra_roots = [\"authority.pem\"]\n"
    );
    std::fs::write(&policy, text).unwrap();
    let server = Server::start_with(&["--policy", &policy.display().to_string()]);
    server
        .admit("fetch", cofferdam_test_guests::program("fetch"))
        .await;
    let requests = [&trusted, &stranger].map(|to| json!({ "to": to, "scheme": "https" }));
    let head = json!({ "pipeline": { "install": [{
        "plugin": "fetch",
        "config": { "requests": requests, "one_by_one": true },
        "request": { "net": [trusted, stranger] },
    }] } });
    let record = server
        .succeed("blog", &head, package::tar(&site("fetched")))
        .await;
    let said = record["events"]["summary"].to_string();
    assert!(said.contains("200 5 [] hello"), "{said}");
    assert!(said.contains("error TlsCertificateError"), "{said}");
    let hosts = &record["steps"][1]["receipt"]["hosts"];
    assert_eq!(hosts[&trusted]["requests"], 1, "{hosts}");
    // The handshake is on the wire, and so it counts.
    assert!(
        hosts[&trusted]["bytes_in"].as_u64().unwrap() > 500,
        "{hosts}"
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
