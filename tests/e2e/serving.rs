//! The server's edge as its users meet it: tokens and TLS by the command line, and thousands of connections that
//! say nothing.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::package;
use crate::server::{PATIENCE, Server, cofferdam};

/// The command line as a client of a server.
fn client(server: &Server, url: &str, token: &str) -> Command {
    let mut command = cofferdam();
    command
        .env("COFFERDAM_URL", url)
        .env("COFFERDAM_TOKEN", token)
        .current_dir(server.data())
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command, arguments: &[&str]) -> Output {
    command.args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn a_token_is_made_used_within_its_scope_listed_and_revoked() {
    let server = Server::start();
    let url = server.url("");
    let admin = || client(&server, &url, &server.token);
    let arguments = [
        "token",
        "create",
        "--scope",
        "deploy:blog",
        "--expires",
        "30d",
        "--name",
        "ci",
    ];
    let token = stdout(&run(&mut admin(), &arguments));
    let token = token.trim();
    assert!(token.starts_with("cofferdam_"), "{token}");
    server
        .succeed("blog", &json!({}), package::tar(&package::site("hello")))
        .await;
    server
        .succeed("blog2", &json!({}), package::tar(&package::site("other")))
        .await;

    let ci = || client(&server, &url, token);
    let mine = stdout(&run(&mut ci(), &["projects", "--json"]));
    let names: Vec<Value> = mine
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(names.len(), 1, "{mine}");
    assert_eq!(names[0]["name"], "blog");
    let refused = run(&mut ci(), &["token", "list"]);
    assert_eq!(refused.status.code(), Some(3));

    let listed = stdout(&run(&mut admin(), &["token", "list"]));
    let line = listed.lines().find(|line| line.contains(" ci ")).unwrap();
    assert!(
        line.contains("deploy:blog") && !listed.contains(token),
        "{listed}"
    );
    stdout(&run(&mut admin(), &["token", "revoke", "ci"]));
    assert_eq!(run(&mut ci(), &["projects"]).status.code(), Some(3));
    let again = run(&mut admin(), &["token", "revoke", "ci"]);
    assert_eq!(again.status.code(), Some(3));
    let audit = stdout(&run(&mut admin(), &["audit", "--json"]));
    assert!(
        audit.contains("token.create") && audit.contains("token.revoke"),
        "{audit}"
    );
    let usage = run(&mut admin(), &["token", "create", "--scope", "root"]);
    assert_eq!(usage.status.code(), Some(2));
}

/// Writes a certificate for localhost and 127.0.0.1.
fn certificate(directory: &Path) {
    let names = [
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "web.localhost".to_owned(),
    ];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn a_deployment_goes_over_tls_and_is_served_over_it() {
    let directory = tempfile::tempdir().unwrap();
    certificate(directory.path());
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let server = Server::start_with(&["--tls-cert", &cert, "--tls-key", &key]);
    std::fs::create_dir(directory.path().join("web")).unwrap();
    let mut page = std::fs::File::create(directory.path().join("web/index.html")).unwrap();
    page.write_all(b"over tls").unwrap();

    let url = format!("https://localhost:{}", server.api.port());
    let site = path("web");
    let deploy = ["deploy", &site, "--ca", &cert, "--project", "web"];
    let served = stdout(&run(&mut client(&server, &url, &server.token), &deploy));
    let port = server.ingress.port();
    assert_eq!(served.trim(), format!("https://web.localhost:{port}/"));
    // A certificate that nobody vouches for is not believed, and plain HTTP is not answered.
    let distrusted = run(&mut client(&server, &url, &server.token), &["projects"]);
    assert_eq!(distrusted.status.code(), Some(4));
    let plain = format!("http://localhost:{}", server.api.port());
    let plain = run(&mut client(&server, &plain, &server.token), &["projects"]);
    assert_eq!(plain.status.code(), Some(4));

    let ca = reqwest::Certificate::from_pem(&std::fs::read(&cert).unwrap()).unwrap();
    let browser = reqwest::Client::builder()
        .tls_certs_only([ca])
        .resolve("web.localhost", server.ingress)
        .no_proxy()
        .build()
        .unwrap();
    let answer = browser.get(served.trim()).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "over tls");
}

#[test]
fn without_tls_the_api_is_not_shown_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut command = cofferdam();
    command.arg("serve").arg("--data").arg(&data);
    command.args(["--api", "0.0.0.0:0", "--ingress", "127.0.0.1:0"]);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(3));
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(
        why.contains("--insecure") && why.contains("--tls-cert"),
        "{why}"
    );
    assert!(!data.exists());
}

/// Connections that say nothing.
const IDLE: usize = 2000;

/// Connections that say one byte at a time.
const DRIBBLING: usize = 200;

/// Those of them that are uploads: as many as one token may have.
const UPLOADS: usize = 16;

/// How late an answer may be because of them.
const LATE: Duration = Duration::from_millis(100);

/// Answers to `/healthz`, one after the other, for each of two servers in turn: what slows both down is the machine.
async fn probe(busy: &Server, calm: &Server, rounds: usize) -> (Vec<Duration>, Vec<Duration>) {
    let (mut of_busy, mut of_calm) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (server, took) in [(busy, &mut of_busy), (calm, &mut of_calm)] {
            let begun = Instant::now();
            // A connection of its own each time: that is what has to be had beside the others.
            let mut stream = TcpStream::connect(server.api).await.unwrap();
            let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            took.push(begun.elapsed());
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    of_busy.sort();
    of_calm.sort();
    (of_busy, of_calm)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_connections_that_say_nothing_delay_nobody() {
    raise_descriptor_limit();
    let (busy, calm) = (Server::start(), Server::start());
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        idle.push(TcpStream::connect(busy.api).await.unwrap());
    }
    let (api, token) = (busy.api, busy.token.clone());
    let mut dribbling = tokio::task::JoinSet::new();
    let alive = Arc::new(AtomicUsize::new(0));
    for at in 0..DRIBBLING {
        let (token, alive) = (token.clone(), alive.clone());
        dribbling.spawn(async move {
            let mut stream = TcpStream::connect(api).await.unwrap();
            let head = if at >= UPLOADS {
                "GET /healthz HTTP/1.1\r\nX-Slow: ".to_owned()
            } else {
                format!(
                    "PUT /v1/projects/slow/deployments HTTP/1.1\r\nHost: localhost\r\n\
                     Authorization: Bearer {token}\r\nContent-Length: 100000\r\n\r\n"
                )
            };
            stream.write_all(head.as_bytes()).await.unwrap();
            alive.fetch_add(1, Ordering::SeqCst);
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            alive.fetch_sub(1, Ordering::SeqCst);
        });
    }
    let deadline = Instant::now() + PATIENCE;
    while alive.load(Ordering::SeqCst) < DRIBBLING {
        assert!(Instant::now() < deadline, "they do not all begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    // What is slow on a machine that does other things too is slow for both; one good run is the proof.
    loop {
        let (of_busy, of_calm) = probe(&busy, &calm, 20).await;
        let at = of_busy.len() * 9 / 10;
        if of_busy[at] <= of_calm[at] + LATE {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "/healthz takes {:?} beside them and {:?} without",
            of_busy[at],
            of_calm[at]
        );
    }
    // Nobody had to go for that; only after half a minute does the server give them up.
    if begun.elapsed() < Duration::from_secs(15) {
        assert_eq!(alive.load(Ordering::SeqCst), DRIBBLING);
    }
    drop((idle, dribbling));
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}
