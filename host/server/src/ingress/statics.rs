//! Static services: from a request to a representation of a file.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, LOCATION, RANGE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::sync::Semaphore;

use super::body::{Body, FileReader};
use super::coding::{Accepted, Coding};
use super::name::{Name, Refusal};
use super::notice::notice;
use super::range::{self, Ranged};
use super::shelf::Shelf;
use super::site::{self, Found, Page, Site, Variant};
use super::validator::{self, Condition};

/// What the shelf may hold: the small files of some dozens of sites, and a sixth of what a server may use.
const SHELF_BYTES: usize = 16 * 1024 * 1024;

/// How many files are looked up at once. Each lookup holds up to four small files; more of them than this
/// only wait for the disk.
const LOOKUPS: usize = 16;

/// What a static service answers to.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// A browser keeps what it has and asks whether it is still good: the next request after a deployment sees
/// the new release, and one before it costs a 304.
const REVALIDATE: HeaderValue = HeaderValue::from_static("public, max-age=0, must-revalidate");

/// The page a site may have for what it does not have.
const NOT_FOUND_PAGE: &str = "404.html";

/// Serves static services.
pub(super) struct Statics {
    shelf: Shelf,
    lookups: Arc<Semaphore>,
}

enum Looked {
    Page(Arc<Page>),
    Directory,
    Nothing,
}

impl Statics {
    pub(super) fn new() -> Statics {
        Statics {
            shelf: Shelf::new(SHELF_BYTES),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    /// Answers a request to a static service.
    pub(super) async fn answer(&self, site: Site<'_>, request: &Parts) -> Response<Body> {
        match request.method {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(ALLOW, METHODS);
                return response;
            }
            _ => {
                let mut response = notice(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "Not that way",
                    "These are files: they can be read, and nothing else.",
                );
                response.headers_mut().insert(ALLOW, METHODS);
                return response;
            }
        }
        self.read(site, request).await.unwrap_or_else(|error| {
            tracing::error!(service = site.service, path = request.uri.path(), %error, "a file of a release cannot be read");
            notice(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something broke here",
                "The server could not read this page. Its log says why.",
            )
        })
    }

    async fn read(&self, site: Site<'_>, request: &Parts) -> io::Result<Response<Body>> {
        let name = match Name::parse(request.uri.path()) {
            Ok(name) => name,
            Err(Refusal::Malformed) => {
                return Ok(notice(
                    StatusCode::BAD_REQUEST,
                    "That is not an address",
                    "The path in this address cannot be read. Check it for a broken % escape.",
                ));
            }
            Err(Refusal::Unserved) => return self.missing(site, request).await,
        };
        match self.look_up(site, &name.file()).await? {
            Looked::Page(page) => present(site, request, &page).await,
            Looked::Directory if !name.is_directory() => {
                Ok(redirect(&name.as_directory(request.uri.query())))
            }
            Looked::Directory | Looked::Nothing => self.missing(site, request).await,
        }
    }

    async fn look_up(&self, site: Site<'_>, name: &str) -> io::Result<Looked> {
        let key = site.key(name);
        if let Some(page) = self.shelf.get(&key) {
            return Ok(Looked::Page(page));
        }
        let permit = self
            .lookups
            .clone()
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (dir, name) = (site.dir.try_clone()?, name.to_owned());
        let (release, digest, service) = (
            site.release,
            site.digest.to_owned(),
            site.service.to_owned(),
        );
        let found = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            site::find(
                Site {
                    release,
                    digest: &digest,
                    service: &service,
                    dir: &dir,
                },
                &name,
            )
        })
        .await
        .map_err(io::Error::other)??;
        Ok(match found {
            Found::Page(page) => {
                let page = Arc::new(page);
                self.shelf.put(key, page.clone());
                Looked::Page(page)
            }
            Found::Directory => Looked::Directory,
            Found::Nothing => Looked::Nothing,
        })
    }

    /// The site's own page for what is missing, or ours.
    async fn missing(&self, site: Site<'_>, request: &Parts) -> io::Result<Response<Body>> {
        let Looked::Page(page) = self.look_up(site, NOT_FOUND_PAGE).await? else {
            return Ok(notice(
                StatusCode::NOT_FOUND,
                "Not found",
                "This site has no page at this address.",
            ));
        };
        let variant = page.choose(Accepted::of(&request.headers));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_FOUND;
        describe(response.headers_mut(), &page, variant);
        // A tag would let a client take this page for the one it asked for.
        response.headers_mut().remove(ETAG);
        send(site, request, variant, None, response).await
    }
}

/// Sends a page as the request's headers want it.
async fn present(site: Site<'_>, request: &Parts, page: &Page) -> io::Result<Response<Body>> {
    let variant = page.choose(Accepted::of(&request.headers));
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    describe(headers, page, variant);
    match validator::judge(&request.headers, &variant.tag) {
        Condition::Holds => {}
        Condition::Unchanged => {
            for header in [CONTENT_TYPE, CONTENT_ENCODING] {
                headers.remove(header);
            }
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        Condition::Failed => {
            return Ok(notice(
                StatusCode::PRECONDITION_FAILED,
                "It has changed",
                "The request holds only for a version of this page that is no longer served.",
            ));
        }
    }
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Ranges are defined for GET only, and count the bytes of the representation that is sent, coded or not.
    let ranged = match request.headers.get(RANGE) {
        Some(header)
            if request.method == Method::GET
                && validator::range_applies(&request.headers, &variant.tag) =>
        {
            range::parse(header, variant.len)
        }
        _ => Ranged::Whole,
    };
    match ranged {
        Ranged::Whole => send(site, request, variant, None, response).await,
        Ranged::Part { first, last } => {
            headers.insert(
                CONTENT_RANGE,
                content_range(&format!("{first}-{last}"), variant.len),
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            send(site, request, variant, Some(first..=last), response).await
        }
        Ranged::Unsatisfiable => {
            let mut response = notice(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "Past the end",
                "The part that was asked for lies beyond the end of this file.",
            );
            response
                .headers_mut()
                .insert(CONTENT_RANGE, content_range("*", variant.len));
            Ok(response)
        }
    }
}

/// The headers that belong to a representation, whatever part of it is sent.
fn describe(headers: &mut HeaderMap, page: &Page, variant: &Variant) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(ETAG, variant.tag.clone());
    headers.insert(CACHE_CONTROL, REVALIDATE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(coding) = variant.coding {
        headers.insert(
            CONTENT_ENCODING,
            HeaderValue::from_static(Coding::token(coding)),
        );
    }
    if page.varies() {
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// Puts a representation's bytes, or a part of them, into a response.
async fn send(
    site: Site<'_>,
    request: &Parts,
    variant: &Variant,
    part: Option<RangeInclusive<u64>>,
    mut response: Response<Body>,
) -> io::Result<Response<Body>> {
    let (offset, len) = part.map_or((0, variant.len), |part| {
        (*part.start(), part.end() - part.start() + 1)
    });
    if request.method == Method::HEAD {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(len));
    } else if let Some(bytes) = &variant.held {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        *response.body_mut() = Body::whole(bytes.slice(offset..offset + len));
    } else {
        let (dir, path, expected) = (site.dir.try_clone()?, variant.path.clone(), variant.len);
        let open = move || FileReader::open(&dir, &path, expected, offset, len);
        let reader = tokio::task::spawn_blocking(open)
            .await
            .map_err(io::Error::other)??;
        *response.body_mut() = Body::file(reader);
    }
    Ok(response)
}

fn redirect(location: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::from_str(location) else {
        return notice(
            StatusCode::NOT_FOUND,
            "Not found",
            "This site has no page at this address.",
        );
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    // The next release may have a file of this name, so not even this is for ever.
    response.headers_mut().insert(CACHE_CONTROL, REVALIDATE);
    response
}

fn content_range(part: &str, len: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes {part}/{len}"))
        .expect("digits and punctuation are a header value")
}
