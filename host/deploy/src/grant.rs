//! From what a step asks for to what it gets.
//!
//! The operator's policy comes with its own file later; until then the ceilings are the constants here,
//! network and caches are beyond every ceiling, and what exceeds a ceiling is refused before a
//! byte of the package is read.

use std::collections::BTreeMap;

use cofferdam_sandbox::Limits;

use crate::error::Error;
use crate::head::Request;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// The most memory a step may be granted: the size of the address space of a 32-bit guest.
pub(crate) const MAX_MEMORY_BYTES: u64 = 4 * GIB;
/// The most wall time: longer than a step that somebody waits for.
pub(crate) const MAX_WALL_MS: u64 = HOUR_MS;
/// The most processor time; a step has one thread, so it cannot use more than its wall time.
pub(crate) const MAX_CPU_MS: u64 = HOUR_MS;
/// The most bytes written.
pub(crate) const MAX_DISK_BYTES: u64 = 64 * GIB;
/// The most files, directories and links: some large dependency trees together.
pub(crate) const MAX_FILES: u64 = 5_000_000;
/// The most handles open at a time: below the usual limit of descriptors of a process.
pub(crate) const MAX_HANDLES: u64 = 4096;
/// The most bytes printed: each of them is stored.
pub(crate) const MAX_OUTPUT_BYTES: u64 = GIB;
/// The longest line: each is one event, and an event is held in memory.
pub(crate) const MAX_LINE_BYTES: u64 = MIB;
/// The most bytes of the environment, names and values together: as much as a kernel gives a process's
/// single argument.
pub(crate) const MAX_ENV_BYTES: usize = 128 * 1024;

/// What a step got.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) limits: Limits,
    /// Names of secrets, which the project must have.
    pub(crate) secrets: Vec<String>,
}

/// Grants a request, or says everything that stands against it.
pub(crate) fn grant(step: &str, request: &Request) -> Result<Grant, Error> {
    let mut denied = Vec::new();
    let mut limits = Limits::default();

    let asked = &request.limits;
    let mut set = |name: &str, asked: Option<u64>, ceiling: u64, limit: &mut u64| match asked {
        Some(0) => denied.push(format!("{name} = 0 leaves a step nothing to run with")),
        Some(value) if value > ceiling => {
            denied.push(format!("{name} = {value} exceeds the ceiling of {ceiling}"));
        }
        Some(value) => *limit = value,
        None => {}
    };
    set(
        "memory_bytes",
        asked.memory_bytes,
        MAX_MEMORY_BYTES,
        &mut limits.memory_bytes,
    );
    set("wall_ms", asked.wall_ms, MAX_WALL_MS, &mut limits.wall_ms);
    set("cpu_ms", asked.cpu_ms, MAX_CPU_MS, &mut limits.cpu_ms);
    set(
        "disk_bytes",
        asked.disk_bytes,
        MAX_DISK_BYTES,
        &mut limits.disk_bytes,
    );
    set("files", asked.files, MAX_FILES, &mut limits.files);
    set("handles", asked.handles, MAX_HANDLES, &mut limits.handles);
    set(
        "output_bytes",
        asked.output_bytes,
        MAX_OUTPUT_BYTES,
        &mut limits.output_bytes,
    );
    set(
        "line_bytes",
        asked.line_bytes,
        MAX_LINE_BYTES,
        &mut limits.line_bytes,
    );

    for host in &request.net {
        denied.push(format!("net {host:?}: this server grants no network"));
    }
    if request.cache {
        denied.push("cache: this server grants no caches".to_owned());
    }
    if asked.requests.is_some() || asked.egress_bytes.is_some() {
        denied.push("limits on requests: this server grants no network".to_owned());
    }
    check_env(&request.env, &mut denied);

    if denied.is_empty() {
        Ok(Grant {
            env: request.env.clone(),
            limits,
            secrets: request.secrets.clone(),
        })
    } else {
        Err(Error::GrantDenied {
            step: step.to_owned(),
            denied,
        })
    }
}

fn check_env(env: &BTreeMap<String, String>, denied: &mut Vec<String>) {
    for name in env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            denied.push(format!("env {name:?} is not a name"));
        } else if name.starts_with("COFFERDAM_") {
            denied.push(format!(
                "env {name:?}: names beginning with COFFERDAM_ are the host's"
            ));
        }
    }
    if env.values().any(|value| value.contains('\0')) {
        denied.push("env: a value holds a NUL byte".to_owned());
    }
    let bytes: usize = env
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_ENV_BYTES {
        denied.push(format!(
            "env: {bytes} bytes exceed the ceiling of {MAX_ENV_BYTES}"
        ));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn what_is_not_asked_for_has_its_default_and_what_is_within_the_ceiling_is_granted() {
        let request: Request =
            serde_json::from_str(r#"{"env": {"LANG": "C"}, "limits": {"wall_ms": 5000}}"#).unwrap();
        let grant = grant("install-1", &request).unwrap();
        assert_eq!(grant.limits.wall_ms, 5000);
        assert_eq!(grant.limits.memory_bytes, Limits::default().memory_bytes);
        assert_eq!(grant.env["LANG"], "C");
    }

    #[test]
    fn everything_that_exceeds_is_named_at_once() {
        let request: Request = serde_json::from_str(
            r#"{"env": {"COFFERDAM_STEP": "x"}, "net": ["example.org:443"], "cache": true,
                "limits": {"wall_ms": 999999999999, "files": 0}}"#,
        )
        .unwrap();
        let error = grant("install-1", &request).unwrap_err();
        assert_eq!(error.code(), "grant_denied");
        for word in ["COFFERDAM_STEP", "example.org", "cache", "wall_ms", "files"] {
            assert!(error.to_string().contains(word), "{word} in {error}");
        }
    }
}
