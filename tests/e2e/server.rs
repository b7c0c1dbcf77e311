//! The binary as a child process, and a client of it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The bound on every wait for a condition: long enough for a debug build on a busy machine. A test that
/// reaches it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) api: SocketAddr,
    pub(crate) ingress: SocketAddr,
    pub(crate) token: String,
    data: PathBuf,
    /// Removed with the server when it is the server's own.
    _temporary: Option<tempfile::TempDir>,
    log: Arc<Mutex<String>>,
    client: reqwest::Client,
}

impl Server {
    /// A server on a data directory of its own.
    pub(crate) fn start() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let data = temporary.path().join("data");
        let mut server = Self::start_on(&data);
        server._temporary = Some(temporary);
        server
    }

    /// A server on a data directory of its own, with more arguments.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let data = temporary.path().join("data");
        let mut server = Self::start_on_with(&data, arguments);
        server._temporary = Some(temporary);
        server
    }

    /// A server on a data directory of its own, with more arguments, that logs everything there is to log.
    pub(crate) fn start_traced(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let data = temporary.path().join("data");
        let mut command = cofferdam();
        command.env("RUST_LOG", "trace");
        let mut server = Self::run(command, &data, arguments);
        server._temporary = Some(temporary);
        server
    }

    /// A server on a given data directory.
    pub(crate) fn start_on(data: &Path) -> Self {
        Self::start_on_with(data, &[])
    }

    /// A server on a given data directory that meets with a fault: see `cofferdam_deploy::faults`.
    pub(crate) fn start_faulty(data: &Path, fault: &str) -> Self {
        let mut command = cofferdam();
        command.env("COFFERDAM_FAULT", fault);
        Self::run(command, data, &[])
    }

    /// A server on a given data directory, with more arguments.
    pub(crate) fn start_on_with(data: &Path, arguments: &[&str]) -> Self {
        Self::run(cofferdam(), data, arguments)
    }

    fn run(mut command: Command, data: &Path, arguments: &[&str]) -> Self {
        install_provider();
        let mut child = command
            .arg("serve")
            .arg("--data")
            .arg(data)
            .args(["--api", "127.0.0.1:0", "--ingress", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let seen = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = seen.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let address = |name: &str| {
            wait_for_sync(&format!("the {name} address"), || {
                address(&log.lock().unwrap(), name)
            })
        };
        let api = address("api");
        let ingress = address("ingress");
        let token = std::fs::read_to_string(data.join("admin.token"))
            .unwrap()
            .trim()
            .to_owned();
        Self {
            child,
            api,
            ingress,
            token,
            data: data.to_owned(),
            _temporary: None,
            log,
            client: reqwest::Client::new(),
        }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The server's process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// What the server has written to its standard error.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it still runs\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to stop, as an orchestrator does.
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Kills it at once, as the kernel would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.api)
    }

    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, self.url(path))
            .bearer_auth(&self.token)
    }

    /// A figure of `/metrics`, by its name and labels; nothing when it is not there.
    pub(crate) async fn figure(&self, name: &str) -> Option<u64> {
        let request = self.request(reqwest::Method::GET, "/metrics");
        let figures = request.send().await.unwrap().text().await.unwrap();
        figures
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    pub(crate) async fn get_json(&self, path: &str) -> Value {
        let response = self
            .request(reqwest::Method::GET, path)
            .send()
            .await
            .unwrap();
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        response.json().await.unwrap()
    }

    /// Deploys a raw body with a head, and returns the record as the server first answers.
    pub(crate) async fn deploy(&self, project: &str, head: &Value, package: Vec<u8>) -> Value {
        let response = self
            .request(
                reqwest::Method::POST,
                &format!("/v1/projects/{project}/deployments"),
            )
            .header("Cofferdam-Head", head.to_string())
            .body(package)
            .send()
            .await
            .unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        if status.as_u16() == 202 {
            return body;
        }
        // A deployment that failed while its package still arrived answers with a problem that names it.
        let id = body["deployment"]
            .as_str()
            .unwrap_or_else(|| panic!("refused with {status}: {body}"));
        self.get_json(&format!("/v1/deployments/{id}")).await
    }

    /// Waits until a deployment has ended.
    pub(crate) async fn end_of(&self, record: &Value) -> Value {
        let path = format!("/v1/deployments/{}", record["id"].as_str().unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let record = self.get_json(&path).await;
            let status = record["status"].as_str().unwrap();
            if ["succeeded", "failed", "cancelled"].contains(&status) {
                return record;
            }
            assert!(
                Instant::now() < deadline,
                "still {status}: {record}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Deploys and waits for success.
    pub(crate) async fn succeed(&self, project: &str, head: &Value, package: Vec<u8>) -> Value {
        let record = self.deploy(project, head, package).await;
        let record = self.end_of(&record).await;
        assert_eq!(record["status"], "succeeded", "{record:#}\n{}", self.log());
        record
    }

    /// Deploys and waits for failure.
    pub(crate) async fn fail(&self, project: &str, head: &Value, package: Vec<u8>) -> Value {
        let record = self.deploy(project, head, package).await;
        let record = self.end_of(&record).await;
        assert_eq!(record["status"], "failed", "{record:#}\n{}", self.log());
        record
    }

    /// A request for what a project serves at a path.
    pub(crate) fn visit(&self, project: &str, path: &str) -> reqwest::RequestBuilder {
        self.client
            .get(format!("http://{}{path}", self.ingress))
            .header("Host", format!("{project}.localhost"))
    }

    /// What a project serves at a path: status and body.
    pub(crate) async fn serves(&self, project: &str, path: &str) -> (u16, String) {
        let response = self.visit(project, path).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.text().await.unwrap())
    }

    /// Admits a guest program as `name@1.0.0`.
    pub(crate) async fn admit(&self, name: &str, wasm: &'static [u8]) {
        let response = self
            .request(reqwest::Method::PUT, &format!("/v1/plugins/{name}/1.0.0"))
            .body(wasm)
            .send()
            .await
            .unwrap();
        let status = response.status();
        assert!(
            status.is_success(),
            "{name}: {status} {}",
            response.text().await.unwrap()
        );
    }

    /// The events of a deployment after a number, read to the end of the stream.
    pub(crate) async fn events(&self, id: &str, after: u64) -> Vec<Value> {
        let response = self
            .request(
                reqwest::Method::GET,
                &format!("/v1/deployments/{id}/events"),
            )
            .header("Last-Event-ID", after.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), 200);
        events_in(&response.text().await.unwrap())
    }

    /// A figure of the server's memory from the kernel, in bytes: `VmHWM` is the peak, `VmRSS` is now.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        memory(self.child.id(), name)
    }

    /// Makes the present memory the peak.
    pub(crate) fn clear_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// The names in a directory of the data directory.
    pub(crate) fn names_in(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.data.join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test.
pub(crate) fn cofferdam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command
        .env_remove("COFFERDAM_URL")
        .env_remove("COFFERDAM_TOKEN")
        .env_remove("RUST_LOG");
    command
}

/// Makes ring what TLS is done with: the client that the tests share asks for it even where it speaks plainly.
pub(crate) fn install_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A figure of a process's memory from the kernel, in bytes.
pub(crate) fn memory(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// The JSON of every numbered event in a stream of server-sent events.
pub(crate) fn events_in(stream: &str) -> Vec<Value> {
    stream
        .split("\n\n")
        .filter(|block| block.lines().any(|line| line.starts_with("id:")))
        .map(|block| {
            let data = block
                .lines()
                .find_map(|line| line.strip_prefix("data:"))
                .unwrap();
            serde_json::from_str(data.trim()).unwrap()
        })
        .collect()
}

/// Asserts that events are dense from `first` on and end with `done`.
pub(crate) fn assert_dense(events: &[Value], first: u64) {
    for (event, expected) in events.iter().zip(first..) {
        assert_eq!(event["seq"], json!(expected), "{event}");
    }
    assert_eq!(events.last().unwrap()["kind"], "done");
    assert_eq!(
        events
            .iter()
            .filter(|event| event["kind"] == "done")
            .count(),
        1
    );
}

/// Waits until something is there.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn wait_for_sync<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Finds `api  http://127.0.0.1:1234` in what a server prints at its start.
fn address(log: &str, name: &str) -> Option<SocketAddr> {
    log.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        words.find(|word| word.trim_end_matches(':') == name)?;
        words.find_map(|word| {
            word.trim_start_matches("https://")
                .trim_start_matches("http://")
                .trim_end_matches('/')
                .parse()
                .ok()
        })
    })
}
