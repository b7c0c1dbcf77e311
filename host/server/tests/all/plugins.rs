//! Plugins: admitted, described, signed, removed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_deploy::{Policy, SignaturePolicy};
use cofferdam_test_guests::{program, signed};
use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::{TestServer, shared, site};

async fn put(server: &TestServer, plugin: &str, wasm: Vec<u8>) -> Response {
    let path = format!("/v1/plugins/{plugin}");
    server
        .request("PUT", &path)
        .body(wasm)
        .send()
        .await
        .unwrap()
}

async fn put_signed(server: &TestServer, plugin: &str, wasm: &[u8], signature: &str) -> Response {
    server
        .request("PUT", &format!("/v1/plugins/{plugin}"))
        .header("Cofferdam-Signature", STANDARD.encode(signature))
        .body(wasm.to_vec())
        .send()
        .await
        .unwrap()
}

async fn remove(server: &TestServer, plugin: &str) -> Response {
    server
        .request("DELETE", &format!("/v1/plugins/{plugin}"))
        .send()
        .await
        .unwrap()
}

async fn problem(answer: Response) -> (u16, String, String) {
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.unwrap();
    let text = |member: &str| problem[member].as_str().unwrap().to_owned();
    (status, text("code"), text("detail"))
}

/// The program with a custom section behind it: other bytes that do the same.
fn variant(name: &str) -> Vec<u8> {
    let mut wasm = program(name).to_vec();
    wasm.extend_from_slice(b"\0\x05\x04more");
    wasm
}

#[tokio::test]
async fn an_admitted_plugin_is_described_in_full() {
    let server = shared();
    let wasm = program("report");
    let answer = put(&server, "described/1.2.0", wasm.to_vec()).await;
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["location"], "/v1/plugins/described/1.2.0");
    let view: Value = answer.json().await.unwrap();
    assert_eq!(
        view["digest"],
        format!("blake3:{}", blake3::hash(wasm).to_hex())
    );
    assert_eq!(view["bytes"], wasm.len());
    assert_eq!(view["phases"], json!(["install"]));
    assert_eq!(view["adapted"], false);
    let wants = view["wants"].as_array().unwrap();
    assert!(wants.contains(&"environment".into()), "{view}");
    assert!(view["imports"][0].as_str().unwrap().contains('@'), "{view}");
    // By whom: the id of the admin token, which is a UUID and tells nothing about the token itself.
    let by = view["admitted_by"].as_str().unwrap();
    assert!(by.parse::<uuid::Uuid>().is_ok(), "{view}");
    assert!(!view.to_string().contains(&server.token));

    assert_eq!(server.get("/v1/plugins/described/1.2.0").await, view);
    let all = server.get("/v1/plugins").await;
    let all = all["plugins"].as_array().unwrap();
    assert!(all.contains(&view));
    let shipped = all
        .iter()
        .find(|plugin| plugin["name"] == "unpack")
        .unwrap();
    assert_eq!(shipped["admitted_by"], "shipped");
}

#[tokio::test]
async fn the_same_bytes_are_admitted_again_and_others_are_not() {
    let server = shared();
    let first: Value = put(&server, "again/1.0.0", program("succeed").to_vec())
        .await
        .json()
        .await
        .unwrap();
    let again = put(&server, "again/1.0.0", program("succeed").to_vec()).await;
    assert_eq!(again.status(), 201);
    assert_eq!(again.json::<Value>().await.unwrap(), first);

    let other = variant("succeed");
    let digest = format!("blake3:{}", blake3::hash(&other).to_hex());
    let (status, code, detail) = problem(put(&server, "again/1.0.0", other).await).await;
    assert_eq!((status, code.as_str()), (409, "conflict"));
    assert!(
        detail.contains(first["digest"].as_str().unwrap()),
        "{detail}"
    );
    assert!(detail.contains(&digest), "{detail}");
}

#[tokio::test]
async fn a_removed_plugin_is_unknown_and_its_file_goes_with_its_last_version() {
    let server = shared();
    let wasm = variant("relative_paths");
    let view: Value = put(&server, "twice/1.0.0", wasm.clone())
        .await
        .json()
        .await
        .unwrap();
    put(&server, "twice/2.0.0", wasm).await;
    let file = server.component(&view["digest"]);

    assert_eq!(remove(&server, "twice/1.0.0").await.status(), 204);
    let gone = problem(remove(&server, "twice/1.0.0").await).await;
    assert_eq!((gone.0, gone.1.as_str()), (404, "not_found"));
    assert!(file.is_file(), "the other version needs it");
    assert_eq!(remove(&server, "twice/2.0.0").await.status(), 204);
    assert!(!file.exists());

    let head = json!({ "pipeline": { "install": [{ "plugin": "twice@1.0.0" }] } });
    let answer = server
        .request("PUT", "/v1/projects/twice/deployments")
        .header("Cofferdam-Head", head.to_string())
        .body(site())
        .send()
        .await
        .unwrap();
    assert_eq!(problem(answer).await.1, "plugin_unknown");
    // The name is free again, for other bytes too.
    let answer = put(&server, "twice/1.0.0", program("succeed").to_vec()).await;
    assert_eq!(answer.status(), 201);
}

#[tokio::test]
async fn what_comes_with_the_server_stays() {
    let server = shared();
    let all = server.get("/v1/plugins").await;
    for plugin in all["plugins"].as_array().unwrap() {
        if plugin["admitted_by"] != "shipped" {
            continue;
        }
        let path = format!(
            "{}/{}",
            plugin["name"].as_str().unwrap(),
            plugin["version"].as_str().unwrap()
        );
        let (status, code, detail) = problem(remove(&server, &path).await).await;
        assert_eq!((status, code.as_str()), (409, "conflict"));
        assert!(detail.contains("comes with the server"), "{detail}");
    }
}

#[tokio::test]
async fn a_deployment_that_was_accepted_runs_a_plugin_that_is_removed_meanwhile() {
    let server = shared();
    let view: Value = put(&server, "leased/1.0.0", variant("many_writes"))
        .await
        .json()
        .await
        .unwrap();
    let head = json!({ "pipeline": { "install": [{ "plugin": "leased" }] } });
    let headers =
        format!("Transfer-Encoding: chunked\r\nCofferdam-Head: {head}\r\nConnection: close\r\n");
    let mut upload = server
        .begin("PUT /v1/projects/leased/deployments", &headers)
        .await;
    let package = site();
    upload.send_chunk(&package[..600]).await;
    let accepted = |found: &Value| {
        found["deployments"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    };
    let found = server
        .eventually("/v1/deployments?project=leased", accepted)
        .await;
    let id = found["deployments"][0]["id"].as_str().unwrap().to_owned();

    assert_eq!(remove(&server, "leased/1.0.0").await.status(), 204);
    upload.send_chunk(&package[600..]).await;
    upload.send(b"0\r\n\r\n").await;
    assert_eq!(upload.answer().await.status, 202);
    let record = server.ended(&id).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    assert_eq!(record["steps"][1]["digest"], view["digest"]);
}

#[tokio::test]
async fn where_signatures_are_required_nothing_else_is_admitted() {
    let server = TestServer::start(|options| {
        let signatures = SignaturePolicy {
            required: true,
            keys: vec![signed::KEY.to_owned()],
        };
        options.policy = Policy::built_in().with_signatures(signatures);
    });
    let mut changed = signed::PROGRAM.to_vec();
    changed.extend_from_slice(b"\0\x05\x04more");
    let refused = [
        (
            put(&server, "signed/1.0.0", signed::PROGRAM.to_vec()).await,
            "not signed",
        ),
        (
            put_signed(
                &server,
                "signed/1.0.0",
                signed::PROGRAM,
                signed::OTHER_SIGNATURE,
            )
            .await,
            "does not trust",
        ),
        (
            put_signed(
                &server,
                "signed/1.0.0",
                signed::PROGRAM,
                signed::LEGACY_SIGNATURE,
            )
            .await,
            "old form",
        ),
        (
            put_signed(&server, "signed/1.0.0", &changed, signed::SIGNATURE).await,
            "not good",
        ),
    ];
    for (answer, why) in refused {
        let (status, code, detail) = problem(answer).await;
        assert_eq!((status, code.as_str()), (403, "forbidden"), "{why}");
        assert!(
            detail.contains("signed@1.0.0") && detail.contains(why),
            "{detail}"
        );
    }
    let malformed = server
        .request("PUT", "/v1/plugins/signed/1.0.0")
        .header("Cofferdam-Signature", "not base64!")
        .body(signed::PROGRAM)
        .send()
        .await
        .unwrap();
    assert_eq!(malformed.status(), 400);
    let absent = server
        .request("GET", "/v1/plugins/signed/1.0.0")
        .send()
        .await
        .unwrap();
    assert_eq!(absent.status(), 404);

    let answer = put_signed(&server, "signed/1.0.0", signed::PROGRAM, signed::SIGNATURE).await;
    assert_eq!(answer.status(), 201);
    let view: Value = answer.json().await.unwrap();
    assert_eq!(view["signed_by"], signed::KEY_ID);
    assert_eq!(view["adapted"], true);
    // What comes with the server needs no signature.
    let shipped = server.get("/v1/plugins").await;
    assert!(shipped["plugins"].as_array().unwrap().len() > 1);
}
