//! From the spans of the log to those of a trace.
//!
//! A span belongs to the trace of its parent. One that has none, and follows from another (a deployment from its
//! request), belongs to the trace of that one, as if it were its child: a parent may end before its child does. A
//! request whose client named a parent (`traceparent`) belongs to the client's trace.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use cofferdam_server::TraceFigures;
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, SpanRef};

/// What the targets of spans begin with that are exported: this program's own crates.
const OURS: &str = "cofferdam";

/// The field of a request's span by which its client names a parent, as `00-TRACE-SPAN-FLAGS`.
const TRACEPARENT: &str = "traceparent";

/// The longest text of an attribute; ids, names and codes are far shorter.
const LONGEST: usize = 1024;

/// What a span is found by, and so has from the one above it.
const INHERITED: [&str; 3] = [REQUEST_ID, "cofferdam.project", "cofferdam.deployment.id"];

/// The id of the request, which the log has too.
const REQUEST_ID: &str = "cofferdam.request.id";

/// What an attribute holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Truth(bool),
}

/// What a span is to the one who reads traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Work of this program.
    Internal,
    /// A request that it answered.
    Server,
}

pub(super) type Attribute = (Cow<'static, str>, Value);

/// A span that has ended.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) trace: [u8; 16],
    pub(super) id: [u8; 8],
    pub(super) parent: Option<[u8; 8]>,
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Nanoseconds since 1970.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) attributes: Vec<Attribute>,
    pub(super) failed: bool,
}

/// A span under way, kept with it by the registry.
#[derive(Debug)]
struct Open {
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    name: &'static str,
    start: SystemTime,
    since: Instant,
    attributes: Vec<Attribute>,
}

/// The layer that sees spans begin and end.
#[derive(Debug)]
pub(crate) struct Spans {
    queue: mpsc::Sender<Span>,
    figures: Arc<TraceFigures>,
}

/// Whether a span is exported. Events are not: they are the log's.
pub(crate) fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && *metadata.level() <= Level::INFO && metadata.target().starts_with(OURS)
}

impl Spans {
    pub(super) fn new(queue: mpsc::Sender<Span>, figures: Arc<TraceFigures>) -> Self {
        Self { queue, figures }
    }
}

impl<S> Layer<S> for Spans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        let mut ids = [0; 24];
        // Without chance there are no ids, and so no traces; nothing else suffers.
        if getrandom::fill(&mut ids).is_err() {
            return;
        }
        let (mut trace, mut own) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&ids[..16]);
        own.copy_from_slice(&ids[16..]);
        let mut open = Open {
            trace,
            id: own,
            parent: None,
            name: attributes.metadata().name(),
            start: SystemTime::now(),
            since: Instant::now(),
            attributes: Vec::new(),
        };
        attributes.record(&mut Fields(&mut open));
        if let Some(parent) = span.parent() {
            open.join(&parent);
        }
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(&mut Fields(open));
        }
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        let (Some(span), Some(before)) = (context.span(id), context.span(follows)) else {
            return;
        };
        if let Some(open) = span.extensions_mut().get_mut::<Open>()
            && open.parent.is_none()
        {
            open.join(&before);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        if self.queue.try_send(open.ended()).is_err() {
            self.figures.dropped(1);
        }
    }
}

impl Open {
    /// Becomes a part of another span's trace.
    fn join<'a, S: LookupSpan<'a>>(&mut self, parent: &SpanRef<'a, S>) {
        let extensions = parent.extensions();
        let Some(parent) = extensions.get::<Open>() else {
            return;
        };
        self.trace = parent.trace;
        self.parent = Some(parent.id);
        for (key, value) in &parent.attributes {
            if INHERITED.contains(&key.as_ref()) && self.attribute(key).is_none() {
                self.attributes.push((key.clone(), value.clone()));
            }
        }
    }

    fn attribute(&self, key: &str) -> Option<&Value> {
        let found = self.attributes.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value)
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.attribute(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn set(&mut self, field: &str, value: Value) {
        if field == TRACEPARENT {
            if let Value::Text(text) = &value
                && let Some((trace, parent)) = remote(text)
            {
                (self.trace, self.parent) = (trace, Some(parent));
            }
            return;
        }
        let key = key(self.name, field);
        match self.attributes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => self.attributes.push((key, value)),
        }
    }

    fn ended(self) -> Span {
        let start = self
            .start
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
            });
        let took = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let is_request = is_request(self.name);
        let failed = match self.attribute("http.response.status_code") {
            // What a client does wrong is no failure of the server.
            Some(Value::Number(status)) => *status >= 500,
            _ => self.text("cofferdam.outcome") == Some("failed"),
        };
        let name = match (self.name, self.text("cofferdam.step")) {
            ("request", _) => format!(
                "{} {}",
                self.text("http.request.method").unwrap_or("?"),
                self.text("http.route").unwrap_or("?"),
            ),
            ("ingress", _) => self.text("http.request.method").unwrap_or("?").to_owned(),
            ("pipeline", _) => "deployment".to_owned(),
            ("step", Some(step)) => format!("step {step}"),
            (name, _) => name.to_owned(),
        };
        Span {
            trace: self.trace,
            id: self.id,
            parent: self.parent,
            name,
            kind: if is_request {
                Kind::Server
            } else {
                Kind::Internal
            },
            start,
            end: start.saturating_add(took),
            attributes: self.attributes,
            failed,
        }
    }
}

/// Whether a span of this name is of a request: to the API, or to what a project serves.
fn is_request(span: &str) -> bool {
    matches!(span, "request" | "ingress")
}

/// What a field is called in a trace: by OpenTelemetry's conventions where there is one.
fn key(span: &str, field: &str) -> Cow<'static, str> {
    Cow::Borrowed(match (is_request(span), field) {
        (true, "id") => REQUEST_ID,
        (true, "method") => "http.request.method",
        (true, "route") => "http.route",
        (true, "status") => "http.response.status_code",
        (true, "peer") => "network.peer.address",
        (true, "token") => "cofferdam.token.id",
        (_, "code") => "error.type",
        (_, "project") => "cofferdam.project",
        (_, "deployment") => "cofferdam.deployment.id",
        (_, field) => return Cow::Owned(format!("cofferdam.{field}")),
    })
}

/// The trace and the span of a `traceparent` (W3C Trace Context, version 00).
fn remote(text: &str) -> Option<([u8; 16], [u8; 8])> {
    let mut parts = text.strip_prefix("00-")?.split('-');
    let trace = from_hex(parts.next()?)?;
    let span = from_hex(parts.next()?)?;
    (trace != [0; 16] && span != [0; 8]).then_some((trace, span))
}

fn from_hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// Takes the fields of a span.
struct Fields<'a>(&'a mut Open);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = value.chars().take(LONGEST).collect();
        self.0.set(field.name(), Value::Text(text));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.set(field.name(), Value::Number(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.set(field.name(), Value::Number(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.set(field.name(), Value::Truth(value));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use tracing::info_span;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What is exported of what is done meanwhile, with room for so many.
    fn exported(room: usize, done: impl FnOnce()) -> (Vec<Span>, u64) {
        let (sender, mut queue) = mpsc::channel(room);
        let figures = Arc::new(TraceFigures::default());
        let layer = Spans::new(sender, figures.clone()).with_filter(filter_fn(is_exported));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, done);
        let mut spans = Vec::new();
        while let Ok(span) = queue.try_recv() {
            spans.push(span);
        }
        (spans, figures.counts().1)
    }

    #[test]
    fn what_follows_from_a_request_belongs_to_its_trace_and_that_to_its_clients() {
        let (spans, dropped) = exported(8, || {
            let request = info_span!(
                "request",
                id = "r1",
                method = "POST",
                route = "/v1",
                status = tracing::field::Empty,
                traceparent = "00-0123456789abcdef0123456789abcdef-00000000000000ff-01",
            );
            let pipeline = info_span!(parent: None, "pipeline", deployment = "d1", outcome = tracing::field::Empty);
            pipeline.follows_from(&request);
            request.record("status", 202_u16);
            drop(request);
            let step = info_span!(parent: &pipeline, "step", step = "extract");
            tracing::debug_span!(parent: &step, "not exported").in_scope(|| {});
            drop(step);
            pipeline.record("outcome", "failed");
        });
        assert_eq!(dropped, 0);
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["POST /v1", "step extract", "deployment"]);
        let [request, step, deployment] = &spans[..] else {
            panic!("three spans");
        };
        assert_eq!(request.parent, Some([0, 0, 0, 0, 0, 0, 0, 0xff]));
        assert_eq!(request.trace[..2], [0x01, 0x23]);
        assert_eq!(
            (deployment.trace, step.trace),
            (request.trace, request.trace)
        );
        assert_eq!(deployment.parent, Some(request.id));
        assert_eq!(step.parent, Some(deployment.id));
        assert_eq!(
            (request.kind, deployment.kind),
            (Kind::Server, Kind::Internal)
        );
        assert!(deployment.failed && !request.failed && !step.failed);
        assert!(request.start <= request.end);
        let text = |text: &str| Value::Text(text.to_owned());
        for (key, value) in [(REQUEST_ID, "r1"), ("cofferdam.deployment.id", "d1")] {
            let found = step.attributes.iter().find(|(known, _)| known == key);
            assert_eq!(found.unwrap().1, text(value));
        }
        let status = ("http.response.status_code".into(), Value::Number(202));
        assert!(request.attributes.contains(&status));
    }

    #[test]
    fn what_finds_the_queue_full_is_dropped_and_counted() {
        let (spans, dropped) = exported(2, || {
            for _ in 0..5 {
                drop(info_span!("step"));
            }
        });
        assert_eq!((spans.len(), dropped), (2, 3));
    }

    #[test]
    fn a_parent_that_is_none_is_not_believed() {
        for text in [
            "",
            "00-0-0-01",
            "01-0123456789abcdef0123456789abcdef-00000000000000ff-01",
            "00-00000000000000000000000000000000-00000000000000ff-01",
            "00-0123456789abcdef0123456789abcdef-0000000000000000-01",
            "00-0123456789abcdef0123456789abcdeg-00000000000000ff-01",
        ] {
            assert_eq!(remote(text), None, "{text}");
        }
    }
}
