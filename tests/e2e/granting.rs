//! What a release's services are granted: secrets and hosts by name, and a directory, under the same policy as a step's.

use serde_json::{Value, json};

use crate::authority::encrypted_peer;
use crate::backing_up;
use crate::package::{self, Entry};
use crate::server::{Server, cofferdam, wait_for};

const SECRET: &str = "k9-Xv-p-ss-7f3Qz81LmX0w";

fn component() -> Vec<Entry> {
    vec![Entry {
        path: "app.wasm".to_owned(),
        bytes: cofferdam_test_guests::program("service").to_vec(),
    }]
}

/// A head that serves the component with what it asks for.
fn asking(request: &Value) -> Value {
    let service =
        json!({ "name": "web", "kind": "component", "path": "app.wasm", "request": request });
    json!({ "pipeline": { "load": { "plugin": "serve", "config": { "services": [service] } } } })
}

async fn set_secret(server: &Server, name: &str) {
    let path = format!("/v1/projects/api/secrets/{name}");
    let response = server
        .request(reqwest::Method::PUT, &path)
        .body(SECRET)
        .send()
        .await
        .unwrap();
    assert!(response.status().is_success(), "{response:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_reads_its_secret_and_reaches_an_encrypted_host_of_the_operators_own_authority() {
    let directory = tempfile::tempdir().unwrap();
    let to = encrypted_peer(&directory.path().join("authority.pem"));
    let policy = directory.path().join("policy.toml");
    let text = format!(
        "[projects.api]\nnet = [\"{to}\"]\nsecrets = [\"API_*\"]\n\n\
         [network]\nallow_ranges = [\"127.0.0.0/8\", \"::1\"]\nextra_roots = [\"authority.pem\"]\n"
    );
    std::fs::write(&policy, text).unwrap();
    let data = directory.path().join("data");
    let arguments = ["--policy", policy.to_str().unwrap()];
    let mut server = Server::start_on_with(&data, &arguments);
    set_secret(&server, "API_KEY").await;
    let head = asking(&json!({ "secrets": ["API_KEY"], "net": [to] }));
    server
        .succeed("api", &head, package::tar(&component()))
        .await;
    let reaches = async |server: &Server| {
        let told = server.serves("api", "/secret?API_KEY").await;
        assert_eq!(told, (200, SECRET.to_owned()));
        let fetched = server.serves("api", &format!("/fetch-https?{to}")).await;
        assert_eq!(fetched, (200, "200 hello".to_owned()));
        let refused = server.serves("api", "/fetch-https?localhost:1").await.1;
        assert!(refused.contains("HttpRequestDenied"), "{refused}");
        let refused = server.serves("api", "/secret?API_OTHER").await.1;
        assert!(refused.starts_with("refused"), "{refused}");
        assert_eq!(server.serves("api", "/secret-panic?API_KEY").await.0, 502);
        // It printed the secret in two pieces, and panicked with it.
        let log = server.log();
        assert!(log.contains("the secret is [redacted]"), "{log}");
        assert!(!log.contains(&SECRET[..12]), "{log}");
    };
    reaches(&server).await;
    // And it is told, so that an author can ask for less.
    wait_for("what it used to be told", async || {
        let project = server.get_json("/v1/projects/api").await;
        let used = &project["services"][0]["used"];
        let hosts = &used["hosts"];
        let told = used["secrets_read"] == json!(["API_KEY"])
            && hosts[&to]["requests"] == 1
            && hosts["localhost:1"]["denied"] == 1;
        told.then_some(())
    })
    .await;

    // What a release was granted is there again after a restart.
    server.terminate();
    server.wait();
    let server = Server::start_on_with(&data, &arguments);
    reaches(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_may_not_have_is_refused_by_name_before_the_package() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, "[defaults]\nsecrets = [\"API_*\"]\n").unwrap();
    let policy = policy.to_str().unwrap();
    let server = Server::start_with(&["--policy", policy]);
    let refused = async |request: Value| {
        let response = server
            .request(reqwest::Method::POST, "/v1/projects/api/deployments")
            .header("Cofferdam-Head", asking(&request).to_string())
            .body(package::tar(&component()))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), 403);
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "grant_denied", "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    };
    let asked =
        json!({ "secrets": ["OTHER"], "net": ["example.org:443"], "limits": { "files": 1 } });
    let said = refused(asked).await;
    for words in [
        "service web",
        "\"OTHER\"",
        "policy.toml:2",
        "\"example.org:443\"",
        "limits.files",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    // What it may have and is not there is said as early.
    let said = refused(json!({ "secrets": ["API_KEY"] })).await;
    assert!(
        said.contains("service web") && said.contains("API_KEY"),
        "{said}"
    );
    let listed = server.get_json("/v1/deployments?project=api").await;
    assert_eq!(listed["deployments"], json!([]));

    // The command line knows before it sends, with a server and without.
    let root = directory.path().join("api");
    package::write_to(&root, &component());
    let manifest = "[load]\nplugin = \"serve\"\n[[load.config.services]]\nname = \"web\"\nkind = \"component\"\n\
                    path = \"app.wasm\"\nrequest = { secrets = [\"API_KEY\"], net = [\"example.org:443\"] }\n";
    std::fs::write(root.join("cofferdam.toml"), manifest).unwrap();
    let url = server.url("");
    let online = ["policy", "check", "--url", &url, "--token", &server.token];
    for arguments in [&online[..], &["policy", "check", "--policy", policy]] {
        let output = cofferdam().args(arguments).arg(&root).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(out.contains("service web\n"), "{out}");
        assert!(
            out.contains("granted  secrets \"API_KEY\"  (policy.toml:2)"),
            "{out}"
        );
        assert!(err.contains("service web asks for"), "{err}");
        assert!(err.contains("example.org:443"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_keeps_survives_releases_and_restarts_and_goes_with_its_project() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(
        &policy,
        "[projects.api]\nstate = true\nstate_bytes = \"1MiB\"\n",
    )
    .unwrap();
    let data = directory.path().join("data");
    let arguments = ["--policy", policy.to_str().unwrap()];
    let mut server = Server::start_on_with(&data, &arguments);
    let mut head = asking(&json!({ "state": true, "limits": { "disk_bytes": 2 << 20 } }));

    // Two releases would write to it at once.
    let refused = server
        .request(reqwest::Method::POST, "/v1/projects/api/deployments")
        .header("Cofferdam-Head", head.to_string())
        .body(package::tar(&component()))
        .send()
        .await
        .unwrap();
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "head_invalid", "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("recreate"),
        "{problem}"
    );
    head["strategy"] = json!("recreate");
    // Another project may not have one.
    let refused = server
        .request(reqwest::Method::POST, "/v1/projects/shop/deployments")
        .header("Cofferdam-Head", head.to_string())
        .body(package::tar(&component()))
        .send()
        .await
        .unwrap();
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "grant_denied", "{problem}");

    let deploy = async |server: &Server| {
        let package = package::tar(&component());
        server.succeed("api", &head, package).await;
    };
    let visit = async |server: &Server| server.serves("api", "/count?visits").await.1;
    deploy(&server).await;
    assert_eq!(visit(&server).await, "1");
    // It has no gate, so it was watched for a while before it took traffic: one answer is not enough.
    let probes = server.serves("api", "/count?probes").await.1;
    assert!(probes.parse::<u64>().unwrap() > 2, "{probes}");
    deploy(&server).await;
    assert_eq!(visit(&server).await, "2");
    let full = server.serves("api", "/fill?1048576").await.1;
    assert!(full.starts_with("refused"), "{full}");
    server.kill();
    let server = Server::start_on_with(&data, &arguments);
    assert_eq!(visit(&server).await, "3");

    let (backup, restored) = (
        directory.path().join("backup"),
        directory.path().join("restored"),
    );
    backing_up::take(&data, &backup);
    backing_up::restore(&backup, &restored);
    let elsewhere = Server::start_on_with(&restored, &arguments);
    assert_eq!(visit(&elsewhere).await, "4");
    assert_eq!(visit(&server).await, "4");

    let removed = server
        .request(reqwest::Method::DELETE, "/v1/projects/api")
        .send()
        .await
        .unwrap();
    assert!(removed.status().is_success(), "{removed:?}");
    assert_eq!(server.names_in("state"), Vec::<String>::new());
    deploy(&server).await;
    assert_eq!(visit(&server).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_load_step_says_on_its_own_is_judged_too() {
    let server = Server::start();
    let program = cofferdam_test_guests::program("outputs_file");
    server.admit("describe", program).await;
    let describing = |request: Value| {
        let service =
            json!({ "name": "web", "kind": "component", "path": "app.wasm", "request": request });
        let output = json!({ "name": "service", "value": service });
        let load = json!({ "plugin": "describe", "config": { "text": format!("{output}\n") } });
        json!({ "pipeline": { "load": load } })
    };
    for (request, code, word) in [
        (
            json!({ "net": ["example.org:443"] }),
            "grant_denied",
            "example.org:443",
        ),
        (json!({ "state": true }), "grant_denied", "state"),
        (json!({ "secrets": ["API_KEY"] }), "grant_denied", "API_KEY"),
    ] {
        let head = describing(request);
        let package = package::tar(&component());
        let record = server.fail("api", &head, package).await;
        assert_eq!(record["error"]["code"], code, "{record:#}");
        let message = record["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("service web") && message.contains(word),
            "{message}"
        );
    }
    assert_eq!(server.serves("api", "/hello").await.0, 404);
    set_secret(&server, "API_KEY").await;
    let head = describing(json!({ "secrets": ["API_KEY"] }));
    let package = package::tar(&component());
    server.succeed("api", &head, package).await;
    assert_eq!(server.serves("api", "/secret?API_KEY").await.1, SECRET);
}
