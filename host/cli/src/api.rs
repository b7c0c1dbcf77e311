//! The client's side of the HTTP interface: one server, one token, JSON in and out.

pub(crate) mod follow;
pub(crate) mod follow_project;
pub(crate) mod resume;
pub(crate) mod sse;
mod stream;
pub(crate) mod upload;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;

use crate::exit::Failure;
use crate::project::Project;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);

/// Longest JSON answer that is read: a page of records with their summaries is far below.
const ANSWER: usize = 64 * 1024 * 1024;

/// Longest problem document that is read.
const PROBLEM: usize = 64 * 1024;

/// How long an answer that is no stream may stay silent.
const SILENCE: Duration = Duration::from_secs(60);

/// A server to talk to.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    http: Client,
    base: Url,
    token: Option<String>,
}

impl Api {
    /// A client for the server at `url`.
    ///
    /// Without a `token`, the one in `data`'s `admin.token` is used, if `url` is this very machine: it is
    /// never sent anywhere else.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when `url` is none.
    pub(crate) fn new(url: &str, token: Option<String>, data: &Path) -> Result<Api, Failure> {
        Api::with_ca(url, token, data, None)
    }

    /// The same, believing the certificates in `ca` and no others.
    ///
    /// # Errors
    ///
    /// As [`Api::new`], and when `ca` cannot be used.
    pub(crate) fn with_ca(
        url: &str,
        token: Option<String>,
        data: &Path,
        ca: Option<&Path>,
    ) -> Result<Api, Failure> {
        let base = Url::parse(url)
            .ok()
            .filter(|base| base.has_host() && base.query().is_none())
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "{url:?} is no server's address: write it like http://127.0.0.1:9300"
                ))
            })?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(Failure::Usage(format!(
                "{url:?} asks for {}, and only https and http are spoken",
                base.scheme()
            )));
        }
        let local = is_loopback(&base);
        let token = match token {
            Some(token) => Some(token.trim().to_owned()),
            None if local => stored_token(data)?,
            None => None,
        };
        let mut builder = Client::builder()
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .connect_timeout(CONNECT)
            .tcp_keepalive(Duration::from_secs(30))
            // A token goes to the server that was named and nowhere else.
            .redirect(reqwest::redirect::Policy::none());
        if local {
            builder = builder.no_proxy();
        }
        if base.scheme() == "https" {
            builder = builder.tls_backend_preconfigured(crate::tls::client(ca)?);
        } else {
            crate::tls::install_provider();
        }
        let http = builder
            .build()
            .map_err(|error| Failure::Machine(anyhow::Error::new(error)))?;
        Ok(Api { http, base, token })
    }

    /// The server's address, for messages.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// A request with the token, to `path` (which starts with a slash).
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url()));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends, and turns anything but a success into its failure.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = tokio::time::timeout(SILENCE, request.send())
            .await
            .map_err(|_| self.silent())?
            .map_err(|error| self.broken(&error))?;
        self.accept(answer).await
    }

    /// Reads a refusal's problem document; a success passes.
    async fn accept(&self, answer: Response) -> Result<Response, Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let after = retry_after(answer.headers());
        // A refusal may close the connection under what is still being sent: what can be read of it counts.
        let (mut text, mut answer) = (Vec::new(), answer);
        while text.len() < PROBLEM {
            match tokio::time::timeout(SILENCE, answer.chunk()).await {
                Ok(Ok(Some(part))) => text.extend_from_slice(&part),
                _ => break,
            }
        }
        Err(match refusal(self.url(), status.as_u16(), &text) {
            Failure::Refused { message, .. } if status == StatusCode::TOO_MANY_REQUESTS => {
                Failure::Busy { message, after }
            }
            failure => failure,
        })
    }

    /// `GET path` as JSON, with `query` behind it.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.get(url).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = self.send(request).await?;
        self.json(answer).await
    }

    /// `PUT path` with a body and what describes it, answered in JSON or with nothing.
    pub(crate) async fn put(
        &self,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Value, Failure> {
        let request = self
            .request(Method::PUT, path)
            .headers(headers)
            .header(ACCEPT, "application/json")
            .body(body);
        // Compiling a large component takes the server longer than any other answer.
        let answer = request.send().await.map_err(|error| self.broken(&error))?;
        let answer = self.accept(answer).await?;
        self.json(answer).await
    }

    /// `POST path` with a document, answered in JSON or with nothing.
    pub(crate) async fn post_json(&self, path: &str, document: &Value) -> Result<Value, Failure> {
        let request = self
            .request(Method::POST, path)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(document.to_string());
        let answer = self.send(request).await?;
        self.json(answer).await
    }

    /// `POST path` with no body, answered in JSON.
    pub(crate) async fn post(&self, path: &str) -> Result<Value, Failure> {
        let request = self
            .request(Method::POST, path)
            .header(ACCEPT, "application/json");
        let answer = self.send(request).await?;
        self.json(answer).await
    }

    /// `POST path` with a query and no body, answered in JSON, however long that takes.
    pub(crate) async fn post_patiently(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Value, Failure> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url.query_pairs_mut().extend_pairs(query);
        let mut request = self.http.post(url).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.map_err(|error| self.broken(&error))?;
        let answer = self.accept(answer).await?;
        self.json(answer).await
    }

    /// `DELETE path`, answered in JSON.
    pub(crate) async fn delete_json(&self, path: &str) -> Result<Value, Failure> {
        let request = self
            .request(Method::DELETE, path)
            .header(ACCEPT, "application/json");
        let answer = self.send(request).await?;
        self.json(answer).await
    }

    /// `POST path` with a document, however long the answer takes.
    pub(crate) async fn post_json_patiently(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        let request = self
            .request(Method::POST, path)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(body.to_string());
        // A release may take its time to become ready.
        let answer = request.send().await.map_err(|error| self.broken(&error))?;
        let answer = self.accept(answer).await?;
        self.json(answer).await
    }

    /// `DELETE path`, which answers with nothing.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(self.request(Method::DELETE, path)).await?;
        Ok(())
    }

    /// What a deployment with this head would get.
    pub(crate) async fn check(&self, project: &Project, head: &Value) -> Result<Value, Failure> {
        let request = self
            .request(
                Method::POST,
                &format!("/v1/projects/{}/check", project.as_str()),
            )
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(head.to_string());
        let answer = self.send(request).await?;
        self.json(answer).await
    }

    /// The record of a deployment.
    pub(crate) async fn record(&self, id: &str) -> Result<Value, Failure> {
        self.get(&format!("/v1/deployments/{id}"), &[]).await
    }

    /// The recorded log of a deployment, as JSON lines.
    pub(crate) async fn log(&self, id: &str) -> Result<Response, Failure> {
        let request = self
            .request(Method::GET, &format!("/v1/deployments/{id}/log"))
            .header(ACCEPT, "application/x-ndjson");
        self.send(request).await
    }

    /// The event stream of a deployment from after event `last` on.
    async fn events(&self, id: &str, last: u64) -> Result<Response, Failure> {
        let mut request = self
            .request(Method::GET, &format!("/v1/deployments/{id}/events"))
            .header(ACCEPT, "text/event-stream");
        if last > 0 {
            request = request.header("last-event-id", last);
        }
        self.send(request).await
    }

    /// The event stream of a project, from after the place `last` on, or from now.
    async fn project_events(
        &self,
        project: &Project,
        last: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut request = self
            .request(Method::GET, &format!("/v1/projects/{project}/events"))
            .header(ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        self.send(request).await
    }

    /// The one deployment that `given` names: its whole id, or a beginning or end of it that no other recent
    /// deployment shares.
    pub(crate) async fn resolve(&self, given: &str) -> Result<String, Failure> {
        let hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        if given.is_empty() || !given.bytes().all(hex) {
            return Err(Failure::Usage(format!(
                "{given:?} is no deployment's id: `cofferdam list` shows them"
            )));
        }
        let given = given.to_ascii_lowercase();
        if given.len() >= 32 {
            return Ok(given);
        }
        let recent = self
            .get("/v1/deployments", &[("limit", "100".to_owned())])
            .await?;
        let mut matching = rows(recent)
            .into_iter()
            .filter_map(|record| Some(record.get("id")?.as_str()?.to_owned()))
            .filter(|id| id.starts_with(&given) || id.ends_with(&given));
        match (matching.next(), matching.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => Err(Failure::Refused {
                code: Some("not_found".to_owned()),
                message: format!("none of the last 100 deployments has an id like {given}"),
            }),
            (Some(one), Some(other)) => Err(Failure::Usage(format!(
                "{given} could be {one} or {other}: give more of the id (its end tells most)"
            ))),
        }
    }

    /// The answer's JSON; an empty one is null.
    pub(crate) async fn json(&self, mut answer: Response) -> Result<Value, Failure> {
        let mut text = Vec::new();
        while let Some(part) = self.part(&mut answer).await? {
            text.extend_from_slice(&part);
            if text.len() > ANSWER {
                return Err(Failure::Unreachable(format!(
                    "{} sends an answer without end",
                    self.url()
                )));
            }
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|_| {
            Failure::Unreachable(format!(
                "what answers at {} is no cofferdam server: {}",
                self.url(),
                start_of(&text)
            ))
        })
    }

    /// The next bytes of an answer; nothing at its end.
    async fn part(&self, answer: &mut Response) -> Result<Option<Bytes>, Failure> {
        tokio::time::timeout(SILENCE, answer.chunk())
            .await
            .map_err(|_| self.silent())?
            .map_err(|error| self.broken(&error))
    }

    fn silent(&self) -> Failure {
        Failure::Unreachable(format!(
            "the server at {} has said nothing for {} s",
            self.url(),
            SILENCE.as_secs()
        ))
    }

    /// A request that got no answer.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> Failure {
        // The innermost reason is the one that a person understands ("Connection refused").
        let mut reason: &dyn std::error::Error = error;
        while let Some(inner) = reason.source() {
            reason = inner;
        }
        Failure::Unreachable(if error.is_connect() {
            format!(
                "no server answers at {} ({reason}): start one with `cofferdam serve`, or name it with \
                 --url or COFFERDAM_URL",
                self.url()
            )
        } else {
            format!("the connection to {} broke: {reason}", self.url())
        })
    }
}

/// The rows of a list answer, whichever key they are under.
pub(crate) fn rows(answer: Value) -> Vec<Value> {
    match answer {
        Value::Array(rows) => rows,
        Value::Object(object) => object
            .into_iter()
            .find_map(|(_, value)| match value {
                Value::Array(rows) => Some(rows),
                _ => None,
            })
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Whether a URL leads to this very machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// The admin token that a server on this machine wrote into its data directory, if it can be read.
fn stored_token(data: &Path) -> Result<Option<String>, Failure> {
    let path = data.join("admin.token");
    match std::fs::read_to_string(&path) {
        Ok(token) => Ok(Some(token.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::refused(format!(
            "cannot read the token in {}: {}",
            path.display(),
            crate::exit::plain(&error)
        ))),
    }
}

/// How long a server asks to be left alone. A date instead of seconds is passed over, as if it had not asked.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let seconds = seconds.and_then(|seconds| seconds.trim().parse().ok());
    seconds.map_or(Duration::ZERO, Duration::from_secs)
}

/// The failure behind an answer that is no success.
fn refusal(url: &str, status: u16, text: &[u8]) -> Failure {
    let problem: Value = serde_json::from_slice(text).unwrap_or_default();
    let field = |name: &str| problem.get(name).and_then(Value::as_str);
    let code = field("code").map(str::to_owned).or_else(|| {
        let code = match status {
            401 => "unauthorized",
            403 => "forbidden",
            404 => "not_found",
            413 => "package_too_large",
            507 => "storage_full",
            _ => return None,
        };
        Some(code.to_owned())
    });
    let message = field("detail").or_else(|| field("title")).map_or_else(
        || format!("{url} answers {status}: {}", start_of(text)),
        str::to_owned,
    );
    match (status, &code) {
        (500..=599, None) => Failure::Unreachable(message),
        (502..=504, _) => Failure::Unreachable(message),
        (500..=599, Some(code)) if code != "storage_full" => {
            Failure::Unreachable(format!("{message} ({code})"))
        }
        _ => Failure::Refused { code, message },
    }
}

fn start_of(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        "(nothing)".to_owned()
    } else {
        line.chars().take(120).collect()
    }
}

#[cfg(test)]
mod tests;
