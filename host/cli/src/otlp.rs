//! Traces for OpenTelemetry: the spans of requests and deployments, posted to a collector as OTLP over HTTP.
//!
//! - here: where they go, and what one server's export consists of
//! - `spans`: the layer of the log that turns spans that have ended into what OpenTelemetry calls spans
//! - `encode`: a batch of them as OTLP's JSON
//! - `export`: the task that posts batches, tries again, gives up, and counts
//!
//! A server never waits for its collector: what ends goes into a queue of [`QUEUE`] spans, and what finds it full is
//! dropped and counted. Only spans of this program's own crates are exported, with fields that the log shows too;
//! nothing that a plugin printed is among them.

mod encode;
mod export;
mod spans;

use std::env;
use std::str::FromStr;
use std::sync::Arc;

use cofferdam_server::TraceFigures;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{mpsc, watch};

pub(crate) use self::export::Export;
pub(crate) use self::spans::{Spans, is_exported};
use crate::exit::Failure;

/// Spans that wait to be posted. OpenTelemetry's own default for it; at some 500 bytes each this is a megabyte.
const QUEUE: usize = 2048;

/// The path of traces below a collector's address, by the specification of OTLP over HTTP.
const PATH: &str = "/v1/traces";

/// Where collectors of a vendor expect their keys: `name=value,name=value`, values percent-encoded. A secret has no
/// place on a command line, so the flag has no twin for it.
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector(Url);

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "write the collector's address like http://127.0.0.1:4318";
        let mut url = Url::parse(text).map_err(|_| usage.to_owned())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(usage.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("put what the collector asks for into {HEADERS}"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(usage.to_owned());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        if !path.ends_with(PATH) {
            url.set_path(&format!("{path}{PATH}"));
        }
        Ok(Self(url))
    }
}

/// The two ends of an export, and what is counted of it: the layer for the log, and the task that posts.
///
/// # Errors
///
/// [`Failure::Usage`] when the headers that the environment names are none; [`Failure::Machine`] when there can be no
/// client.
pub(crate) fn start(collector: &Collector) -> Result<(Spans, Export, Arc<TraceFigures>), Failure> {
    let headers = match env::var(HEADERS) {
        Ok(text) => headers(&text).map_err(|why| Failure::Usage(format!("{HEADERS}: {why}")))?,
        Err(_) => HeaderMap::new(),
    };
    let figures = Arc::new(TraceFigures::default());
    let (sender, queue) = mpsc::channel(QUEUE);
    let (stop, stopped) = watch::channel(false);
    let posts = export::Posts::new(collector.0.clone(), headers, figures.clone())?;
    let task = tokio::spawn(posts.run(queue, stopped));
    Ok((
        Spans::new(sender, figures.clone()),
        Export::new(stop, task),
        figures,
    ))
}

/// The headers that a text of `name=value` pairs names.
fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (at, pair) in text.split(',').enumerate() {
        if pair.trim().is_empty() {
            continue;
        }
        // What is wrong is told by its place: the text is a secret.
        let wrong = |what: &str| format!("header {} {what}", at + 1);
        let (name, value) = pair.split_once('=').ok_or_else(|| wrong("has no ="))?;
        let name = HeaderName::from_str(name.trim()).map_err(|_| wrong("has no header's name"))?;
        let value = decoded(value.trim()).ok_or_else(|| wrong("is not percent-encoded right"))?;
        let mut value =
            HeaderValue::from_bytes(&value).map_err(|_| wrong("has no header's value"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// A text without its percent-encoding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok()?);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_collector_is_named_by_its_address_or_by_the_whole_path() {
        let url = |text: &str| text.parse::<Collector>().map(|found| found.0.to_string());
        for (text, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            (
                "https://otlp.example.org/a/",
                "https://otlp.example.org/a/v1/traces",
            ),
            ("http://[::1]/v1/traces", "http://[::1]/v1/traces"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "127.0.0.1:4318",
            "ftp://example.org",
            "http://",
            "http://user:pass@example.org",
            "http://example.org/?key=1",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_are_decoded_and_what_is_none_is_told_without_its_text() {
        let found = headers("api-key=abc%3D1, x-scope = blog,").unwrap();
        assert_eq!(found["api-key"], "abc=1");
        assert_eq!(found["x-scope"], "blog");
        assert!(found["api-key"].is_sensitive());
        for text in [
            "secret",
            "a b=secret",
            "a=secret%2",
            "a=secret%0A",
            "a=secret%zz",
        ] {
            let why = headers(text).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
