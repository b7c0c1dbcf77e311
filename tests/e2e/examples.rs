//! The examples, as their READMEs say. `examples/embed` has its own test, beside it.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::server::{Server, cofferdam};

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(path)
}

/// Deploys a directory by the command line.
fn deploy(server: &Server, directory: &Path, arguments: &[&str]) {
    let output = cofferdam()
        .arg("deploy")
        .arg(directory)
        .args(arguments)
        .env("COFFERDAM_URL", server.url(""))
        .env("COFFERDAM_TOKEN", &server.token)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_service_answers_as_its_readme_says() {
    let server = Server::start();
    let package = tempfile::tempdir().unwrap();
    std::fs::copy(
        example("http-hello/package/cofferdam.toml"),
        package.path().join("cofferdam.toml"),
    )
    .unwrap();
    let wasm = cofferdam_test_guests::program("http_hello");
    std::fs::write(package.path().join("app.wasm"), wasm).unwrap();
    deploy(&server, package.path(), &[]);

    let (status, body) = server.serves("http-hello", "/").await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = server.serves("http-hello", "/hello/river").await;
    assert_eq!((status, body.contains("river")), (200, true), "{body}");
    let echoed = reqwest::Client::new()
        .post(format!("http://{}/echo", server.ingress))
        .header("Host", "http-hello.localhost")
        .body("what was sent")
        .send()
        .await
        .unwrap();
    assert_eq!(echoed.text().await.unwrap(), "what was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_plugin_fills_the_pages_of_its_package() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    let wasm = place.path().join("fill.wasm");
    std::fs::write(&wasm, cofferdam_test_guests::program("fill")).unwrap();
    let plugin = format!("fill@0.1.0={}", wasm.display());
    deploy(
        &server,
        &example("plugin-rust/package"),
        &["--plugin", &plugin],
    );

    let (status, page) = server.serves("plugin-rust", "/").await;
    assert_eq!(status, 200);
    assert!(
        page.contains("<h1>Filled in by a plugin of your own</h1>"),
        "{page}"
    );
    assert!(!page.contains("{{"), "{page}");
    let record = server.get_json("/v1/deployments?project=plugin-rust").await;
    assert!(record.to_string().contains("fill@0.1.0"), "{record}");

    // A page that asks for something that nobody gives fails the deployment, and is named.
    let head = json!({ "pipeline": { "install": [{ "plugin": "fill@0.1.0", "config": { "values": {} } }] } });
    let package = crate::package::tar(&[crate::package::Entry {
        path: "index.html".to_owned(),
        bytes: b"{{nobody}}".to_vec(),
    }]);
    let record = server.fail("plugin-rust", &head, package).await;
    assert_eq!(record["error"]["code"], "step_failed", "{record:#}");
    let lines = record["error"]["lines"].to_string();
    assert!(
        lines.contains("index.html: nothing fills {{nobody}}"),
        "{lines}"
    );
}
