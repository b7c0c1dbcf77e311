//! Uploads that are resumed: `/v1/uploads`, as in the IETF draft `draft-ietf-httpbis-resumable-upload`.
//!
//! `POST` makes one, with its first bytes or without any; `HEAD` tells the offset; `PATCH` goes on there; `DELETE`
//! forgets it. What arrives is received by a task of its own: a client that goes away in the middle finds all that
//! arrived. A request for an upload that another request still writes to ends that one first.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_deploy::{Append, Host, NameError, ProjectName, Scope, UploadId, UploadView};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::audit::Told;
use super::problem::Problem;
use super::{Api, Call, auth, json};
use crate::upload::body::UploadBody;
use crate::upload::content_length;

const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The media type of a `PATCH`.
const PARTIAL_UPLOAD: &str = "application/partial-upload";

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// An upload.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown {
    /// Its name.
    id: String,
    /// The project that it is for.
    project: String,
    /// What its bytes are.
    media_type: Option<String>,
    /// How many it will have.
    length: Option<u64>,
    /// How many are durable.
    offset: u64,
    /// Whether that is all.
    complete: bool,
    /// In how many seconds it is forgotten if nothing comes.
    expires_in_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    project: String,
}

/// The project that a new upload is for.
pub(super) fn asked(call: &Call) -> Result<ProjectName, Problem> {
    let wanted: Wanted = call.query()?;
    let project = wanted.project.parse();
    project.map_err(|error: NameError| cofferdam_deploy::Error::from(error).into())
}

/// The upload in the path.
pub(super) async fn find(host: &Host, name: &str) -> Result<UploadView, Problem> {
    let id: UploadId = name
        .parse()
        .map_err(|_| Problem::absent(&format!("upload {name}")))?;
    Ok(host.upload(id).await?)
}

/// An upload, if it is this project's.
pub(super) async fn of_project(
    host: &Host,
    id: UploadId,
    project: &ProjectName,
) -> Result<UploadView, Problem> {
    let upload = host.upload(id).await?;
    if upload.project == *project {
        Ok(upload)
    } else {
        // The same words as for one that does not exist.
        Err(Problem::absent(&format!("upload {id}")))
    }
}

/// `POST /v1/uploads?project=`: `201` with the place of the upload, and its first bytes stored.
pub(super) async fn create(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let Call {
        api, parts, body, ..
    } = call;
    let headers = parts.headers;
    let has_body = !http_body::Body::is_end_stream(&body);
    let complete = flag(&headers)?.unwrap_or(false);
    let length = length(&headers, 0, complete)?;
    let expected = sha256(&headers)?;
    let limit = api.inner.max_package_bytes;
    if length.is_some_and(|length| length > limit) {
        return Err(Problem::too_large(too_large(limit)));
    }
    let media_type = match headers.get(CONTENT_TYPE) {
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| Problem::bad_request("the content type does not parse"))?,
        ),
        None => None,
    };
    let host = api.host();
    let upload = host.create_upload(&project, length, media_type).await?;
    info!(upload = %upload.id, %project, "an upload was made");
    let upload = if has_body || complete {
        let append = host.append(upload.id, 0, length, limit).await?;
        let end = End { complete, expected };
        receive(&api, append, headers, body, end, project).await?
    } else {
        upload
    };
    let location = format!("/v1/uploads/{}", upload.id);
    let mut response = json(StatusCode::CREATED, &shown(&upload))?;
    describe(response.headers_mut(), &upload, limit);
    response.extensions_mut().insert(Told {
        target: Some(upload.id.to_string()),
        detail: None,
    });
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `HEAD` and `GET /v1/uploads/{upload}`. `HEAD` asks where to go on, so whoever still writes is stopped first;
/// `GET` only looks.
pub(super) async fn show(call: Call, upload: UploadView) -> Result<Response, Problem> {
    let upload = if call.parts.method == Method::HEAD {
        call.api.host().settled_upload(upload.id).await?
    } else {
        upload
    };
    let mut response = json(StatusCode::OK, &shown(&upload))?;
    describe(
        response.headers_mut(),
        &upload,
        call.api.inner.max_package_bytes,
    );
    Ok(response)
}

/// `PATCH /v1/uploads/{upload}`: `204` with the new offset.
pub(super) async fn append(call: Call, upload: UploadView) -> Result<Response, Problem> {
    let Call {
        api, parts, body, ..
    } = call;
    let headers = parts.headers;
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if media_type != Some(PARTIAL_UPLOAD.as_bytes()) {
        return Err(Problem::unsupported_media_type(format!(
            "the content type of a PATCH is {PARTIAL_UPLOAD}"
        )));
    }
    let offset = integer(&headers, &UPLOAD_OFFSET)?
        .ok_or_else(|| Problem::bad_request("Upload-Offset is missing: HEAD tells it"))?;
    let complete = flag(&headers)?
        .ok_or_else(|| Problem::bad_request("Upload-Complete is missing: it is ?0 or ?1"))?;
    let length = length(&headers, offset, complete)?;
    let expected = sha256(&headers)?;
    let limit = api.inner.max_package_bytes;
    if length.is_some_and(|length| length > limit) {
        return Err(Problem::too_large(too_large(limit)));
    }
    let project = upload.project.clone();
    let append = api.host().append(upload.id, offset, length, limit).await?;
    let end = End { complete, expected };
    let upload = receive(&api, append, headers, body, end, project).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    describe(response.headers_mut(), &upload, limit);
    Ok(response)
}

/// `DELETE /v1/uploads/{upload}`.
pub(super) async fn remove(call: Call, upload: UploadView) -> Result<Response, Problem> {
    call.api.host().cancel_upload(upload.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What a request says of the end of its upload.
#[derive(Clone, Copy)]
struct End {
    /// Whether it is at the end of this request.
    complete: bool,
    /// The SHA-256 of all of it.
    expected: Option<[u8; 32]>,
}

/// Receives one request's bytes in a task that the connection does not own.
async fn receive(
    api: &Api,
    append: Append,
    headers: HeaderMap,
    body: Body,
    end: End,
    project: ProjectName,
) -> Result<UploadView, Problem> {
    let own = api.clone();
    let received = api.detach(async move {
        let id = append.id();
        let received = take(&own, append, &headers, body, end, &project).await;
        if let Err(problem) = &received {
            info!(upload = %id, code = problem.code(), "an upload stopped");
        }
        received
    });
    received.await.map_err(|error| Problem::internal(&error))?
}

async fn take(
    api: &Api,
    mut append: Append,
    headers: &HeaderMap,
    body: Body,
    end: End,
    project: &ProjectName,
) -> Result<UploadView, Problem> {
    let id = append.id();
    let mut body = UploadBody::new(body, api.inner.body_limits.clone());
    let taken = loop {
        let next = tokio::select! {
            biased;
            () = append.lost() => break Err(cofferdam_deploy::Error::TakenOver.into()),
            next = body.next() => next,
        };
        match next {
            Ok(Some(bytes)) => {
                if let Err(error) = append.write(bytes).await {
                    break Err(error.into());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(Problem::from(error)),
        }
    };
    let allowed = match &taken {
        // Much time may have passed since the request began.
        Ok(()) if end.complete => authorised(api, headers, project),
        _ => Ok(()),
    };
    if !end.complete || taken.is_err() || allowed.is_err() {
        // What cannot be made durable now is sent again; the reason for the end counts more.
        let suspended = append.suspend().await;
        taken?;
        allowed?;
        suspended?;
        return Ok(api.host().upload(id).await?);
    }
    let blob = match end.expected {
        Some(expected) => api.host().complete_as(append, expected).await?,
        None => append.complete().await?,
    };
    info!(upload = %id, bytes = blob.bytes, "an upload is complete");
    Ok(api.host().upload(id).await?)
}

fn authorised(api: &Api, headers: &HeaderMap, project: &ProjectName) -> Result<(), Problem> {
    let identity = auth::identify(api.host(), headers)?;
    let wanted = Scope::Deploy(Some(project.clone()));
    if identity.allows(&wanted) {
        Ok(())
    } else {
        Err(Problem::forbidden(&wanted))
    }
}

fn shown(upload: &UploadView) -> Shown {
    Shown {
        id: upload.id.to_string(),
        project: upload.project.to_string(),
        media_type: upload.media_type.clone(),
        length: upload.length,
        offset: upload.offset,
        complete: upload.complete,
        expires_in_s: upload.expires_in.as_secs(),
    }
}

fn describe(headers: &mut HeaderMap, upload: &UploadView, limit: u64) {
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(upload.offset));
    let complete = if upload.complete { "?1" } else { "?0" };
    headers.insert(UPLOAD_COMPLETE, HeaderValue::from_static(complete));
    if let Some(length) = upload.length {
        headers.insert(UPLOAD_LENGTH, HeaderValue::from(length));
    }
    let limits = format!("max-size={limit}, max-age={}", upload.expires_in.as_secs());
    if let Ok(limits) = HeaderValue::from_str(&limits) {
        headers.insert(UPLOAD_LIMIT, limits);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

fn too_large(limit: u64) -> String {
    format!("at most {limit} bytes are taken here")
}

/// The length that the whole upload will have, if the request says it: in so many words, or because it is the last
/// one and says how many bytes it has.
fn length(headers: &HeaderMap, offset: u64, complete: bool) -> Result<Option<u64>, Problem> {
    let said = integer(headers, &UPLOAD_LENGTH)?;
    let implied = content_length(headers)
        .filter(|_| complete)
        .map(|rest| offset.saturating_add(rest));
    match (said, implied) {
        (Some(said), Some(implied)) if said != implied => {
            Err(cofferdam_deploy::Error::UploadLength {
                length: said,
                sent: implied,
            }
            .into())
        }
        (said, implied) => Ok(said.or(implied)),
    }
}

/// An integer of a structured field: digits alone, since none of ours is negative or has parameters.
fn integer(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(value) = single(headers, name)? else {
        return Ok(None);
    };
    let number = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| *number <= MAX_INTEGER);
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(Problem::bad_request(format!("{name} is not a number"))),
    }
}

/// `Upload-Complete`, a boolean of a structured field.
fn flag(headers: &HeaderMap) -> Result<Option<bool>, Problem> {
    match single(headers, &UPLOAD_COMPLETE)?.map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(b"?1") => Ok(Some(true)),
        Some(b"?0") => Ok(Some(false)),
        Some(_) => Err(Problem::bad_request("Upload-Complete is neither ?0 nor ?1")),
    }
}

fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Problem::bad_request(format!("{name} is there twice"))),
        (value, None) => Ok(value),
    }
}

/// The SHA-256 in `Repr-Digest` (RFC 9530), if there is one. Other algorithms are passed over, as it says; one that
/// promises nothing that could be checked is refused.
fn sha256(headers: &HeaderMap) -> Result<Option<[u8; 32]>, Problem> {
    let promised = headers
        .get_all(REPR_DIGEST)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|member| member.trim_ascii().strip_prefix(b"sha-256="))
        // Of a key that is there twice the last one counts, and parameters say nothing here (RFC 8941).
        .next_back()
        .and_then(|value| value.split(|byte| *byte == b';').next());
    let Some(promised) = promised else {
        return Ok(None);
    };
    promised
        .strip_prefix(b":")
        .and_then(|rest| rest.strip_suffix(b":"))
        .and_then(|base64| STANDARD.decode(base64).ok())
        .and_then(|digest| digest.try_into().ok())
        .map(Some)
        .ok_or_else(|| {
            Problem::bad_request(
                "the sha-256 in Repr-Digest is not 32 bytes in base64 between colons",
            )
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn numbers_and_flags_are_read_as_the_draft_writes_them_and_not_otherwise() {
        let good = headers(&[("upload-offset", "1024"), ("upload-complete", "?1")]);
        assert_eq!(integer(&good, &UPLOAD_OFFSET).unwrap(), Some(1024));
        assert_eq!(flag(&good).unwrap(), Some(true));
        for bad in ["", "-1", "+1", "1.0", "0x10", "1000000000000000", " 1 1"] {
            let bad = headers(&[("upload-offset", bad), ("upload-complete", bad)]);
            assert!(integer(&bad, &UPLOAD_OFFSET).is_err(), "{bad:?}");
            assert!(flag(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_request_says_how_long_the_upload_is() {
        let last = headers(&[("content-length", "10")]);
        assert_eq!(length(&last, 5, true).unwrap(), Some(15));
        assert_eq!(length(&last, 5, false).unwrap(), None);
        let both = headers(&[("content-length", "10"), ("upload-length", "15")]);
        assert_eq!(length(&both, 5, true).unwrap(), Some(15));
        assert!(length(&both, 6, true).is_err());
    }

    #[test]
    fn a_digest_is_found_among_others() {
        let digest = STANDARD.encode([7; 32]);
        let value = format!("sha-512=:AAAA:, sha-256=:{digest}:");
        let found = |value: &str| sha256(&headers(&[("repr-digest", value)]));
        assert_eq!(found(&value).unwrap(), Some([7; 32]));
        assert_eq!(found("md5=:AAAA:").unwrap(), None);
        for wrong in ["sha-256=:AAAA:", "sha-256=", "md5=:AAAA:, sha-256=:"] {
            assert_eq!(
                found(wrong).unwrap_err().code(),
                "request_invalid",
                "{wrong}"
            );
        }
    }
}
