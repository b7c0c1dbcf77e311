//! Whether a service is ready to take traffic, and whether it still is.
//!
//! A service says how it is asked (`ready` in its description): a path, the status that means yes, how often,
//! how long an answer may take, for how long it must go on saying yes, and when to give up. One that says
//! nothing is alive when for a short while ([`LIVENESS`]) it answers every `GET /` with anything at all: a service that
//! traps, or does not answer, is not. A static service is ready when its directory opens and, if a path is named, a file is there.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_sandbox::HttpService;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::route::{StaticRoot, Target};

/// The page that stands for a directory, as the ingress has it.
const INDEX: &str = "index.html";

/// The longest that any of the times may be: a deployment that waits longer holds up its project.
pub(crate) const LONGEST_MS: u64 = 600_000;

/// The shortest interval: a probe is a whole run of the service.
const SHORTEST_INTERVAL_MS: u64 = 10;

/// For how long a component that does not say how it is asked has to answer whatever it is asked, and how often that is.
const LIVENESS: Duration = Duration::from_millis(300);
const LIVENESS_INTERVAL: Duration = Duration::from_millis(50);

/// The longest path to ask for.
const LONGEST_PATH: usize = 2000;

/// How much of a probe's answer is read, so that the service can come to its end.
const ANSWER_BYTES: usize = 64 * 1024;

/// What a probe says it is.
const AGENT: HeaderValue = HeaderValue::from_static("cofferdam-probe");

/// How a service is asked whether it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Readiness {
    /// What is asked for.
    pub path: String,
    /// The status that means yes.
    pub status: u16,
    /// From one probe to the next, in milliseconds.
    pub interval_ms: u64,
    /// How long an answer may take, in milliseconds.
    pub timeout_ms: u64,
    /// For how long every answer must be yes, in milliseconds; 0 for one of them.
    pub healthy_ms: u64,
    /// When to give up, in milliseconds.
    pub within_ms: u64,
    /// For how long the service is watched once it takes traffic, in milliseconds: if it fails in this time,
    /// the release before takes its place again.
    pub watch_ms: u64,
}

impl Default for Readiness {
    /// `GET /` must be answered with 200 within 30 s; asked twice a second, 2 s for an answer; watched for
    /// 10 s.
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            status: 200,
            interval_ms: 500,
            timeout_ms: 2_000,
            healthy_ms: 0,
            within_ms: 30_000,
            watch_ms: 10_000,
        }
    }
}

impl Readiness {
    /// Checks what the types cannot say.
    pub(crate) fn check(&self) -> Result<(), String> {
        let printable = self.path.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.path.starts_with('/') || !printable || self.path.len() > LONGEST_PATH {
            return Err(format!(
                "ready.path is {:?}; it begins with a slash and has up to {LONGEST_PATH} printable ASCII characters",
                self.path.chars().take(80).collect::<String>()
            ));
        }
        if !(200..=599).contains(&self.status) {
            return Err(format!(
                "ready.status is {}; it is from 200 to 599",
                self.status
            ));
        }
        for (name, value, least) in [
            ("interval_ms", self.interval_ms, SHORTEST_INTERVAL_MS),
            ("timeout_ms", self.timeout_ms, 1),
            ("healthy_ms", self.healthy_ms, 0),
            ("within_ms", self.within_ms, 1),
            ("watch_ms", self.watch_ms, 0),
        ] {
            if !(least..=LONGEST_MS).contains(&value) {
                return Err(format!(
                    "ready.{name} is {value}; it is from {least} to {LONGEST_MS}"
                ));
            }
        }
        if self.healthy_ms > self.within_ms {
            return Err(format!(
                "ready.healthy_ms is {}, and ready.within_ms leaves only {}",
                self.healthy_ms, self.within_ms
            ));
        }
        Ok(())
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

/// Why a probe did not say yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unready {
    /// Another status.
    Status { found: u16, expected: u16 },
    /// No answer in time.
    Silent { ms: u64 },
    /// It trapped, or gave no answer.
    Failed(String),
    /// What is to be served is not there.
    Absent(String),
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { found, expected } => {
                write!(f, "it answers {found}, and {expected} means ready")
            }
            Self::Silent { ms } => write!(f, "it gives no answer within {ms} ms"),
            Self::Failed(why) | Self::Absent(why) => f.write_str(why),
        }
    }
}

/// Asks a service once.
pub(crate) async fn probe(
    target: &Target,
    host: &str,
    readiness: Option<&Readiness>,
) -> Result<(), Unready> {
    match target {
        Target::Http(service) => ask(service, host, readiness).await,
        Target::Static(root) => look(root, readiness),
        Target::Replacing => Ok(()),
    }
}

/// Asks until the service is ready, or its time is over; then with the last reason.
pub(crate) async fn wait(
    target: &Target,
    host: &str,
    readiness: Option<&Readiness>,
) -> Result<(), Unready> {
    let assumed = Readiness::default();
    let gate = readiness.unwrap_or(&assumed);
    let deadline = Instant::now() + Duration::from_millis(gate.within_ms);
    let (interval, healthy) = match (target, readiness) {
        (Target::Http(_), None) => (LIVENESS_INTERVAL, LIVENESS),
        _ => (gate.interval(), Duration::from_millis(gate.healthy_ms)),
    };
    let mut ready_since: Option<Instant> = None;
    loop {
        match probe(target, host, readiness).await {
            Ok(()) => {
                let since = *ready_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= healthy {
                    return Ok(());
                }
            }
            Err(why) => {
                ready_since = None;
                // What is not in a frozen release will not come.
                if matches!(why, Unready::Absent(_)) || Instant::now() + interval > deadline {
                    return Err(why);
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(Unready::Silent { ms: gate.within_ms });
        }
        let left = ready_since.map(|since| healthy.saturating_sub(since.elapsed()));
        sleep(left.map_or(interval, |left| left.min(interval))).await;
    }
}

async fn ask(
    service: &HttpService,
    host: &str,
    readiness: Option<&Readiness>,
) -> Result<(), Unready> {
    let assumed = Readiness::default();
    let gate = readiness.unwrap_or(&assumed);
    let request = Request::get(format!("http://{host}{}", gate.path))
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Unready::Failed(format!("it cannot be asked: {error}")))?;
    let asked = async {
        let response = service
            .call(request)
            .await
            .map_err(|error| Unready::Failed(error.to_string()))?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut read = 0;
        while read < ANSWER_BYTES {
            match body.frame().await {
                None => break,
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(error)) => return Err(Unready::Failed(error.to_string())),
            }
        }
        Ok(status)
    };
    let status = timeout(Duration::from_millis(gate.timeout_ms), asked)
        .await
        .map_err(|_| Unready::Silent {
            ms: gate.timeout_ms,
        })??;
    match readiness {
        Some(gate) if status != gate.status => Err(Unready::Status {
            found: status,
            expected: gate.status,
        }),
        // Nobody said what it should answer: that it answers is enough.
        _ => Ok(()),
    }
}

/// Looks whether a static service has what it is to serve.
fn look(root: &StaticRoot, readiness: Option<&Readiness>) -> Result<(), Unready> {
    let Some(gate) = readiness else {
        return Ok(());
    };
    let path = gate.path.split('?').next().unwrap_or_default();
    let name = path.trim_matches('/');
    let file = if name.is_empty() || path.ends_with('/') {
        format!("{name}/{INDEX}").trim_start_matches('/').to_owned()
    } else {
        name.to_owned()
    };
    match root.dir.metadata(&file) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        _ => Err(Unready::Absent(format!(
            "there is no file {file:?} for ready.path {:?}",
            gate.path
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use cap_std::ambient_authority;
    use cap_std::fs::Dir;

    use super::*;

    #[test]
    fn a_gate_that_makes_no_sense_is_refused_by_its_key() {
        let gates = [
            (r#"{"path": "health"}"#, "path"),
            (r#"{"path": "/a b"}"#, "path"),
            (r#"{"status": 99}"#, "status"),
            (r#"{"interval_ms": 1}"#, "interval_ms"),
            (r#"{"timeout_ms": 0}"#, "timeout_ms"),
            (r#"{"within_ms": 600001}"#, "within_ms"),
            (r#"{"healthy_ms": 5000, "within_ms": 1000}"#, "healthy_ms"),
        ];
        for (text, key) in gates {
            let gate: Readiness = serde_json::from_str(text).unwrap();
            let why = gate.check().unwrap_err();
            assert!(why.contains(key), "{text}: {why}");
        }
        assert_eq!(Readiness::default().check(), Ok(()));
        assert!(serde_json::from_str::<Readiness>(r#"{"intervall_ms": 5}"#).is_err());
    }

    #[tokio::test]
    async fn a_static_service_is_ready_when_what_is_named_is_there() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        std::fs::write(directory.path().join("a/index.html"), "x").unwrap();
        let dir = Dir::open_ambient_dir(directory.path(), ambient_authority()).unwrap();
        let target = Target::Static(StaticRoot { dir });
        let gate = |path: &str| Readiness {
            path: path.to_owned(),
            ..Readiness::default()
        };
        for path in ["/a/", "/a/index.html", "/a/?x=1"] {
            assert_eq!(
                wait(&target, "x", Some(&gate(path))).await,
                Ok(()),
                "{path}"
            );
        }
        for path in ["/", "/b", "/a"] {
            let why = wait(&target, "x", Some(&gate(path))).await;
            assert!(matches!(why, Err(Unready::Absent(_))), "{path}: {why:?}");
        }
        assert_eq!(wait(&target, "x", None).await, Ok(()));
    }
}
