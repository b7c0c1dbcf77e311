//! The ingress's own small pages. They say what is the matter in words for whoever looks at them, never a
//! name, a path or an error from inside.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};

use super::body::Body;

/// A page with a status, a heading and a sentence. Both are written in this program: nothing is escaped.
pub(super) fn notice(
    status: StatusCode,
    heading: &'static str,
    sentence: &'static str,
) -> Response<Body> {
    let code = status.as_u16();
    let page = format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>
:root {{ color-scheme: light dark; font: 100%/1.6 system-ui, sans-serif }}
body {{ min-height: 90vh; margin: 0; display: grid; place-items: center }}
main {{ max-width: 28rem; padding: 1.5rem; border-left: .25rem solid #2c7da0 }}
small {{ opacity: .65; font-variant-numeric: tabular-nums }}
h1 {{ margin: .2rem 0 .5rem; font-size: 1.5rem; line-height: 1.25 }}
p {{ margin: 0 }}
</style>
<main>
<small>{code}</small>
<h1>{heading}</h1>
<p>{sentence}</p>
</main>
"#
    );
    let mut response = Response::new(Body::whole(Bytes::from(page)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    );
    response
}
