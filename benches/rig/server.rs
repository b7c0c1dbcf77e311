//! The real binary, as server and as client.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::measure::peak_of_running;

/// A server over a directory, gone with its data when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) api: String,
    pub(crate) ingress: String,
    pub(crate) data: PathBuf,
    pub(crate) token: String,
}

/// What a client said and used.
pub(crate) struct Pushed {
    pub(crate) id: String,
    /// Bytes of the package that went over the wire.
    pub(crate) sent: u64,
    pub(crate) client_peak: u64,
    /// From the start of the extract step to its receipt, in seconds, where it was waited for.
    pub(crate) extract_seconds: Option<f64>,
}

impl Server {
    pub(crate) fn start(data: &Path) -> Self {
        let _ = fs::remove_dir_all(data);
        Self::start_on(data)
    }

    /// A server over what is there.
    pub(crate) fn start_on(data: &Path) -> Self {
        let mut child = cofferdam()
            .args([
                "serve",
                "--api",
                "127.0.0.1:0",
                "--ingress",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = |name: &str| {
            stderr
                .by_ref()
                .map(Result::unwrap)
                .filter(|line| {
                    line.split_whitespace()
                        .any(|word| word.trim_end_matches(':') == name)
                })
                .find_map(|line| {
                    let word = line
                        .split_whitespace()
                        .find(|word| word.starts_with("http://"))?;
                    Some(word.trim_end_matches('/').to_owned())
                })
                .unwrap()
        };
        let api = address("api");
        let ingress = address("ingress");
        thread::spawn(move || stderr.for_each(drop));
        let token = fs::read_to_string(data.join("admin.token")).unwrap();
        Self {
            child,
            api,
            ingress,
            data: data.to_owned(),
            token: token.trim().to_owned(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.data.join("blobs")
    }

    /// One small deployment, so that every plugin is compiled and in memory.
    pub(crate) fn warm(&self, scratch: &Path) {
        let package = scratch.join("warm");
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join("index.html"), "<h1>warm</h1>").unwrap();
        self.deploy(&package, "warm");
    }

    /// Admits a component as version 0.1.0 of a plugin.
    pub(crate) fn admit(&self, name: &str, wasm: &Path) {
        let done = cofferdam()
            .args(["plugin", "add"])
            .arg(wasm)
            .arg(format!("{name}@0.1.0"))
            .env("COFFERDAM_URL", &self.api)
            .env("COFFERDAM_TOKEN", &self.token)
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// Stops it and leaves its data.
    pub(crate) fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.data = PathBuf::new();
    }

    /// Forgets the most memory that the server had.
    pub(crate) fn clear_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// The bytes of one file into an upload: what a registry does with a blob. Returns when they are durable.
    pub(crate) fn upload(&self, file: &Path) {
        let done = self
            .curl()
            .args(["--request", "POST", "--header", "Upload-Complete: ?1"])
            .args([
                "--header",
                "Content-Type: application/octet-stream",
                "--output",
                "/dev/null",
                "--upload-file",
            ])
            .arg(file)
            .arg(format!("{}/v1/uploads?project=push", self.api))
            .status()
            .unwrap();
        assert!(done.success());
    }

    /// Seconds to download a deployment's package.
    pub(crate) fn download(&self, id: &str) -> f64 {
        let start = Instant::now();
        let done = self
            .curl()
            .args(["--output", "/dev/null"])
            .arg(format!("{}/v1/deployments/{id}/package", self.api))
            .status()
            .unwrap();
        assert!(done.success());
        start.elapsed().as_secs_f64()
    }

    /// Deploys, to the live release.
    pub(crate) fn deploy(&self, package: &Path, project: &str) -> Pushed {
        self.client(package, project, &[])
    }

    /// Deploys, until the package is durable.
    pub(crate) fn push(&self, package: &Path, project: &str) -> Pushed {
        self.client(package, project, &["--detach"])
    }

    fn client(&self, package: &Path, project: &str, more: &[&str]) -> Pushed {
        let mut client = cofferdam()
            .args(["deploy", "--json", "--project", project])
            .args(more)
            .arg(package)
            .env("COFFERDAM_URL", &self.api)
            .env("COFFERDAM_TOKEN", &self.token)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let process = client.id();
        let watch = thread::spawn(move || {
            let mut most = 0;
            while let Some(peak) = peak_of_running(process).filter(|peak| *peak > 0) {
                most = most.max(peak);
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let (mut id, mut sent) = (String::new(), 0);
        let (mut began, mut ended) = (None, None);
        for line in BufReader::new(client.stdout.take().unwrap()).lines() {
            let Ok(event) = serde_json::from_str::<Value>(&line.unwrap()) else {
                continue;
            };
            if let Some(found) = event["deployment"].as_str().or(event["id"].as_str()) {
                found.clone_into(&mut id);
            }
            if let Some(found) = event["sent_bytes"].as_u64() {
                sent = found;
            }
            if event["step"] == "extract" {
                match event["kind"].as_str() {
                    Some("phase") => began = Some(moment(&event)),
                    Some("receipt") => ended = Some(moment(&event)),
                    _ => {}
                }
            }
        }
        assert!(client.wait().unwrap().success());
        Pushed {
            id,
            sent,
            client_peak: watch.join().unwrap(),
            extract_seconds: ended.zip(began).map(|(ended, began)| ended - began),
        }
    }

    /// Waits until no deployment runs.
    pub(crate) fn idle(&self) {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let answer = self
                .curl()
                .arg(format!("{}/v1/deployments?limit=1", self.api))
                .output()
                .unwrap();
            let newest: Value = serde_json::from_slice(&answer.stdout).unwrap();
            let status = newest["deployments"][0]["status"]
                .as_str()
                .unwrap_or_default();
            if matches!(status, "succeeded" | "failed" | "cancelled") {
                assert_eq!(status, "succeeded", "{newest:#}");
                return;
            }
            assert!(Instant::now() < deadline, "{newest:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn curl(&self) -> Command {
        let mut command = curl();
        command
            .arg("--header")
            .arg(format!("Authorization: Bearer {}", self.token))
            .args(["--header", "Expect:"]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// Seconds within the day of an event's `at` (`...T12:34:56.789Z`); runs over midnight are not made.
fn moment(event: &Value) -> f64 {
    let at = event["at"].as_str().unwrap();
    let time = at.split_once('T').unwrap().1.trim_end_matches('Z');
    time.split(':')
        .fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

fn cofferdam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// `curl`, silent, which fails when the server refuses.
pub(crate) fn curl() -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail-with-body"]);
    command
}
