//! Debian's docker-registry as a source of plugins.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use reqwest::{Client, Method};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::server::{PATIENCE, Server, cofferdam};

/// A registry on a port of this machine, with its files in a directory of its own; killed when dropped.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(place: &Path) -> Registry {
        let config = place.join("config.yml");
        let text = json!({
            "version": 0.1,
            "log": { "level": "info", "formatter": "text" },
            "storage": { "filesystem": { "rootdirectory": place.join("registry") } },
            "http": { "addr": "127.0.0.1:0" },
        });
        // JSON is YAML.
        std::fs::write(&config, text.to_string()).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says where it listens, and goes on to log every request.
        let log = BufReader::new(child.stderr.take().unwrap());
        let (found, address) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
                    let _ = found.send(rest[..end.unwrap_or(rest.len())].to_owned());
                }
            }
        });
        let address = address.recv_timeout(PATIENCE).unwrap();
        Registry { child, address }
    }

    /// Pushes a blob, as any client of a registry does.
    async fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new();
        let begin = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let begun = client.post(begin).send().await.unwrap();
        assert_eq!(begun.status(), 202);
        let place = begun.headers()["location"].to_str().unwrap().to_owned();
        let digest = sha256(bytes);
        let put = client
            .put(format!("{place}&digest={digest}"))
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(put.status(), 201);
        digest
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_comes_from_a_registry_by_tag_and_by_digest() {
    let place = tempfile::tempdir().unwrap();
    let registry = Registry::start(place.path());
    let wasm = cofferdam_test_guests::program("fill");
    let repository = "plugins/fill";
    let blob = registry.push_blob(repository, wasm).await;
    let config = registry.push_blob(repository, b"{}").await;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": kind,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
        "layers": [{ "mediaType": "application/wasm", "digest": blob, "size": wasm.len() }],
    })
    .to_string();
    let put = Client::new()
        .request(
            Method::PUT,
            format!(
                "http://{}/v2/{repository}/manifests/0.1.0",
                registry.address
            ),
        )
        .header("Content-Type", kind)
        .body(manifest.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());

    let server = Server::start();
    let by_digest = format!("@{}", sha256(manifest.as_bytes()));
    for (reference, version) in [(":0.1.0", "0.1.0"), (by_digest.as_str(), "0.2.0")] {
        let output = cofferdam()
            .args(["plugin", "add"])
            .arg(format!(
                "oci://{}/{repository}{reference}",
                registry.address
            ))
            .arg(format!("fill@{version}"))
            .env("COFFERDAM_URL", server.url(""))
            .env("COFFERDAM_TOKEN", &server.token)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{reference}: {said}");
        let view = server
            .get_json(&format!("/v1/plugins/fill/{version}"))
            .await;
        let digest = format!("blake3:{}", blake3::hash(wasm).to_hex());
        assert_eq!(view["digest"], digest);
    }
}
