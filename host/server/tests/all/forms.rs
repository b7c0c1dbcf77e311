//! The forms in which a package comes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{TestServer, shared, site};
use crate::{chunks, uploads};

/// A multipart body of these parts, with its content type.
fn form(parts: &[(&str, &str, &[u8])]) -> (&'static str, Vec<u8>) {
    let mut body = Vec::new();
    for (name, content_type, bytes) in parts {
        let head = format!(
            "--frontier\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\
             Content-Type: {content_type}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--frontier--\r\n");
    ("multipart/form-data; boundary=\"frontier\"", body)
}

/// Checks the answer to a deployment of [`site`] and waits for its good end.
async fn check(server: &TestServer, answer: reqwest::Response, message: Option<&str>) {
    let status = answer.status();
    let location = answer
        .headers()
        .get("location")
        .map(|value| value.to_str().unwrap().to_owned());
    let record: Value = answer.json().await.unwrap();
    assert_eq!(status, 202, "{record}");
    let id = record["id"].as_str().unwrap();
    assert_eq!(location.unwrap(), format!("/v1/deployments/{id}"));
    assert_eq!(record["package"]["bytes"], site().len());
    assert_eq!(record["package"]["received"], site().len());
    assert_eq!(record["package"]["media_type"], "application/x-tar");
    assert_eq!(record["message"].as_str(), message);
    let record = server.ended(id).await;
    assert_eq!(record["status"], "succeeded", "{record}");

    let path = format!("/v1/deployments/{id}/package");
    let package = server.request("GET", &path).send().await.unwrap();
    assert_eq!(package.headers()["content-type"], "application/x-tar");
    assert_eq!(package.headers()["x-content-type-options"], "nosniff");
    assert_eq!(package.bytes().await.unwrap(), site());
}

const OCTETS: &str = "application/octet-stream";

#[tokio::test]
async fn a_raw_body_is_a_package_by_post_and_by_put() {
    let server = shared();
    let path = "/v1/projects/raw/deployments";
    for method in ["POST", "PUT"] {
        let plain = server
            .request(method, path)
            .body(site())
            .send()
            .await
            .unwrap();
        check(&server, plain, None).await;
    }
    let with_head = server
        .request("POST", path)
        .header("content-type", "application/x-tar")
        .header("cofferdam-head", r#"{"project":"raw","message":"by hand"}"#)
        .body(site());
    check(&server, with_head.send().await.unwrap(), Some("by hand")).await;
    let from_curl = server
        .request("POST", path)
        .header("content-type", "application/x-www-form-urlencoded");
    check(&server, from_curl.body(site()).send().await.unwrap(), None).await;
}

#[tokio::test]
async fn a_raw_body_may_come_in_chunks_of_any_size() {
    let server = shared();
    let path = "/v1/projects/chunked/deployments";
    for size in [1, 100, 4096] {
        let pieces: Vec<_> = site()
            .chunks(size)
            .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
            .collect();
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
        let answer = server.request("PUT", path).body(body).send().await.unwrap();
        check(&server, answer, None).await;
    }
}

#[tokio::test]
async fn a_form_carries_a_head_and_a_package() {
    let server = shared();
    let path = "/v1/projects/form/deployments";
    let head = br#"{"message":"a form"}"#;
    let mut cbor = Vec::new();
    ciborium::into_writer(&json!({ "message": "a form" }), &mut cbor).unwrap();
    for (content_type, head) in [("application/json", &head[..]), ("application/cbor", &cbor)] {
        let (form_type, body) = form(&[("head", content_type, head), ("package", OCTETS, &site())]);
        let request = server
            .request("POST", path)
            .header("content-type", form_type)
            .body(body);
        check(&server, request.send().await.unwrap(), Some("a form")).await;
    }
}

#[tokio::test]
async fn a_document_carries_a_package_in_base64() {
    let server = shared();
    let body =
        json!({ "head": { "message": "a document" }, "package_base64": STANDARD.encode(site()) });
    let request = server
        .request("POST", "/v1/projects/document/deployments")
        .json(&body);
    check(&server, request.send().await.unwrap(), Some("a document")).await;
}

#[tokio::test]
async fn a_form_whose_parts_are_others_is_refused() {
    let server = shared();
    let head = ("head", "application/json", &b"{}"[..]);
    let package = site();
    let package = ("package", OCTETS, package.as_slice());
    let other = ("note", "text/plain", &b"hi"[..]);
    for parts in [
        &[package, head][..],
        &[other, head, package],
        &[head, package, other],
        &[head],
        &[],
    ] {
        let (content_type, body) = form(parts);
        let request = server.request("POST", "/v1/projects/misformed/deployments");
        let answer = request
            .header("content-type", content_type)
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{} parts", parts.len());
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "package_invalid", "{problem}");
    }
}

#[tokio::test]
async fn a_head_that_is_not_valid_is_refused_and_nothing_begins() {
    let server = shared();
    for head in [
        "{",
        "[]",
        r#"{"projct":"x"}"#,
        r#"{"project":"another"}"#,
        r#"{"project":"../x"}"#,
    ] {
        let request = server.request("PUT", "/v1/projects/headless/deployments");
        let answer = request
            .header("cofferdam-head", head)
            .body(site())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{head}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "head_invalid", "{head}");
    }
    let begun = server.get("/v1/deployments?project=headless").await;
    assert_eq!(begun["deployments"], json!([]));
}

#[tokio::test]
async fn an_empty_body_is_refused() {
    let server = shared();
    let answer = server
        .request("PUT", "/v1/projects/empty/deployments")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "package_invalid");
}

#[tokio::test]
async fn the_events_begin_while_the_package_is_still_on_its_way() {
    let server = shared();
    let headers =
        "Accept: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n";
    let mut raw = server
        .begin("PUT /v1/projects/duplex/deployments", headers)
        .await;
    let package = site();
    let (first, rest) = package.split_at(600);
    raw.send_chunk(first).await;
    let answer = raw.read_until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(
        answer.contains("content-type: text/event-stream"),
        "{answer}"
    );
    let event = raw.read_until("\"seq\":1").await + &raw.read_until("\n\n").await;
    assert!(event.contains("id: 1\nevent: phase\ndata: {"), "{event}");
    let location = answer
        .split("location: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    let id = location.strip_prefix("/v1/deployments/").unwrap();
    assert!(
        event.contains(id),
        "the first event names the deployment: {event}"
    );

    raw.send_chunk(rest).await;
    raw.send(b"0\r\n\r\n").await;
    let rest = raw.read_to_end().await;
    assert!(rest.contains("event: done"), "{rest}");
    assert_eq!(server.ended(id).await["status"], "succeeded");
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let server = shared();
    let package = site();
    let headers = format!(
        "Expect: 100-continue\r\nContent-Length: {}\r\nConnection: close\r\n",
        package.len()
    );
    let mut raw = server
        .begin("PUT /v1/projects/expect/deployments", &headers)
        .await;
    assert_eq!(
        raw.read_until("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    raw.send(&package).await;
    assert_eq!(raw.answer().await.status, 202);
}

/// Deploys [`site`] in one of the forms, with this head.
async fn deployed(server: &TestServer, form_name: &str, head: &Value) -> (u16, Value) {
    let post = || server.request("POST", "/v1/projects/promised/deployments");
    let with_head = || post().header("cofferdam-head", head.to_string());
    let request = match form_name {
        "raw" => with_head().body(site()),
        "multipart" => {
            let text = head.to_string();
            let parts: [(&str, &str, &[u8]); 2] = [
                ("head", "application/json", text.as_bytes()),
                ("package", OCTETS, &site()),
            ];
            let (content_type, body) = form(&parts);
            post().header("content-type", content_type).body(body)
        }
        "base64" => {
            let body = json!({ "head": head, "package_base64": STANDARD.encode(site()) });
            let request = post().header("content-type", "application/json");
            request.body(body.to_string())
        }
        "chunks" => {
            let chunks = chunks::cut(&site());
            let sent = vec![true; chunks.len()];
            let body = chunks::body(&chunks::params(), &chunks, &sent);
            let request = with_head().header("content-type", chunks::MEDIA_TYPE);
            request.body(body)
        }
        _ => {
            let place = uploads::create(server, "promised", None).await;
            let last = uploads::patch(server, &place, 0, true, &site()).await;
            assert_eq!(last.status(), 204);
            let upload = place.rsplit('/').next().unwrap();
            let body = json!({ "head": head, "upload": upload });
            let request = post().header("content-type", "application/json");
            request.body(body.to_string())
        }
    };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn in_every_form_a_promised_digest_is_kept_or_the_deployment_fails() {
    use sha2::Digest as _;
    let server = shared();
    let blake3 = blake3::hash(&site()).to_hex().to_string();
    let sha256 = sha2::Sha256::digest(site());
    let sha256 = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let wrong = "ab".repeat(32);
    for form in ["raw", "multipart", "base64", "chunks", "upload"] {
        for (algorithm, actual) in [("blake3", &blake3), ("sha256", &sha256)] {
            let head = json!({ "digest": { algorithm: actual } });
            let (status, record) = deployed(&server, form, &head).await;
            assert_eq!(status, 202, "{form}: {record}");
            assert_eq!(&record["package"][algorithm], actual, "{form}: {record}");
            let head = json!({ "digest": { algorithm: wrong } });
            let (status, problem) = deployed(&server, form, &head).await;
            assert_eq!(
                (status, &problem["code"]),
                (422, &json!("digest_mismatch")),
                "{form}: {problem}"
            );
            let detail = problem["detail"].as_str().unwrap();
            for named in [algorithm, &wrong, actual] {
                assert!(detail.contains(named), "{form}: {detail}");
            }
            let record = server.ended(problem["deployment"].as_str().unwrap()).await;
            assert_eq!(record["error"]["code"], "digest_mismatch", "{form}");
        }
    }
}
