//! A batch of spans as an `ExportTraceServiceRequest` in OTLP's JSON: protobuf's JSON mapping, with ids in
//! hexadecimal, enumerations as numbers and 64-bit integers as text, as its specification has it.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::spans::{Attribute, Kind, Span, Value};

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_SERVER`.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// `STATUS_CODE_ERROR`; a span that did not fail says nothing of it.
const ERROR: u8 = 2;

/// Where the kernel tells the machine's name.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// What a server says of itself with every batch.
#[derive(Debug)]
pub(super) struct Resource {
    attributes: Json,
}

impl Resource {
    /// This program, on this machine, since this start.
    pub(super) fn here() -> Self {
        // A machine that does not tell its name has none.
        let machine = std::fs::read_to_string(HOSTNAME).unwrap_or_default();
        let text = |text: &str| json!({ "stringValue": text });
        let process = i64::from(std::process::id()).to_string();
        Self {
            attributes: json!([
                { "key": "service.name", "value": text("cofferdam") },
                { "key": "service.version", "value": text(env!("CARGO_PKG_VERSION")) },
                { "key": "host.name", "value": text(machine.trim()) },
                { "key": "process.pid", "value": { "intValue": process } },
            ]),
        }
    }
}

/// The body of a post.
pub(super) fn request(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let spans: Vec<Json> = spans.iter().map(span).collect();
    let request = json!({
        "resourceSpans": [{
            "resource": { "attributes": resource.attributes },
            "scopeSpans": [{
                "scope": { "name": "cofferdam", "version": env!("CARGO_PKG_VERSION") },
                "spans": spans,
            }],
        }],
    });
    request.to_string().into_bytes()
}

fn span(span: &Span) -> Json {
    let kind = match span.kind {
        Kind::Internal => INTERNAL,
        Kind::Server => SERVER,
    };
    let mut json = json!({
        "traceId": hex(&span.trace),
        "spanId": hex(&span.id),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": span.start.to_string(),
        "endTimeUnixNano": span.end.to_string(),
        "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
    });
    if let Some(parent) = &span.parent {
        json["parentSpanId"] = json!(hex(parent));
    }
    if span.failed {
        json["status"] = json!({ "code": ERROR });
    }
    json
}

fn attribute((key, value): &Attribute) -> Json {
    let value = match value {
        Value::Text(text) => json!({ "stringValue": text }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::Truth(truth) => json!({ "boolValue": truth }),
    };
    json!({ "key": key, "value": value })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_span_is_written_as_the_specification_has_it() {
        let span = Span {
            trace: [0xab; 16],
            id: [1; 8],
            parent: Some([2; 8]),
            name: "step extract".to_owned(),
            kind: Kind::Server,
            start: 1_700_000_000_000_000_000,
            end: 1_700_000_000_000_000_001,
            attributes: vec![
                ("a".into(), Value::Text("x".to_owned())),
                ("b".into(), Value::Number(-7)),
                ("c".into(), Value::Truth(true)),
            ],
            failed: true,
        };
        let bytes = request(&Resource::here(), &[span]);
        let json: Json = serde_json::from_slice(&bytes).unwrap();
        let found = &json["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        let expected = json!({
            "traceId": "abababababababababababababababab",
            "spanId": "0101010101010101",
            "parentSpanId": "0202020202020202",
            "name": "step extract",
            "kind": 2,
            "startTimeUnixNano": "1700000000000000000",
            "endTimeUnixNano": "1700000000000000001",
            "attributes": [
                { "key": "a", "value": { "stringValue": "x" } },
                { "key": "b", "value": { "intValue": "-7" } },
                { "key": "c", "value": { "boolValue": true } },
            ],
            "status": { "code": 2 },
        });
        assert_eq!(*found, expected);
        let resource = &json["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!(resource["value"]["stringValue"], "cofferdam");
    }
}
