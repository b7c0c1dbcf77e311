//! Problems: what a client is told when something is wrong (RFC 9457), with the stable codes of DESIGN
//! section 7.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use cofferdam_deploy::{DeploymentId, Error, ErrorKind, Record, Scope, hint};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use super::request_id::RequestId;
use crate::upload::UploadError;

/// After how many seconds a client may try again when the host is stopping.
const RETRY_SECONDS: &str = "2";

/// Types of problems that draft-ietf-httpbis-resumable-upload registers.
const MISMATCHING_OFFSET: &str =
    "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
const COMPLETED_UPLOAD: &str = "https://iana.org/assignments/http-problem-types#completed-upload";
const INCONSISTENT_LENGTH: &str =
    "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";

/// The media type of a problem.
const MEDIA_TYPE: &str = "application/problem+json";

/// Something that went wrong with a request, as its client is told.
#[derive(Debug)]
pub(crate) struct Problem(Box<Details>);

#[derive(Debug)]
struct Details {
    status: StatusCode,
    code: String,
    detail: String,
    deployment: Option<DeploymentId>,
    step: Option<String>,
    lines: Vec<String>,
    errors: Vec<String>,
    /// A type that others have registered, instead of ours.
    registered: Option<&'static str>,
    numbers: BTreeMap<&'static str, u64>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// The members of the JSON document.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Document<'a> {
    /// A URN that ends with the code.
    r#type: String,
    /// What the code means, in a few words.
    title: &'a str,
    /// The status of the answer.
    status: u16,
    /// What was wrong, with its value, and what to do.
    detail: &'a str,
    /// The stable code.
    code: &'a str,
    /// The deployment that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<DeploymentId>,
    /// The step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    /// The last lines that the step printed.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    lines: &'a [String],
    /// What was refused, a sentence each.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    errors: &'a [String],
    #[serde(flatten)]
    numbers: &'a BTreeMap<&'static str, u64>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    /// The request's id, which the server's log has too.
    request: &'a str,
}

impl Problem {
    fn new(status: StatusCode, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            status,
            code: code.into(),
            detail: detail.into(),
            deployment: None,
            step: None,
            lines: Vec::new(),
            errors: Vec::new(),
            registered: None,
            numbers: BTreeMap::new(),
            header: None,
        }))
    }

    fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.0.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    /// The stable code.
    pub(crate) fn code(&self) -> &str {
        &self.0.code
    }

    /// A request that does not say what it wants in a way that can be read.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "request_invalid", detail)
    }

    /// A path that is no route.
    pub(crate) fn no_route() -> Self {
        Self::not_found("there is no such route; the API is under /v1")
    }

    /// A route that does not know the method.
    pub(crate) fn bad_method() -> Self {
        let detail = "the route does not know this method; the Allow header names those it knows";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// Something that does not exist.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// Something that does not exist for this client: in the words that the host has for what does not
    /// exist at all.
    pub(crate) fn absent(what: &str) -> Self {
        Error::NotFound {
            what: what.to_owned(),
        }
        .into()
    }

    /// The same, unless the client may see it and merely not do this to it.
    pub(crate) fn or_not_found(self, what: &str) -> Self {
        if self.0.status == StatusCode::NOT_FOUND {
            Self::absent(what)
        } else {
            self
        }
    }

    /// Something that this client may see and not do.
    pub(crate) fn forbidden(wanted: &Scope) -> Self {
        let detail = format!("this needs a token with the scope {wanted}");
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// No token, or one that is not known. `challenge` is the value of `WWW-Authenticate`.
    pub(crate) fn unauthorized(detail: &str, challenge: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with_header(WWW_AUTHENTICATE, challenge)
    }

    /// More at a time than one client may have.
    pub(crate) fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail)
            .with_header(RETRY_AFTER, RETRY_SECONDS)
    }

    /// A body of a kind that the route does not take.
    pub(crate) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "request_invalid", detail)
    }

    /// Gives it a type of the IETF's registry, and numbers that belong to it.
    fn registered(mut self, name: &'static str, numbers: &[(&'static str, u64)]) -> Self {
        self.0.registered = Some(name);
        self.0.numbers = numbers.iter().copied().collect();
        self
    }

    /// More than is taken.
    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "package_too_large", detail)
    }

    /// The host cannot do this now.
    pub(crate) fn not_ready(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail)
            .with_header(RETRY_AFTER, RETRY_SECONDS)
    }

    /// A fault of the host's own. The cause is logged, in the span of the request, and told to nobody.
    pub(crate) fn internal(cause: &dyn std::error::Error) -> Self {
        tracing::error!(cause = chain(cause), "a request failed");
        let detail = "the server failed; its log has the cause under this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Names the deployment that the problem is about.
    pub(crate) fn of(mut self, deployment: DeploymentId) -> Self {
        self.0.deployment = Some(deployment);
        self
    }

    /// The answer to the request with this id.
    pub(crate) fn into_answer(self, request: &RequestId) -> Response {
        let details = *self.0;
        let title = title(&details.code).or(details.status.canonical_reason());
        let document = Document {
            r#type: details.registered.map_or_else(
                || format!("urn:cofferdam:problem:{}", details.code),
                str::to_owned,
            ),
            title: title.unwrap_or("A problem"),
            status: details.status.as_u16(),
            detail: &details.detail,
            code: &details.code,
            deployment: details.deployment,
            step: details.step.as_deref(),
            lines: &details.lines,
            errors: &details.errors,
            numbers: &details.numbers,
            hint: hint::of(&details.code),
            request: request.as_str(),
        };
        let text = serde_json::to_vec(&document).expect("it has only strings and numbers");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.extend(details.header);
        (details.status, headers, text).into_response()
    }

    /// The end of a deployment that failed while its package still arrived.
    fn of_record(status: StatusCode, record: &Record) -> Self {
        let problem = match &record.error {
            Some(error) => {
                let mut problem = Self::new(status, error.code.clone(), error.message.clone());
                problem.0.step.clone_from(&error.step);
                problem.0.lines.clone_from(&error.lines);
                problem
            }
            None => {
                let detail = format!("the deployment has ended as {}", record.status.as_str());
                Self::new(status, "conflict", detail)
            }
        };
        problem.of(record.id)
    }
}

/// What a code means in a few words; the same for every problem that has it.
fn title(code: &str) -> Option<&'static str> {
    Some(match code {
        "head_invalid" => "The head is not valid",
        "config_invalid" => "A step's configuration is not valid",
        "package_invalid" => "The package is not valid",
        "package_too_large" => "The package is too large",
        "grant_denied" => "A step asks for more than it may have",
        "plugin_unknown" => "The plugin is not known",
        "plugin_incompatible" => "The component cannot be a plugin",
        "step_failed" => "A step failed",
        "step_trapped" => "A step trapped",
        "step_timeout" => "A step took too long",
        "step_cpu_exceeded" => "A step used too much processor time",
        "step_memory_exceeded" => "A step used too much memory",
        "step_disk_exceeded" => "A step wrote too much",
        "step_stuck" => "A step cannot be stopped",
        "release_invalid" => "The release is not valid",
        "upload_interrupted" => "The upload was interrupted",
        "digest_mismatch" => "The package has another digest",
        "chunks_missing" => "The project does not hold these chunks",
        "not_ready" => "Not ready",
        "superseded" => "A newer deployment took its place",
        "cancelled" => "Cancelled",
        "interrupted" => "The server was stopped",
        "conflict" => "Another state of things stands in the way",
        "unauthorized" => "No valid token",
        "forbidden" => "This is not allowed",
        "not_found" => "Not found",
        "storage_full" => "The server's disk is full",
        "request_invalid" => "The request is not valid",
        "too_many_requests" => "Too much at a time",
        "method_not_allowed" => "The method is not allowed",
        "internal" => "The server failed",
        _ => return None,
    })
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Storage => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match (error.kind(), &error) {
            (kind, Error::Failed { record }) => Self::of_record(status(kind), record),
            (ErrorKind::Internal, _) => Self::internal(&error),
            (ErrorKind::Unavailable, _) => Self::not_ready(error.to_string()),
            (kind, Error::GrantDenied { denied, .. }) => {
                let mut problem = Self::new(status(kind), error.code(), error.to_string());
                problem.0.errors.clone_from(denied);
                problem
            }
            (kind, Error::UploadOffset { expected, provided }) => {
                let numbers = [
                    ("expected-offset", *expected),
                    ("provided-offset", *provided),
                ];
                Self::new(status(kind), error.code(), error.to_string())
                    .registered(MISMATCHING_OFFSET, &numbers)
            }
            (kind, Error::UploadComplete { .. }) => {
                Self::new(status(kind), error.code(), error.to_string())
                    .registered(COMPLETED_UPLOAD, &[])
            }
            (kind, Error::UploadLength { .. }) => {
                Self::new(status(kind), error.code(), error.to_string())
                    .registered(INCONSISTENT_LENGTH, &[])
            }
            (kind, _) => Self::new(status(kind), error.code(), error.to_string()),
        }
    }
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        let detail = error.to_string();
        let (status, code) = match error {
            UploadError::Slow { .. } => (StatusCode::REQUEST_TIMEOUT, "upload_interrupted"),
            UploadError::Broken { .. } => (StatusCode::BAD_REQUEST, "upload_interrupted"),
            UploadError::TooLarge { .. } => return Self::too_large(detail),
            UploadError::Host(error) => return error.into(),
            UploadError::Chunker => (StatusCode::CONFLICT, "chunks_missing"),
            UploadError::ListDigest { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "digest_mismatch"),
            UploadError::Head(_) => (StatusCode::BAD_REQUEST, "head_invalid"),
            UploadError::Empty
            | UploadError::Chunks(_)
            | UploadError::List(_)
            | UploadError::Multipart(_)
            | UploadError::Part(_)
            | UploadError::NoPackage
            | UploadError::Document(_)
            | UploadError::ContentType => (StatusCode::BAD_REQUEST, "package_invalid"),
        };
        Self::new(status, code, detail)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    async fn document(problem: Problem) -> (http::response::Parts, serde_json::Value) {
        let (parts, body) = problem
            .into_answer(&RequestId::of(&HeaderMap::new()))
            .into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (parts, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_problem_has_the_members_of_rfc_9457_and_a_stable_code() {
        let (parts, document) = document(Problem::absent("deployment x")).await;
        assert_eq!(parts.headers[CONTENT_TYPE], "application/problem+json");
        assert!(document["request"].is_string());
        let mut document = document;
        document["request"].take();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "urn:cofferdam:problem:not_found",
                "title": "Not found",
                "status": 404,
                "detail": "deployment x does not exist",
                "code": "not_found",
                "hint": hint::of("not_found"),
                "request": null,
            })
        );
    }

    #[tokio::test]
    async fn a_fault_of_the_host_tells_nobody_its_cause() {
        let cause = std::io::Error::other("/srv/secret/ledger.db");
        let error = Error::Io {
            action: "read /srv/secret".to_owned(),
            source: cause,
        };
        let (parts, document) = document(error.into()).await;
        assert_eq!(parts.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!document.to_string().contains("secret"));
    }

    #[tokio::test]
    async fn what_was_denied_is_listed() {
        let denied = vec!["net example.com:80".to_owned()];
        let error = Error::GrantDenied {
            step: "install-1".to_owned(),
            denied,
        };
        let (parts, document) = document(error.into()).await;
        assert_eq!(parts.status, StatusCode::FORBIDDEN);
        assert_eq!(
            document["errors"],
            serde_json::json!(["net example.com:80"])
        );
    }
}
