//! The name a request is addressed to.

use std::borrow::Cow;

use http::header::HOST;
use http::request::Parts;

/// The longest host name there is (RFC 1035, section 2.3.4); nothing longer is worth looking up.
const NAME_BYTES: usize = 253;

/// A request that does not say, or says twice, or says badly, whom it is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unaddressed;

/// The host a request names: lower-case, without port and without the root's dot. An IPv6 literal
/// keeps its brackets.
///
/// The authority of an absolute request target goes before the `Host` header (RFC 9112, section 3.2.2).
pub(super) fn host_of(request: &Parts) -> Result<Cow<'_, str>, Unaddressed> {
    if let Some(authority) = request.uri.authority() {
        return name_in(authority.as_str());
    }
    let mut values = request.headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => name_in(value.to_str().map_err(|_| Unaddressed)?),
        _ => Err(Unaddressed),
    }
}

fn name_in(authority: &str) -> Result<Cow<'_, str>, Unaddressed> {
    let (name, port) = if authority.starts_with('[') {
        let end = authority.find(']').ok_or(Unaddressed)? + 1;
        let (literal, rest) = authority.split_at(end);
        if !is_address(&literal[1..end - 1]) {
            return Err(Unaddressed);
        }
        (
            literal,
            rest.strip_prefix(':').or(rest.is_empty().then_some("")),
        )
    } else {
        let (name, port) = authority.split_once(':').unwrap_or((authority, ""));
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_name(name) {
            return Err(Unaddressed);
        }
        (name, Some(port))
    };
    match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {}
        _ => return Err(Unaddressed),
    }
    Ok(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

fn is_name(name: &str) -> bool {
    let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && name.len() <= NAME_BYTES && name.bytes().all(label)
}

fn is_address(literal: &str) -> bool {
    literal.parse::<std::net::Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use http::Request;

    use super::*;

    fn host(target: &str, hosts: &[&str]) -> Result<String, Unaddressed> {
        let mut request = Request::get(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        host_of(&parts).map(Cow::into_owned)
    }

    #[test]
    fn a_name_loses_its_case_its_port_and_its_last_dot() {
        assert_eq!(
            host("/", &["Blog.LocalHost.:8080"]).unwrap(),
            "blog.localhost"
        );
        assert_eq!(host("/", &["blog.localhost"]).unwrap(), "blog.localhost");
        assert_eq!(host("/", &["blog.localhost:"]).unwrap(), "blog.localhost");
    }

    #[test]
    fn an_address_literal_is_a_name_too() {
        assert_eq!(host("/", &["[::1]:8080"]).unwrap(), "[::1]");
        assert_eq!(host("/", &["[2001:DB8::1]"]).unwrap(), "[2001:db8::1]");
        assert_eq!(host("/", &["127.0.0.1:80"]).unwrap(), "127.0.0.1");
    }

    #[test]
    fn the_target_goes_before_the_header() {
        assert_eq!(
            host("http://a.localhost:1/x", &["b.localhost"]).unwrap(),
            "a.localhost"
        );
    }

    #[test]
    fn no_host_two_hosts_and_nonsense_are_refused() {
        for hosts in [
            &[][..],
            &["a.localhost", "b.localhost"],
            &[""],
            &["."],
            &["a b"],
            &["a/b"],
            &["user@a.localhost"],
            &["a.localhost:http"],
            &["a:1:2"],
            &["[::1"],
            &["[::1]x"],
            &["[nonsense]"],
            &["caf\u{e9}.localhost"],
        ] {
            assert_eq!(host("/", hosts), Err(Unaddressed), "{hosts:?}");
        }
        assert_eq!(host("/", &["a".repeat(254).as_str()]), Err(Unaddressed));
    }
}
