//! A server for tests, and a client that can misbehave.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cofferdam_server::{BodyLimits, Server, ServerOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// How long a condition may take to come true, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest package of the [impatient](impatient) server.
pub(crate) const SMALL: u64 = 1024 * 1024;

/// A server on a thread of its own. It stops, and its data goes, when it is dropped.
pub(crate) struct TestServer {
    pub(crate) api: SocketAddr,
    pub(crate) token: String,
    client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    data: TempDir,
}

/// The server with default limits that tests share: opening one compiles plugins, which takes seconds.
pub(crate) fn shared() -> Arc<TestServer> {
    static SHARED: Mutex<Weak<TestServer>> = Mutex::new(Weak::new());
    share(&SHARED, |_| {})
}

/// The server that waits for nobody and takes small packages only.
pub(crate) fn impatient() -> Arc<TestServer> {
    static SHARED: Mutex<Weak<TestServer>> = Mutex::new(Weak::new());
    share(&SHARED, |options| {
        options.body = BodyLimits {
            idle: Duration::from_millis(500),
            credit: Duration::from_secs(1),
            min_bytes_per_second: 10_000,
        };
        options.header_timeout = Duration::from_millis(500);
        options.max_package_bytes = SMALL;
    })
}

fn share(
    shared: &Mutex<Weak<TestServer>>,
    adjust: impl FnOnce(&mut ServerOptions),
) -> Arc<TestServer> {
    let mut shared = shared.lock().unwrap();
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(TestServer::start(adjust));
    *shared = Arc::downgrade(&server);
    server
}

impl TestServer {
    /// Starts a server with these options.
    pub(crate) fn start(adjust: impl FnOnce(&mut ServerOptions)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new(data.path().join("data"));
        options.api = "127.0.0.1:0".parse().unwrap();
        options.ingress = "127.0.0.1:0".parse().unwrap();
        options.drain = Duration::from_secs(1);
        adjust(&mut options);
        let token_file = options.data.join("admin.token");
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let server = Server::bind(options).await.unwrap();
                started.send(server.api_addr()).unwrap();
                server.run(async { drop(stopped.await) }).await.unwrap();
            });
        });
        let api = starting.recv().unwrap();
        let token = std::fs::read_to_string(token_file)
            .unwrap()
            .trim()
            .to_owned();
        // Tests share the server and not their runtimes, so no connection outlives its request.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Self {
            api,
            token,
            client,
            stop: Some(stop),
            thread: Some(thread),
            data,
        }
    }

    /// The component's file of the plugin with this digest, which need not be there.
    pub(crate) fn component(&self, digest: &Value) -> std::path::PathBuf {
        let hex = digest.as_str().unwrap().trim_start_matches("blake3:");
        self.data.path().join(format!("data/plugins/{hex}.wasm"))
    }

    /// A request with the admin token.
    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.anonymous(method, path).bearer_auth(&self.token)
    }

    /// A request without a token.
    pub(crate) fn anonymous(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.api);
        self.client.request(method.parse().unwrap(), url)
    }

    /// The JSON of a successful `GET`.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.request("GET", path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// Deploys a package by a plain `PUT` and returns the id.
    pub(crate) async fn deploy(&self, project: &str, package: Vec<u8>) -> String {
        let path = format!("/v1/projects/{project}/deployments");
        let answer = self
            .request("PUT", &path)
            .body(package)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 202);
        let record: Value = answer.json().await.unwrap();
        record["id"].as_str().unwrap().to_owned()
    }

    /// The record of a deployment once it has ended.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        let path = format!("/v1/deployments/{id}");
        self.eventually(&path, |record| {
            !record["finished_at"].is_null() || over(record)
        })
        .await
    }

    /// The first answer to `GET` for which the condition holds.
    pub(crate) async fn eventually(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.get(path).await;
            if holds(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "{path} stays {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A connection that has sent a request's head with the admin token, and nothing of its body.
    pub(crate) async fn begin(&self, request_line: &str, headers: &str) -> Raw {
        let token = &self.token;
        let head = format!(
            "{request_line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
        );
        let mut raw = self.connect().await;
        raw.send(head.as_bytes()).await;
        raw
    }

    /// A connection that has sent nothing.
    pub(crate) async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.api).await.unwrap())
    }

    /// Asks the server to stop; it goes on until it has drained.
    pub(crate) fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the server has stopped.
    pub(crate) fn wait_until_stopped(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server's has failed its test already.
            drop(thread.join());
        }
    }
}

fn over(record: &Value) -> bool {
    matches!(
        record["status"].as_str(),
        Some("succeeded" | "failed" | "cancelled")
    )
}

/// A connection of which every byte is the test's own.
pub(crate) struct Raw(pub(crate) TcpStream);

/// An answer as it came over a raw connection that was closed after it.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Raw {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// One chunk of a chunked body.
    pub(crate) async fn send_chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.send(&chunk).await;
    }

    /// Everything up to this text, and the text.
    pub(crate) async fn read_until(&mut self, end: &str) -> String {
        let mut read = String::new();
        while !read.contains(end) {
            let mut byte = [0];
            let got = tokio::time::timeout(PATIENCE, self.0.read(&mut byte)).await;
            assert_eq!(
                got.unwrap().unwrap(),
                1,
                "the connection ended after {read:?}"
            );
            read.push(char::from(byte[0]));
        }
        read
    }

    /// Everything up to the end of the connection, which has to be an orderly one.
    pub(crate) async fn read_to_end(&mut self) -> String {
        let mut read = Vec::new();
        let done = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut read)).await;
        done.unwrap().unwrap();
        String::from_utf8(read).unwrap()
    }

    /// The answer, after which the server closes.
    pub(crate) async fn answer(&mut self) -> RawAnswer {
        let text = self.read_to_end().await;
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no head: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        RawAnswer {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }
}

impl RawAnswer {
    /// The stable code of the problem that the answer holds.
    pub(crate) fn code(&self) -> String {
        assert!(self.head.contains("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// A site of one page, as a tar archive.
pub(crate) fn site() -> Vec<u8> {
    site_with(b"<h1>hello</h1>\n")
}

/// A site of this page.
pub(crate) fn site_with(page: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(page.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    archive
        .append_data(&mut header, "index.html", page)
        .unwrap();
    archive.into_inner().unwrap()
}
