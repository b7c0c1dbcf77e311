//! The life of a plugin, by the command line.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Output;
use std::sync::Arc;

use cofferdam_test_guests::{program, signed};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::package::{self, site};
use crate::server::{Server, cofferdam, wait_for};

/// Runs `cofferdam plugin` against a server.
fn plugin(server: &Server, arguments: &[&str]) -> Output {
    cofferdam()
        .arg("plugin")
        .args(arguments)
        .env("COFFERDAM_URL", server.url(""))
        .env("COFFERDAM_TOKEN", &server.token)
        .output()
        .unwrap()
}

fn printed(output: &Output) -> String {
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The exit code, and what was said on standard error.
fn refused(output: &Output) -> (i32, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), said)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_added_shown_and_removed() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("preview1.wasm");
    std::fs::write(&file, signed::PROGRAM).unwrap();
    let path = file.to_str().unwrap();

    let said = printed(&plugin(&server, &["add", path, "quiet@1.0.0"]));
    let digest = format!("blake3:{}", blake3::hash(signed::PROGRAM).to_hex());
    assert!(
        said.starts_with(&format!("quiet@1.0.0 {digest}\nwants: ")),
        "{said}"
    );
    let json = printed(&plugin(&server, &["add", path, "quiet@1.0.0", "--json"]));
    let view: Value = serde_json::from_str(&json).unwrap();
    assert!(
        view["wants"].is_array() && view["imports"].is_array(),
        "{view}"
    );

    for name in ["quiet@1.0.0", "quiet", &digest] {
        let page = printed(&plugin(&server, &["show", name]));
        assert!(page.contains("plugin     quiet@1.0.0\n"), "{page}");
        assert!(
            page.contains(&digest) && page.contains("preview 1"),
            "{page}"
        );
    }
    printed(&plugin(&server, &["add", path, "quiet@1.1.0"]));
    let (code, said) = refused(&plugin(&server, &["show", "quiet"]));
    assert_eq!(code, 2);
    assert!(
        said.contains("1.0.0") && said.contains("quiet@1.1.0"),
        "{said}"
    );

    assert_eq!(
        printed(&plugin(&server, &["remove", "quiet@1.1.0"])),
        "quiet@1.1.0 is removed\n"
    );
    let (code, said) = refused(&plugin(&server, &["remove", "quiet@1.1.0"]));
    assert_eq!(code, 3);
    assert!(said.contains("not_found"), "{said}");
    assert!(!printed(&plugin(&server, &["list"])).contains("1.1.0"));
    let page = printed(&plugin(&server, &["show", "unpack"]));
    assert!(page.contains("with the server"), "{page}");
    let unpack = page.split_whitespace().nth(1).unwrap().to_owned();
    let (code, said) = refused(&plugin(&server, &["remove", &unpack]));
    assert_eq!(code, 3);
    assert!(said.contains("comes with the server"), "{said}");

    // It runs, too.
    let head = json!({ "pipeline": { "install": [{ "plugin": "quiet" }] } });
    server
        .succeed("quiet", &head, package::tar(&site("quiet")))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_with_an_unknown_import_is_refused_by_its_name() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("slip.wasm");
    let mut wasm = program("report").to_vec();
    let (from, to) = (b"cofferdam:step/report@", b"cofferdam:step/rapor@@");
    for at in 0..wasm.len() - from.len() {
        if wasm[at..].starts_with(from) {
            wasm[at..at + to.len()].copy_from_slice(to);
        }
    }
    std::fs::write(&file, wasm).unwrap();
    let (code, said) = refused(&plugin(
        &server,
        &["add", file.to_str().unwrap(), "slip@1.0.0"],
    ));
    assert_eq!(code, 3);
    assert!(said.contains("cofferdam:step/rapor"), "{said}");
    assert!(said.contains("plugin_incompatible"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_of_plugins_is_taken_away_at_the_next_start() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let mut server = Server::start_on(&data);
    server.admit("kept", program("succeed")).await;
    let before = server.names_in("plugins");
    server.kill();
    let plugins = data.join("plugins");
    // An admission that had written its file and not its record, one that was writing, a removal cut off.
    std::fs::write(plugins.join(format!("{}.wasm", "ab".repeat(32))), "x").unwrap();
    std::fs::write(plugins.join("cd.0190.tmp"), "x").unwrap();
    std::fs::write(plugins.join("notes.txt"), "an operator's").unwrap();

    let server = Server::start_on(&data);
    let mut expected = before;
    expected.push("notes.txt".to_owned());
    expected.sort();
    // The server serves before it tidies up.
    wait_for("what was left to be gone", async || {
        (server.names_in("plugins") == expected).then_some(())
    })
    .await;
    let head = json!({ "pipeline": { "install": [{ "plugin": "kept" }] } });
    server
        .succeed("kept", &head, package::tar(&site("kept")))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_from_a_url_is_taken_by_its_digest_alone() {
    let server = Server::start();
    let wasm = program("succeed").to_vec();
    let mut web = Web::default();
    web.file("/a.wasm", "application/wasm", wasm.clone());
    web.answer("/moved.wasm", "302 Found\r\nLocation: /a.wasm", Vec::new());
    web.answer(
        "/endless.wasm",
        "200 OK\r\nContent-Type: application/wasm\r\nContent-Length: 99999999999",
        Vec::new(),
    );
    let address = web.serve();
    let url = |path: &str| format!("http://{address}{path}");

    let (code, said) = refused(&plugin(&server, &["add", &url("/a.wasm"), "web@1.0.0"]));
    assert_eq!(code, 2);
    assert!(said.contains("--digest"), "{said}");
    let wrong = format!("blake3:{}", "00".repeat(32));
    let (code, said) = refused(&plugin(
        &server,
        &["add", &url("/a.wasm"), "web@1.0.0", "--digest", &wrong],
    ));
    assert_eq!(code, 3);
    assert!(
        said.contains("digest_mismatch") && said.contains(&wrong),
        "{said}"
    );
    for (path, exit) in [("/none.wasm", 3), ("/endless.wasm", 3)] {
        let output = plugin(
            &server,
            &["add", &url(path), "web@1.0.0", "--digest", &wrong],
        );
        assert_eq!(refused(&output).0, exit, "{path}: {output:?}");
    }
    assert!(!printed(&plugin(&server, &["list"])).contains("web"));

    let blake3 = format!("blake3:{}", blake3::hash(&wasm).to_hex());
    let said = printed(&plugin(
        &server,
        &[
            "add",
            &url("/a.wasm"),
            "web@1.0.0",
            "--digest",
            &sha256(&wasm),
        ],
    ));
    assert!(said.contains(&blake3), "{said}");
    printed(&plugin(
        &server,
        &["add", &url("/moved.wasm"), "web@1.1.0", "--digest", &blake3],
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_pulled_from_a_registry_that_wants_a_token() {
    let server = Server::start();
    let wasm = program("succeed").to_vec();
    let blob = sha256(&wasm);
    let manifest = |digest: &str, size: usize| {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "layers": [
                { "mediaType": "text/plain", "digest": sha256(b"readme"), "size": 6 },
                { "mediaType": "application/wasm", "digest": digest, "size": size },
            ],
        })
        .to_string()
        .into_bytes()
    };
    let good = manifest(&blob, wasm.len());
    let mut web = Web {
        token: Some("secret-of-the-registry".to_owned()),
        ..Web::default()
    };
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifests = "/v2/plugins/fill/manifests";
    web.file(&format!("{manifests}/0.1.0"), kind, good.clone());
    web.file(
        &format!("{manifests}/{}", sha256(&good)),
        kind,
        good.clone(),
    );
    // A manifest under another's digest, a blob under another's digest, and a size that is not the blob's.
    let other = manifest(&sha256(b"other"), wasm.len());
    web.file(
        &format!("{manifests}/{}", sha256(b"no")),
        kind,
        good.clone(),
    );
    web.file(&format!("{manifests}/exchanged"), kind, other);
    web.file(&format!("{manifests}/short"), kind, manifest(&blob, 10));
    web.file(
        &format!("{manifests}/page"),
        "text/html",
        b"<html>".to_vec(),
    );
    let blobs = "/v2/plugins/fill/blobs";
    web.file(
        &format!("{blobs}/{blob}"),
        "application/octet-stream",
        wasm.clone(),
    );
    web.file(
        &format!("{blobs}/{}", sha256(b"other")),
        "application/octet-stream",
        wasm.clone(),
    );
    let address = web.serve();

    let add = |reference: &str, version: &str| {
        let source = format!("oci://{address}/plugins/fill{reference}");
        plugin(&server, &["add", &source, &format!("fill@{version}")])
    };
    let digest = format!("blake3:{}", blake3::hash(&wasm).to_hex());
    assert!(printed(&add(":0.1.0", "0.1.0")).contains(&digest));
    printed(&add(&format!("@{}", sha256(&good)), "0.2.0"));
    for reference in [
        ":exchanged",
        ":short",
        ":page",
        ":none",
        &format!("@{}", sha256(b"no")),
    ] {
        let (code, said) = refused(&add(reference, "0.3.0"));
        assert_eq!(code, 3, "{reference}: {said}");
    }
    assert!(!printed(&plugin(&server, &["list"])).contains("0.3.0"));
}

/// A web server that knows some files, and may want a bearer token that it gives to whoever asks.
#[derive(Default)]
struct Web {
    files: HashMap<String, (String, Vec<u8>)>,
    token: Option<String>,
}

impl Web {
    fn file(&mut self, path: &str, media_type: &str, body: Vec<u8>) {
        let head = format!(
            "200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}",
            body.len()
        );
        self.answer(path, &head, body);
    }

    /// Answers with this status line and these headers.
    fn answer(&mut self, path: &str, head: &str, body: Vec<u8>) {
        self.files.insert(path.to_owned(), (head.to_owned(), body));
    }

    /// Answers until the test ends.
    fn serve(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let web = Arc::new(self);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let web = web.clone();
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    let request = lines.next().unwrap_or_default();
                    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                    let (head, body) = web.respond(&path, &headers, address);
                    let _ = write!(&stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
                    let _ = (&stream).write_all(&body);
                    // The client closes when it has what it wants.
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let _ = (&stream).read(&mut [0; 1]);
                });
            }
        });
        address
    }

    fn respond(&self, path: &str, headers: &[String], address: SocketAddr) -> (String, Vec<u8>) {
        if let Some(token) = &self.token {
            if path == "/token?scope=repository%3Aplugins%2Ffill%3Apull&service=a+registry" {
                return (
                    "200 OK".to_owned(),
                    json!({ "token": token }).to_string().into_bytes(),
                );
            }
            let wanted = format!("authorization: bearer {token}");
            if !headers
                .iter()
                .any(|header| header.to_ascii_lowercase() == wanted)
            {
                let challenge =
                    format!("Bearer realm=\"http://{address}/token\",service=\"a registry\"");
                return (
                    format!(
                        "401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0"
                    ),
                    Vec::new(),
                );
            }
        }
        self.files
            .get(path)
            .cloned()
            .unwrap_or_else(|| ("404 Not Found\r\nContent-Length: 0".to_owned(), Vec::new()))
    }
}
