//! What is checked of a request before anything is resolved or connected.

use http::header::{CONTENT_LENGTH, HOST, TE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};

use super::super::failure::{Failure, LENGTH, OUTCOME, TIMES};
use super::super::grant::{Host, HostPort, NetGrant};

/// Headers that are about one connection, and so not a guest's to set nor an upstream's to show it.
pub(super) const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "trailer",
    "alt-svc",
];

/// A request that may be sent.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) target: HostPort,
    pub(super) tls: bool,
    /// The path and the query alone.
    pub(super) path: Uri,
}

/// Whom a request is for. Only the one plain form of a name or an address is read.
pub(super) fn target(uri: &Uri) -> Result<HostPort, Failure> {
    let authority = uri.authority().ok_or(Failure::Uri)?.as_str();
    if let Ok(target) = authority.parse() {
        return Ok(target);
    }
    let host: Host = authority.parse().map_err(|_| Failure::Denied)?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Ok(HostPort::new(host, 443)),
        Some(scheme) if *scheme == Scheme::HTTP => Ok(HostPort::new(host, 80)),
        _ => Err(Failure::Uri),
    }
}

/// Refuses what was not granted, and what could mean one thing here and another to the upstream.
pub(super) fn request<B>(
    grant: &NetGrant,
    target: HostPort,
    request: &Request<B>,
) -> Result<Checked, Failure> {
    let uri = request.uri();
    if !grant.hosts.contains(&target) || request.method() == Method::CONNECT {
        return Err(Failure::Denied);
    }
    let tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(Failure::Uri),
    };
    let headers = request.headers();
    if HOP_BY_HOP.iter().any(|name| headers.contains_key(*name)) {
        return Err(Failure::Denied);
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let same = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
    if !headers.get_all(HOST).iter().all(same) || headers.get_all(HOST).iter().count() > 1 {
        return Err(Failure::Denied);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        if !plain || lengths.next().is_some() {
            return Err(Failure::Denied);
        }
    }
    // Anything else would be read as another host by who believes the first line of a request.
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = match path.as_bytes() {
        [b'/', ..] => path.to_owned(),
        [] | [b'?', ..] => format!("/{path}"),
        _ => return Err(Failure::Uri),
    };
    let path = PathAndQuery::try_from(path).map_err(|_| Failure::Uri)?;
    Ok(Checked {
        target,
        tls,
        path: path.into(),
    })
}

/// The headers that go to the upstream.
pub(super) fn outgoing(mut headers: HeaderMap, uri: &Uri) -> Result<HeaderMap, Failure> {
    for name in [TIMES, OUTCOME, LENGTH, TE] {
        headers.remove(name);
    }
    let authority = uri.authority().ok_or(Failure::Uri)?.as_str();
    let host = HeaderValue::try_from(authority).map_err(|_| Failure::Uri)?;
    headers.insert(HOST, host);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(change: impl FnOnce(&mut Request<()>)) -> Result<Checked, Failure> {
        let grant = NetGrant {
            hosts: vec![
                "example.org:443".parse().unwrap(),
                "127.0.0.1:80".parse().unwrap(),
            ],
            ..NetGrant::default()
        };
        let mut asked = Request::new(());
        *asked.uri_mut() = Uri::from_static("https://example.org/a?b=c");
        change(&mut asked);
        let target = target(asked.uri())?;
        request(&grant, target, &asked)
    }

    fn uri(text: &str) -> Result<Checked, Failure> {
        let uri = text.parse().map_err(|_| Failure::Uri)?;
        check(|request| *request.uri_mut() = uri)
    }

    #[test]
    fn a_granted_request_is_sent_in_its_plain_form() {
        let checked = check(|_| {}).unwrap();
        assert_eq!(checked.target.to_string(), "example.org:443");
        assert!(checked.tls);
        assert_eq!(checked.path.to_string(), "/a?b=c");
        assert!(uri("https://EXAMPLE.org:443/").is_ok());
        assert!(!uri("http://127.0.0.1/").unwrap().tls);
    }

    #[test]
    fn what_was_not_granted_or_could_be_read_otherwise_is_refused() {
        for text in [
            "http://example.org/",
            "https://example.org:8443/",
            "https://sub.example.org/",
            "https://example.org./",
            "https://user@example.org/",
            "https://example.org:0443/",
            "https://example.org:/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::1%25lo]/",
            "http://%3127.0.0.1/",
            "ftp://example.org/",
        ] {
            assert!(uri(text).is_err(), "{text}");
        }
        assert!(check(|request| *request.method_mut() = Method::CONNECT).is_err());
        for (name, value) in [
            ("host", "evil.example"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("content-length", "+5"),
            ("content-length", "5, 6"),
        ] {
            let refused = check(|request| {
                request
                    .headers_mut()
                    .insert(name, HeaderValue::from_static(value));
            });
            assert!(refused.is_err(), "{name}: {value}");
        }
        let two = check(|request| {
            let headers = request.headers_mut();
            headers.append("content-length", HeaderValue::from_static("5"));
            headers.append("content-length", HeaderValue::from_static("6"));
        });
        assert!(two.is_err());
    }
}
