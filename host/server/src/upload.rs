//! A package on its way in: three forms of request, one stream of bytes.
//!
//! Layout:
//!
//! - [`body`]: the request's body, which must keep coming;
//! - [`multipart`]: a form with the parts `head` and `package`;
//! - [`document`]: a JSON object with the package in base64, or the name of an upload;
//! - [`chunks`], [`assembled`]: a list of chunks, and those of them that the project does not hold;
//! - [`media_type`]: what kind of archive it is;
//! - [`parameters`]: header values with parameters.
//!
//! [`Arrival::open`] reads the head and the first bytes of the package, [`Arrival::next`] the rest; of a package in
//! chunks [`Arrival::assemble`] reads the list in between. Every form holds a few kilobytes, whatever the package's
//! size, and that one a frame of it.

mod assembled;
pub(crate) mod body;
mod chunks;
mod document;
mod head;
mod media_type;
mod multipart;
mod parameters;
mod recipe;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use cofferdam_deploy::{
    BlobDigest, BlobError, Head, Host, Input, PackageReader, ProjectName, Refusal, UploadId,
};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use self::assembled::Assembled;
use self::body::{BodyLimits, UploadBody};
use self::chunks::ChunksError;
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
    #[error("the package's chunks cannot be read: {0}")]
    Chunks(#[from] ChunksError),
    #[error("the package's list of chunks is not valid: {0}")]
    List(String),
    #[error("the package's list of chunks should have the BLAKE3 {expected} and has {found}")]
    ListDigest {
        expected: BlobDigest,
        found: BlobDigest,
    },
    #[error("the package was cut by another chunker: ask for this server's, and cut it again")]
    Chunker,
    #[error(transparent)]
    Host(cofferdam_deploy::Error),
}

impl From<BlobError> for UploadError {
    fn from(error: BlobError) -> Self {
        Self::Host(error.into())
    }
}

impl UploadError {
    /// What it means for a deployment that has begun.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Slow { .. } | Self::Broken { .. } => Refusal::Interrupted,
            Self::TooLarge { .. } => Refusal::TooLarge,
            Self::Host(cofferdam_deploy::Error::ChunksMissing) | Self::Chunker => {
                Refusal::ChunksMissing
            }
            Self::Host(cofferdam_deploy::Error::ChunkMismatch { .. }) | Self::ListDigest { .. } => {
                Refusal::ChunkMismatch
            }
            // What the host's own disk does to a package is not its sender's fault.
            Self::Host(_) => Refusal::Interrupted,
            Self::Chunks(_) | Self::List(_) => Refusal::Invalid,
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
    /// The upload that is to be deployed, instead of bytes that follow.
    pub(crate) upload: Option<UploadId>,
    declared: Option<String>,
    first: Option<Input>,
    content: Content,
    received: u64,
    limit: u64,
}

/// Where the bytes of a package are from.
enum Content {
    /// They are what is sent.
    Sent(Box<Source>),
    /// They are put together from what is sent and what is there.
    Assembled(Box<Assembled>),
    /// There are none.
    Nothing,
}

/// Where bytes that are sent are from.
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
    /// They were sent before, to an upload.
    Stored(PackageReader),
}

impl Arrival {
    /// Reads the head and, unless the package comes in chunks, its first bytes.
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
            "multipart/form-data" | chunks::MEDIA_TYPE => limit.saturating_add(MAX_FRAMING),
            _ => limit,
        };
        if content_length(headers).is_some_and(|length| length > framed) {
            return Err(UploadError::TooLarge { limit });
        }
        let body = UploadBody::new(body, limits);
        let mut upload = None;
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
                let (head, named) = document_head(&mut reader, &mut body).await?;
                upload = named;
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
            content: match &upload {
                Some(_) => Content::Nothing,
                None => Content::Sent(Box::new(source)),
            },
            upload,
            declared,
            first: None,
            received: 0,
            limit,
        };
        let is_package = !Self::is_in_chunks(arrival.declared.as_deref());
        if is_package && arrival.upload.is_none() {
            arrival.sniff().await?;
        }
        Ok(arrival)
    }

    /// A package whose bytes were sent to an upload before, in a form that is more than the bytes.
    pub(crate) fn stored(head: Head, package: PackageReader, limit: u64) -> Self {
        Self {
            head,
            media_type: None,
            upload: None,
            declared: package.media_type.clone(),
            first: None,
            content: Content::Sent(Box::new(Source::Stored(package))),
            received: 0,
            limit,
        }
    }

    /// Whether bytes of this media type are a list of chunks, and not a package as it is.
    pub(crate) fn is_in_chunks(media_type: Option<&str>) -> bool {
        media_type == Some(chunks::MEDIA_TYPE)
    }

    /// Reads the list of chunks and the first bytes of the package, if it comes in that form. Any other is as far
    /// already.
    pub(crate) async fn assemble(
        &mut self,
        host: &Host,
        project: &ProjectName,
    ) -> Result<(), UploadError> {
        if Self::is_in_chunks(self.declared.as_deref())
            && let Content::Sent(source) = std::mem::replace(&mut self.content, Content::Nothing)
        {
            let mut assembled = Assembled::open(*source, host, project, self.limit).await?;
            self.declared = assembled.media_type.take();
            self.content = Content::Assembled(Box::new(assembled));
            self.sniff().await?;
        }
        Ok(())
    }

    /// Whether the rest comes as fast as the disk is.
    pub(crate) fn is_nearly_here(&self) -> bool {
        matches!(&self.content, Content::Assembled(assembled) if assembled.is_nearly_here())
    }

    /// Finds out what the package is, by its first bytes if nobody has said so.
    async fn sniff(&mut self) -> Result<(), UploadError> {
        let first = self.first_bytes().await?;
        self.media_type = media_type(self.declared.as_deref(), &first);
        self.first = Some(first);
        Ok(())
    }

    /// The next bytes of the package, never none; nothing when it is complete and nothing follows it.
    pub(crate) async fn next(&mut self) -> Result<Option<Input>, UploadError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let bytes = match &mut self.content {
            Content::Sent(source) => source.next().await?.map(Input::from),
            Content::Assembled(assembled) => assembled.next().await?,
            Content::Nothing => None,
        };
        self.received += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.received > self.limit {
            return Err(UploadError::TooLarge { limit: self.limit });
        }
        Ok(bytes)
    }

    /// As many bytes as it takes to tell what the package is, or all when there are fewer.
    async fn first_bytes(&mut self) -> Result<Input, UploadError> {
        let Some(first) = self.next().await? else {
            return Err(UploadError::Empty);
        };
        if first.len() >= SNIFFED_BYTES {
            return Ok(first);
        }
        let mut first = BytesMut::from(&first[..]);
        while first.len() < SNIFFED_BYTES {
            let Some(more) = self.next().await? else {
                break;
            };
            first.extend_from_slice(&more);
        }
        Ok(first.freeze().into())
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
                    Some(
                        document::Piece::Head(_)
                        | document::Piece::Package
                        | document::Piece::Upload(_),
                    ) => {}
                    None => match body.next().await? {
                        Some(bytes) => reader.push(bytes),
                        None => return Ok(reader.finish().map(|()| None)?),
                    },
                }
            },
            Self::Stored(package) => package.next().await.map_err(UploadError::Host),
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

/// Reads a document up to the first byte of its package; all of it, if it names an upload instead.
async fn document_head(
    reader: &mut Document,
    body: &mut UploadBody,
) -> Result<(Option<Head>, Option<UploadId>), UploadError> {
    let (mut head, mut upload) = (None, None);
    loop {
        match reader.next()? {
            Some(document::Piece::Head(text)) => head = Some(parse_json(&text)?),
            Some(document::Piece::Package) => return Ok((head, None)),
            Some(document::Piece::Upload(name)) => {
                upload = Some(name.parse().map_err(|_| DocumentError::Upload)?);
            }
            Some(document::Piece::Data(_)) | None => match body.next().await? {
                Some(bytes) => reader.push(bytes),
                None => {
                    reader.finish()?;
                    return match upload {
                        Some(_) => Ok((head, upload)),
                        None => Err(DocumentError::NoPackage.into()),
                    };
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
        Some("application/cbor") => head::from_cbor(text).map_err(UploadError::Head),
        Some(other) => Err(UploadError::Head(format!(
            "its content type is {other:?}; use application/json or application/cbor"
        ))),
    }
}

pub(crate) fn parse_json(text: &[u8]) -> Result<Head, UploadError> {
    head::from_json(text).map_err(UploadError::Head)
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
