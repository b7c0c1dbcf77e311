//! What a step asks for, in `cofferdam.toml`'s words.

use std::collections::BTreeMap;

use cofferdam_deploy::units::{Milliseconds, Size};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A step's request. Everything is optional; what is absent is the server's default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    env: Option<BTreeMap<String, String>>,
    secrets: Option<Vec<String>>,
    net: Option<Vec<String>>,
    cache: Option<bool>,
    state: Option<bool>,
    limits: Option<Limits>,
}

/// Limits, each in the HTTP interface's own form (`memory_bytes = 268435456`) or with a unit (`memory = "256MiB"`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    memory: Option<Size>,
    memory_bytes: Option<u64>,
    wall: Option<Milliseconds>,
    wall_ms: Option<u64>,
    cpu: Option<Milliseconds>,
    cpu_ms: Option<u64>,
    disk: Option<Size>,
    disk_bytes: Option<u64>,
    output: Option<Size>,
    output_bytes: Option<u64>,
    line: Option<Size>,
    line_bytes: Option<u64>,
    egress: Option<Size>,
    egress_bytes: Option<u64>,
    ingress: Option<Size>,
    ingress_bytes: Option<u64>,
    files: Option<u64>,
    handles: Option<u64>,
    requests: Option<u64>,
    connections: Option<u64>,
}

impl Request {
    /// The request as the head has it.
    pub(super) fn into_json(self) -> Result<Value, String> {
        let mut request = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                request.insert(key.to_owned(), value);
            }
        };
        put("env", self.env.map(|env| json!(env)));
        put("secrets", self.secrets.map(|names| json!(names)));
        put("net", self.net.map(|names| json!(names)));
        put("cache", self.cache.map(|cache| json!(cache)));
        put("state", self.state.map(|state| json!(state)));
        put(
            "limits",
            self.limits.map(|limits| limits.to_json()).transpose()?,
        );
        Ok(Value::Object(request))
    }
}

impl Limits {
    /// The limits in the HTTP interface's own form.
    pub(crate) fn to_json(&self) -> Result<Value, String> {
        let size = |size: Option<Size>| size.map(|Size(bytes)| bytes);
        let time = |time: Option<Milliseconds>| time.map(|Milliseconds(ms)| ms);
        let mut limits = Map::new();
        for (short, long, with_unit, plain) in [
            (
                "memory",
                "memory_bytes",
                size(self.memory),
                self.memory_bytes,
            ),
            ("wall", "wall_ms", time(self.wall), self.wall_ms),
            ("cpu", "cpu_ms", time(self.cpu), self.cpu_ms),
            ("disk", "disk_bytes", size(self.disk), self.disk_bytes),
            (
                "output",
                "output_bytes",
                size(self.output),
                self.output_bytes,
            ),
            ("line", "line_bytes", size(self.line), self.line_bytes),
            (
                "egress",
                "egress_bytes",
                size(self.egress),
                self.egress_bytes,
            ),
            (
                "ingress",
                "ingress_bytes",
                size(self.ingress),
                self.ingress_bytes,
            ),
            ("files", "files", None, self.files),
            ("handles", "handles", None, self.handles),
            ("requests", "requests", None, self.requests),
            ("connections", "connections", None, self.connections),
        ] {
            if with_unit.is_some() && plain.is_some() {
                return Err(format!(
                    "limits has both {short} and {long}: keep one of the two"
                ));
            }
            if let Some(value) = with_unit.or(plain) {
                limits.insert(long.to_owned(), json!(value));
            }
        }
        Ok(Value::Object(limits))
    }
}
