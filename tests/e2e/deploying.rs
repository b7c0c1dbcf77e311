//! Every way in.

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::package::{self, site};
use crate::server::{Server, assert_dense, cofferdam};

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_goes_in_by_the_command_line_and_comes_out_in_a_browser() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("my-site");
    package::write_to(&root, &site("from a directory"));
    std::fs::write(
        root.join("cofferdam.toml"),
        "project = \"blog\"\n[[install]]\nplugin = \"precompress\"\n",
    )
    .unwrap();

    let output = cofferdam()
        .arg("deploy")
        .arg(&root)
        .env("COFFERDAM_URL", server.url(""))
        .env("COFFERDAM_TOKEN", &server.token)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", server.log());
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        printed.trim(),
        format!("http://blog.localhost:{}/", server.ingress.port()),
        "{said}"
    );

    assert_eq!(
        server.serves("blog", "/").await,
        (
            200,
            "<!doctype html><title>from a directory</title><h1>from a directory</h1>".to_owned()
        )
    );
    assert_eq!(server.serves("blog", "/about/").await.1, "<h1>about</h1>");
    assert_eq!(server.serves("blog", "/nothing").await.0, 404);
    let gzip = server.serves("blog", "/css/site.css.gz").await;
    assert_eq!(gzip.0, 200, "precompress wrote a sibling");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_archive_format_makes_the_same_release() {
    let server = Server::start();
    let entries = site("formats");
    let archives = [
        ("tar", package::tar(&entries)),
        ("tar-gz", package::tar_gz(&entries)),
        ("tar-zst", package::tar_zst(&entries)),
        ("zip", package::zip(&entries)),
    ];
    let mut digests = Vec::new();
    for (project, archive) in archives {
        let record = server.succeed(project, &json!({}), archive).await;
        assert_eq!(record["release"]["files"], 3, "{project}: {record:#}");
        digests.push(record["release"]["digest"].clone());
        assert!(
            server.serves(project, "/").await.1.contains("formats"),
            "{project}"
        );
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_without_a_content_type_and_without_a_head_is_enough() {
    let server = Server::start();
    let response = server
        .request(Method::PUT, "/v1/projects/curl/deployments")
        .body(package::tar_gz(&site("curl -T")))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let record: Value = response.json().await.unwrap();
    assert_eq!(
        location,
        format!("/v1/deployments/{}", record["id"].as_str().unwrap())
    );
    let record = server.end_of(&record).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    assert_eq!(record["package"]["bytes"], record["package"]["received"]);
    assert!(server.serves("curl", "/").await.1.contains("curl -T"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_with_a_head_and_a_package_streams_its_events_back() {
    let server = Server::start();
    let boundary = "a-boundary-of-our-own";
    let head =
        json!({ "message": "by form", "pipeline": { "install": [{ "plugin": "precompress" }] } });
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"head\"\r\nContent-Type: application/json\r\n\r\n{head}\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"package\"; filename=\"p.tar\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend(package::tar(&site("by form")));
    body.extend(format!("\r\n--{boundary}--\r\n").as_bytes());
    let response = server
        .request(Method::POST, "/v1/projects/form/deployments")
        .header(
            "Content-Type",
            format!("multipart/form-data; boundary={boundary}"),
        )
        .header("Accept", "text/event-stream")
        .body(body)
        .send()
        .await
        .unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    let events = crate::server::events_in(&response.text().await.unwrap());
    assert_dense(&events, 1);
    assert_eq!(events.last().unwrap()["status"], "succeeded", "{events:#?}");
    let receipts: Vec<_> = events
        .iter()
        .filter(|event| event["kind"] == "receipt")
        .map(|event| event["step"].clone())
        .collect();
    assert_eq!(receipts, ["extract", "install-1", "load"]);
    let id = events[0]["deployment"].as_str().unwrap();
    assert_eq!(
        server.get_json(&format!("/v1/deployments/{id}")).await["message"],
        "by form"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_body_with_a_base64_package_is_a_deployment() {
    let server = Server::start();
    let package = base64::engine::general_purpose::STANDARD.encode(package::zip(&site("base64")));
    let response = server
        .request(Method::POST, "/v1/projects/base64/deployments")
        .json(&json!({ "head": {}, "package_base64": package }))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 202);
    let record = server.end_of(&response.json().await.unwrap()).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projects_deploy_at_once_and_serve_their_own() {
    let server = Server::start();
    let head = json!({ "pipeline": { "install": [{ "plugin": "precompress" }] } });
    let one = server.succeed("one", &head, package::tar(&site("the first")));
    let two = server.succeed("two", &head, package::tar(&site("the second")));
    tokio::join!(one, two);
    assert!(server.serves("one", "/").await.1.contains("the first"));
    assert!(server.serves("two", "/").await.1.contains("the second"));
    let projects = server.get_json("/v1/projects").await;
    assert!(projects.to_string().contains("\"one\"") && projects.to_string().contains("\"two\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_deployment_replaces_the_first_and_a_failed_one_replaces_nothing() {
    let server = Server::start();
    server
        .succeed("blog", &json!({}), package::tar(&site("first")))
        .await;
    let second = server
        .succeed("blog", &json!({}), package::tar(&site("second")))
        .await;
    assert!(server.serves("blog", "/").await.1.contains("second"));

    let failed = server
        .fail("blog", &json!({}), b"this is no archive at all".to_vec())
        .await;
    assert_eq!(failed["error"]["code"], "package_invalid", "{failed:#}");
    assert!(server.serves("blog", "/").await.1.contains("second"));
    let project = server.get_json("/v1/projects/blog").await;
    assert_eq!(project["active"], second["id"]);
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    assert_eq!(server.releases("blog").len(), 2);

    let newest_first = server.get_json("/v1/deployments?project=blog").await;
    let ids: Vec<_> = newest_first["deployments"]
        .as_array()
        .unwrap_or_else(|| newest_first.as_array().unwrap())
        .iter()
        .map(|record| record["id"].clone())
        .collect();
    assert_eq!(ids[0], failed["id"]);
    assert_eq!(ids.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promised_digest_is_kept_or_the_deployment_fails() {
    let server = Server::start();
    let archive = package::tar(&site("digest"));
    let blake3 = blake3::hash(&archive).to_hex().to_string();
    let sha256: String = sha2::Sha256::digest(&archive)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let right = json!({ "digest": { "blake3": blake3, "sha256": sha256 } });
    let record = server.succeed("digest", &right, archive.clone()).await;
    assert_eq!(record["package"]["blake3"], blake3);
    assert_eq!(record["package"]["sha256"], sha256);
    for (algorithm, actual) in [("blake3", &blake3), ("sha256", &sha256)] {
        let wrong = "0".repeat(64);
        let head = json!({ "digest": { algorithm: wrong } });
        let record = server.fail("digest", &head, archive.clone()).await;
        assert_eq!(record["error"]["code"], "digest_mismatch", "{record:#}");
        // It names what was promised and what came.
        let message = record["error"]["message"].as_str().unwrap();
        for named in [algorithm, &wrong, actual] {
            assert!(message.contains(named), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_head_asks_for_in_vain_is_refused_before_the_package() {
    let server = Server::start();
    let refusals = [
        (
            json!({ "pipeline": { "install": [{ "plugin": "nosuch" }] } }),
            "plugin_unknown",
        ),
        (json!({ "project": "another" }), "head_invalid"),
        (json!({ "pipelines": {} }), "head_invalid"),
        (
            json!({ "pipeline": { "install": [{ "plugin": "unpack" }] } }),
            "config_invalid",
        ),
        (
            json!({ "pipeline": { "install": [{ "plugin": "precompress", "request": { "net": ["example.org:443"] } }] } }),
            "grant_denied",
        ),
    ];
    for (head, code) in refusals {
        let response = server
            .request(Method::POST, "/v1/projects/refused/deployments")
            .header("Cofferdam-Head", head.to_string())
            .body(package::tar(&site("x")))
            .send()
            .await
            .unwrap();
        assert!(
            response.status().is_client_error(),
            "{head}: {}",
            response.status()
        );
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], code, "{head}: {problem}");
    }
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    assert_eq!(server.names_in("events"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_in_a_package_answers_requests() {
    let server = Server::start();
    let entry = |name: &str, program: &str| {
        vec![package::Entry {
            path: name.to_owned(),
            bytes: cofferdam_test_guests::program(program).to_vec(),
        }]
    };
    let package = package::tar(&entry("app.wasm", "service"));
    server.succeed("api", &json!({}), package).await;
    let (status, body) = server.serves("api", "/hello").await;
    assert_eq!(status, 200, "{body}");
    // A trap is the server's own answer, tells nothing, and harms no other request.
    let (status, body) = server.serves("api", "/panic").await;
    assert_eq!(status, 502, "{body}");
    assert!(!body.contains("wasm"), "{body}");
    assert_eq!(server.serves("api", "/hello").await.0, 200);

    // A program that serves nothing does not become a service, and what is served stays.
    let step = json!({ "plugin": "serve", "config": { "services": [{ "name": "web", "kind": "component", "path": "app.wasm" }] } });
    let package = package::tar(&entry("app.wasm", "succeed"));
    let record = server
        .fail("api", &json!({ "pipeline": { "load": step } }), package)
        .await;
    assert_eq!(record["error"]["code"], "not_ready", "{record:#}");
    assert_eq!(server.serves("api", "/hello").await.0, 200);
}
