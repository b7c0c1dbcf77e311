//! Figures for Prometheus. Labels come from tables of this program and nothing that a client sends, so their
//! number is bounded: no project, no path, no token is ever one.

mod text;
pub(crate) mod traces;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cofferdam_deploy::{Figures, Histogram};
use http::Method;

pub(crate) use self::text::MEDIA_TYPE;
use self::text::{Kind, Text};
use self::traces::TraceFigures;
use crate::connections::ConnectionFigures;

/// The classes of status codes: 1xx to 5xx.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What a server counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Requests to the API by route, method and status.
    api: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    /// How long they took, by route: for streams until their first byte.
    api_seconds: Mutex<BTreeMap<&'static str, Arc<Histogram>>>,
    /// Requests to the ingress by class of status.
    ingress: [AtomicU64; CLASSES.len()],
    ingress_seconds: Histogram,
    /// Bytes of requests to the API.
    received: AtomicU64,
    /// Event streams that are open.
    listeners: AtomicU64,
    pub(crate) api_connections: ConnectionFigures,
    pub(crate) ingress_connections: ConnectionFigures,
    /// Of the export of traces, if there is one.
    traces: Option<Arc<TraceFigures>>,
}

/// An event stream that is counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Listener(Arc<Metrics>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Nothing counted yet, beside what is counted of traces elsewhere.
    pub(crate) fn new(traces: Option<Arc<TraceFigures>>) -> Self {
        Self {
            traces,
            ..Self::default()
        }
    }

    /// Counts an answer of the API.
    pub(crate) fn answered(
        &self,
        route: &'static str,
        method: &Method,
        status: u16,
        took: Duration,
    ) {
        let key = (route, known(method), status);
        let mut api = self.api.lock().unwrap_or_else(PoisonError::into_inner);
        *api.entry(key).or_default() += 1;
        drop(api);
        let histogram = {
            let mut all = self
                .api_seconds
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.entry(route).or_default().clone()
        };
        histogram.observe(took);
    }

    /// Counts an answer of the ingress.
    pub(crate) fn served(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.ingress[class].fetch_add(1, Ordering::Relaxed);
        self.ingress_seconds.observe(took);
    }

    /// Counts bytes of a request to the API.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts an event stream until the answer is dropped.
    pub(crate) fn listener(self: &Arc<Self>) -> Listener {
        self.listeners.fetch_add(1, Ordering::Relaxed);
        Listener(self.clone())
    }

    /// Everything, in Prometheus's text format.
    pub(crate) fn render(&self, host: &Figures, uploads: usize) -> String {
        let mut text = Text::default();
        text.family(
            "cofferdam_build_info",
            Kind::Gauge,
            "The version of this server.",
        );
        text.value(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.http(&mut text, uploads);
        deployments(&mut text, host);
        store(&mut text, host);
        text.into_string()
    }

    fn http(&self, text: &mut Text, uploads: usize) {
        text.family(
            "cofferdam_api_requests_total",
            Kind::Counter,
            "Requests to the API, by route, method and status.",
        );
        let api = self.api.lock().unwrap_or_else(PoisonError::into_inner);
        for ((route, method, status), count) in api.iter() {
            let status = status.to_string();
            let labels = [("route", *route), ("method", *method), ("status", &status)];
            text.value(&labels, *count);
        }
        drop(api);
        text.family(
            "cofferdam_api_request_seconds",
            Kind::Histogram,
            "How long requests to the API took, by route; streams until their first byte.",
        );
        let seconds = self
            .api_seconds
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (route, histogram) in seconds.iter() {
            text.histogram(&[("route", route)], &histogram.view());
        }
        drop(seconds);
        text.family(
            "cofferdam_ingress_requests_total",
            Kind::Counter,
            "Requests to the releases, by class of status.",
        );
        for (class, count) in CLASSES.iter().zip(&self.ingress) {
            text.value(&[("status", class)], count.load(Ordering::Relaxed));
        }
        text.family(
            "cofferdam_ingress_request_seconds",
            Kind::Histogram,
            "How long releases took to answer, until the first byte.",
        );
        text.histogram(&[], &self.ingress_seconds.view());
        text.family(
            "cofferdam_connections",
            Kind::Gauge,
            "Open connections, by listener.",
        );
        let listeners = [
            ("api", &self.api_connections),
            ("ingress", &self.ingress_connections),
        ];
        for (listener, figures) in listeners {
            text.value(&[("listener", listener)], figures.open());
        }
        text.family(
            "cofferdam_connections_total",
            Kind::Counter,
            "Accepted connections, by listener.",
        );
        for (listener, figures) in listeners {
            text.value(&[("listener", listener)], figures.accepted());
        }
        text.family(
            "cofferdam_idle_connections_closed_total",
            Kind::Counter,
            "Idle connections that were closed to make room, by listener.",
        );
        for (listener, figures) in listeners {
            text.value(&[("listener", listener)], figures.retired());
        }
        text.family(
            "cofferdam_event_streams",
            Kind::Gauge,
            "Open streams of events.",
        );
        text.value(&[], self.listeners.load(Ordering::Relaxed));
        text.family("cofferdam_uploads", Kind::Gauge, "Uploads under way.");
        text.value(&[], uploads as u64);
        text.family(
            "cofferdam_received_bytes_total",
            Kind::Counter,
            "Bytes of the bodies of requests to the API.",
        );
        text.value(&[], self.received.load(Ordering::Relaxed));
        if let Some(traces) = &self.traces {
            text.family(
                "cofferdam_trace_spans_total",
                Kind::Counter,
                "Spans of traces, by whether the collector got them.",
            );
            let (sent, dropped) = traces.counts();
            text.value(&[("outcome", "sent")], sent);
            text.value(&[("outcome", "dropped")], dropped);
        }
    }
}

fn deployments(text: &mut Text, host: &Figures) {
    text.family(
        "cofferdam_deployments",
        Kind::Gauge,
        "Recorded deployments, by status.",
    );
    for status in cofferdam_deploy::STATUSES {
        let recorded = host
            .deployments
            .iter()
            .find(|(name, _)| name == status.as_str());
        let count = recorded.map_or(0, |(_, count)| *count);
        text.value(&[("status", status.as_str())], count);
    }
    text.family(
        "cofferdam_deployments_live",
        Kind::Gauge,
        "Deployments that have not ended.",
    );
    text.value(&[], host.live);
    text.family("cofferdam_projects", Kind::Gauge, "Recorded projects.");
    text.value(&[], host.projects);
    text.family(
        "cofferdam_deployment_seconds",
        Kind::Histogram,
        "How long deployments took, by their end.",
    );
    for (status, view) in &host.deployment_seconds {
        text.histogram(&[("status", status)], view);
    }
    text.family(
        "cofferdam_step_seconds",
        Kind::Histogram,
        "How long steps took, by phase and end.",
    );
    for (phase, status, view) in &host.step_seconds {
        text.histogram(&[("phase", phase), ("status", status)], view);
    }
    text.family(
        "cofferdam_events_total",
        Kind::Counter,
        "Recorded events of deployments.",
    );
    text.value(&[], host.events);
    text.family(
        "cofferdam_dropped_lines_total",
        Kind::Counter,
        "Lines of steps that limits dropped.",
    );
    text.value(&[], host.dropped_lines);
    if let Some(workers) = host.workers {
        text.family(
            "cofferdam_workers_idle",
            Kind::Gauge,
            "Worker processes that wait for a step.",
        );
        text.value(&[], workers.idle);
        text.family(
            "cofferdam_workers_wanted",
            Kind::Gauge,
            "Steps that wait for a worker process.",
        );
        text.value(&[], workers.waiting);
    }
}

fn store(text: &mut Text, host: &Figures) {
    for (name, help, value) in [
        (
            "cofferdam_store_blobs",
            "Stored packages.",
            host.store.blobs,
        ),
        (
            "cofferdam_store_blob_bytes",
            "Bytes of the stored packages as they were sent.",
            host.store.bytes,
        ),
        ("cofferdam_store_packs", "Pack files.", host.store.packs),
        (
            "cofferdam_store_pack_bytes",
            "Bytes of the pack files.",
            host.store.pack_bytes,
        ),
        (
            "cofferdam_store_damaged_chunks",
            "Chunks that are known to be damaged, and wait for an upload that has them.",
            host.damage.chunks,
        ),
        (
            "cofferdam_store_lost_packs",
            "Packs that are known to be gone.",
            host.damage.packs,
        ),
    ] {
        text.family(name, Kind::Gauge, help);
        text.value(&[], value);
    }
    for (name, help, value) in [
        (
            "cofferdam_store_corrupt_reads_total",
            "Reads of packages that met damage.",
            host.damage.reads,
        ),
        (
            "cofferdam_store_failed_collections_total",
            "Collections of what nothing refers to that failed.",
            host.failed_collections,
        ),
    ] {
        text.family(name, Kind::Counter, help);
        text.value(&[], value);
    }
    if let Some(at) = host.collected_at {
        text.family(
            "cofferdam_store_collected_timestamp_seconds",
            Kind::Gauge,
            "When what nothing refers to was last collected.",
        );
        text.value(&[], at);
    }
}

/// A method as a label: what a client invents is one and the same.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_invent_makes_no_label() {
        let metrics = Metrics::default();
        for name in ["FROB", "X-1", "OPTIONS"] {
            let method = Method::from_bytes(name.as_bytes()).unwrap_or_default();
            metrics.answered("none", &method, 405, Duration::ZERO);
        }
        assert_eq!(metrics.api.lock().map_or(0, |api| api.len()), 1);
        for status in [0, 100, 200, 404, 599, 999] {
            metrics.served(status, Duration::ZERO);
        }
        let counts = metrics
            .ingress
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [2, 1, 0, 1, 2]);
    }

    #[test]
    fn a_stream_is_counted_as_long_as_it_lives() {
        let metrics = Arc::new(Metrics::default());
        let listener = metrics.listener();
        assert_eq!(metrics.listeners.load(Ordering::Relaxed), 1);
        drop(listener);
        assert_eq!(metrics.listeners.load(Ordering::Relaxed), 0);
    }
}
