//! A package on its way in: three forms of request, one stream of bytes.
//!
//! Layout:
//!
//! - [`body`]: the request's body, which must keep coming;
//! - [`multipart`]: a form with the parts `head` and `package`;
//! - [`document`]: a JSON object with the package in base64;
//! - [`media_type`]: what kind of archive it is;
//! - [`parameters`]: header values with parameters.
//!
//! [`Arrival::open`] reads the head and the first bytes of the package, [`Arrival::next`] the rest. All
//! three forms hold a few kilobytes, whatever the package's size.

pub(crate) mod body;
mod document;
mod media_type;
mod multipart;
mod parameters;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use cofferdam_deploy::{Head, Refusal};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use self::body::{BodyLimits, UploadBody};
use self::document::{Document, DocumentError};
use self::media_type::{SNIFFED_BYTES, media_type};
use self::multipart::{Boundary, Multipart, MultipartError};
use self::parameters::Parameters;

/// The longest head: thirty-two install steps with a kilobyte of configuration each fit several times.
pub(crate) const MAX_HEAD: usize = 256 * 1024;

/// The longest package in a JSON document. Base64 costs a third more on the wire and a decoder on both
/// sides; what is larger has two better ways in.
const MAX_BASE64_PACKAGE: u64 = 32 * 1024 * 1024;

/// What the two framed forms may need beside the package: heads, headers, delimiters, white space.
const MAX_FRAMING: u64 = 1024 * 1024;

/// The header that carries the head of a raw body, as JSON.
const HEAD_HEADER: &str = "cofferdam-head";

/// The major type of a CBOR map: the upper three bits of its first byte (RFC 8949, section 3.1).
const CBOR_MAP: u8 = 5;

/// Why an upload cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the sender is too slow: {received} bytes had arrived")]
    Slow { received: u64 },
    #[error("the connection broke after {received} bytes")]
    Broken {
        received: u64,
        #[source]
        source: axum::Error,
    },
    #[error("the body is larger than {limit} bytes, the most that is taken here")]
    TooLarge { limit: u64 },
    #[error("the package is empty")]
    Empty,
    #[error("the form cannot be read: {0}")]
    Multipart(#[from] MultipartError),
    #[error("the form has a part {0:?}; its parts are head, then package")]
    Part(String),
    #[error("the form has no part named package")]
    NoPackage,
    #[error("the document cannot be read: {0}")]
    Document(#[from] DocumentError),
    #[error("the content type does not parse")]
    ContentType,
    #[error("the head is not valid: {0}")]
    Head(String),
}

impl UploadError {
    /// What it means for a deployment that has begun.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Slow { .. } | Self::Broken { .. } => Refusal::Interrupted,
            Self::TooLarge { .. } => Refusal::TooLarge,
            Self::Empty
            | Self::Multipart(_)
            | Self::Part(_)
            | Self::NoPackage
            | Self::Document(_)
            | Self::ContentType
            | Self::Head(_) => Refusal::Invalid,
        }
    }
}

/// A package that is arriving: its head is known, and its first bytes.
pub(crate) struct Arrival {
    /// What came with the package; the default when nothing did.
    pub(crate) head: Head,
    /// What kind of archive it is, when that is known.
    pub(crate) media_type: Option<String>,
    first: Option<Bytes>,
    source: Source,
    received: u64,
    limit: u64,
}

enum Source {
    Raw(UploadBody),
    Multipart {
        body: UploadBody,
        parser: Box<Multipart>,
    },
    Document {
        body: UploadBody,
        reader: Document,
    },
}

impl Arrival {
    /// Reads the head and the first bytes of the package.
    ///
    /// What can be refused by the request's headers alone is refused before a byte of the body is asked
    /// for, so that a client that waits for `100 Continue` never sends it.
    pub(crate) async fn open(
        headers: &HeaderMap,
        body: Body,
        limits: BodyLimits,
        max_package: u64,
    ) -> Result<Self, UploadError> {
        let content_type = content_type(headers)?;
        let form = content_type
            .as_ref()
            .map_or("", |found| found.value.as_str());
        let header = head_header(headers)?;
        let limit = match form {
            "application/json" => max_package.min(MAX_BASE64_PACKAGE),
            _ => max_package,
        };
        let framed = match form {
            "application/json" => limit
                .div_ceil(3)
                .saturating_mul(4)
                .saturating_add(MAX_FRAMING),
            "multipart/form-data" => limit.saturating_add(MAX_FRAMING),
            _ => limit,
        };
        if content_length(headers).is_some_and(|length| length > framed) {
            return Err(UploadError::TooLarge { limit });
        }
        let body = UploadBody::new(body, limits);
        let (source, head, declared) = match (form, &content_type) {
            ("multipart/form-data", Some(content_type)) => {
                let mut parser = Box::new(Multipart::new(&Boundary::of(content_type)?));
                let mut body = body;
                let (head, declared) = form_head(&mut parser, &mut body).await?;
                (Source::Multipart { body, parser }, head, declared)
            }
            ("application/json", _) => {
                let mut reader = Document::new();
                let mut body = body;
                let head = document_head(&mut reader, &mut body).await?;
                (Source::Document { body, reader }, head, None)
            }
            _ => {
                let declared = content_type.as_ref().map(|found| found.value.clone());
                (Source::Raw(body), None, declared)
            }
        };
        let head = match (header, head) {
            (Some(_), Some(_)) => {
                return Err(UploadError::Head(
                    "it is there twice, in a header and in the body".into(),
                ));
            }
            (header, head) => header.or(head).unwrap_or_default(),
        };
        let mut arrival = Self {
            head,
            media_type: None,
            first: None,
            source,
            received: 0,
            limit,
        };
        let first = arrival.first_bytes().await?;
        arrival.media_type = media_type(declared.as_deref(), &first);
        arrival.first = Some(first);
        Ok(arrival)
    }

    /// The next bytes of the package, never none; nothing when it is complete and nothing follows it.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UploadError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let bytes = self.source.next().await?;
        self.received += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.received > self.limit {
            return Err(UploadError::TooLarge { limit: self.limit });
        }
        Ok(bytes)
    }

    /// As many bytes as it takes to tell what the package is, or all when there are fewer.
    async fn first_bytes(&mut self) -> Result<Bytes, UploadError> {
        let Some(first) = self.next().await? else {
            return Err(UploadError::Empty);
        };
        if first.len() >= SNIFFED_BYTES {
            return Ok(first);
        }
        let mut first = BytesMut::from(first);
        while first.len() < SNIFFED_BYTES {
            let Some(more) = self.next().await? else {
                break;
            };
            first.extend_from_slice(&more);
        }
        Ok(first.freeze())
    }
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, UploadError> {
        match self {
            Self::Raw(body) => body.next().await,
            Self::Multipart { body, parser } => loop {
                match parser.next()? {
                    Some(multipart::Piece::Data(data)) => return Ok(Some(data)),
                    Some(multipart::Piece::Part(part)) => return Err(UploadError::Part(part.name)),
                    None => match body.next().await? {
                        Some(bytes) => parser.push(bytes),
                        None => return Ok(parser.finish().map(|()| None)?),
                    },
                }
            },
            Self::Document { body, reader } => loop {
                match reader.next()? {
                    Some(document::Piece::Data(data)) => return Ok(Some(data)),
                    // The reader itself refuses a head behind the package, and a second package.
                    Some(document::Piece::Head(_) | document::Piece::Package) => {}
                    None => match body.next().await? {
                        Some(bytes) => reader.push(bytes),
                        None => return Ok(reader.finish().map(|()| None)?),
                    },
                }
            },
        }
    }
}

/// Reads a form up to the first byte of its package.
async fn form_head(
    parser: &mut Multipart,
    body: &mut UploadBody,
) -> Result<(Option<Head>, Option<String>), UploadError> {
    let mut head: Option<(Option<String>, BytesMut)> = None;
    loop {
        match parser.next()? {
            Some(multipart::Piece::Part(part)) => match (part.name.as_str(), &head) {
                ("head", None) => head = Some((part.content_type, BytesMut::new())),
                ("package", _) => {
                    let head = head.map(|(kind, text)| parse_head(kind.as_deref(), &text));
                    return Ok((head.transpose()?, part.content_type));
                }
                _ => return Err(UploadError::Part(part.name)),
            },
            Some(multipart::Piece::Data(data)) => {
                let (_, text) = head
                    .as_mut()
                    .expect("only the part head is read in this loop");
                if text.len() + data.len() > MAX_HEAD {
                    return Err(UploadError::Head(format!(
                        "it is longer than {MAX_HEAD} bytes"
                    )));
                }
                text.extend_from_slice(&data);
            }
            None => match body.next().await? {
                Some(bytes) => parser.push(bytes),
                None => {
                    parser.finish()?;
                    return Err(UploadError::NoPackage);
                }
            },
        }
    }
}

/// Reads a document up to the first byte of its package.
async fn document_head(
    reader: &mut Document,
    body: &mut UploadBody,
) -> Result<Option<Head>, UploadError> {
    let mut head = None;
    loop {
        match reader.next()? {
            Some(document::Piece::Head(text)) => head = Some(parse_json(&text)?),
            Some(document::Piece::Package) => return Ok(head),
            Some(document::Piece::Data(_)) | None => match body.next().await? {
                Some(bytes) => reader.push(bytes),
                None => {
                    return Err(reader
                        .finish()
                        .err()
                        .unwrap_or(DocumentError::NoPackage)
                        .into());
                }
            },
        }
    }
}

/// Reads a head in the format that its part's content type names; JSON when it names none.
fn parse_head(content_type: Option<&str>, text: &[u8]) -> Result<Head, UploadError> {
    match content_type {
        None | Some("application/json" | "text/plain" | "application/octet-stream") => {
            parse_json(text)
        }
        Some("application/cbor") => parse_cbor(text),
        Some(other) => Err(UploadError::Head(format!(
            "its content type is {other:?}; use application/json or application/cbor"
        ))),
    }
}

pub(crate) fn parse_json(text: &[u8]) -> Result<Head, UploadError> {
    // A derived reader takes an array for a structure too, field by field.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(UploadError::Head("it is not a JSON object".into()));
    }
    serde_json::from_slice(text).map_err(|error| UploadError::Head(error.to_string()))
}

fn parse_cbor(text: &[u8]) -> Result<Head, UploadError> {
    if text.first().is_none_or(|first| first >> 5 != CBOR_MAP) {
        return Err(UploadError::Head("it is not a CBOR map".into()));
    }
    let mut rest = text;
    let head =
        ciborium::from_reader(&mut rest).map_err(|error| UploadError::Head(error.to_string()))?;
    if rest.is_empty() {
        Ok(head)
    } else {
        Err(UploadError::Head(format!("{} bytes follow it", rest.len())))
    }
}

fn head_header(headers: &HeaderMap) -> Result<Option<Head>, UploadError> {
    let mut values = headers.get_all(HEAD_HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(UploadError::Head(
            "the header Cofferdam-Head is there twice".into(),
        ));
    }
    parse_json(value.as_bytes()).map(Some)
}

fn content_type(headers: &HeaderMap) -> Result<Option<Parameters>, UploadError> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(Parameters::parse);
    match (parsed, values.next()) {
        (Some(parsed), None) => Ok(Some(parsed).filter(|parsed| !parsed.value.is_empty())),
        _ => Err(UploadError::ContentType),
    }
}

/// The length that the request announces. hyper has refused one that is not a number.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
