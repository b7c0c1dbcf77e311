//! Entity tags, and the conditions a request puts on them (RFC 9110, sections 8.8 and 13).
//!
//! Times play no part: what a release holds has no honest modification time, so no `Last-Modified` is sent
//! and the conditions that need one never match.

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What the conditions of a GET or HEAD come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Go on.
    Holds,
    /// The client has this very representation: 304.
    Unchanged,
    /// The client insists on another one: 412.
    Failed,
}

/// A strong entity tag from a digest. 128 bits are plenty: nobody gains from a tag that meets another's.
pub(super) fn tag(digest: &blake3::Hash) -> HeaderValue {
    let hex = digest.to_hex();
    HeaderValue::try_from(format!("\"{}\"", &hex[..32]))
        .expect("hex digits between quotes are a header value")
}

/// Judges `If-Match`, then `If-None-Match`.
pub(super) fn judge(headers: &HeaderMap, tag: &HeaderValue) -> Condition {
    if headers.contains_key(IF_MATCH) && !names(headers, &IF_MATCH, tag, Comparison::Strong) {
        Condition::Failed
    } else if names(headers, &IF_NONE_MATCH, tag, Comparison::Weak) {
        Condition::Unchanged
    } else {
        Condition::Holds
    }
}

/// Whether a `Range` may be honoured: there is no `If-Range`, or it names this very representation.
pub(super) fn range_applies(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    headers
        .get(IF_RANGE)
        .is_none_or(|condition| condition == tag)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a header's list of tags holds `tag`, or is `*`.
fn names(
    headers: &HeaderMap,
    header: &HeaderName,
    tag: &HeaderValue,
    comparison: Comparison,
) -> bool {
    headers.get_all(header).iter().any(|value| {
        let mut rest = value.as_bytes().trim_ascii();
        if rest == b"*" {
            return true;
        }
        // A tag may hold a comma, so the list is read tag by tag; what follows a broken one is not read.
        loop {
            rest = rest.trim_ascii_start();
            if let Some(after) = rest.strip_prefix(b",") {
                rest = after;
                continue;
            }
            let (strong, opaque) = match rest.strip_prefix(b"W/") {
                Some(opaque) => (false, opaque),
                None => (true, rest),
            };
            let Some(length) = opaque
                .strip_prefix(b"\"")
                .and_then(|inner| inner.iter().position(|byte| *byte == b'"'))
            else {
                return false;
            };
            let (candidate, after) = opaque.split_at(length + 2);
            if candidate == tag.as_bytes() && (strong || comparison == Comparison::Weak) {
                return true;
            }
            rest = after;
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;

    fn judged(header: HeaderName, value: &str) -> Condition {
        let mut headers = HeaderMap::new();
        headers.insert(header, value.parse().unwrap());
        judge(&headers, &HeaderValue::from_static("\"abc\""))
    }

    #[test]
    fn if_none_match_compares_weakly_and_reads_lists() {
        for value in [
            "\"abc\"",
            "W/\"abc\"",
            "\"x\", \"abc\"",
            "\"a,b\" , W/\"abc\"",
            "*",
            ",,\"abc\"",
        ] {
            assert_eq!(
                judged(IF_NONE_MATCH, value),
                Condition::Unchanged,
                "{value}"
            );
        }
        for value in [
            "\"ab\"",
            "abc",
            "\"abc",
            "",
            "\"x\" \"y\"",
            "\"*\"",
            "w/\"abc\"",
        ] {
            assert_eq!(judged(IF_NONE_MATCH, value), Condition::Holds, "{value}");
        }
    }

    #[test]
    fn if_match_compares_strongly() {
        assert_eq!(judged(IF_MATCH, "\"abc\""), Condition::Holds);
        assert_eq!(judged(IF_MATCH, "*"), Condition::Holds);
        assert_eq!(judged(IF_MATCH, "W/\"abc\""), Condition::Failed);
        assert_eq!(judged(IF_MATCH, "\"other\""), Condition::Failed);
    }

    #[test]
    fn a_range_applies_to_the_named_representation_only() {
        let tag = HeaderValue::from_static("\"abc\"");
        let mut headers = HeaderMap::new();
        assert!(range_applies(&headers, &tag));
        headers.insert(IF_RANGE, tag.clone());
        assert!(range_applies(&headers, &tag));
        for other in ["W/\"abc\"", "\"old\"", "Tue, 01 Jan 2030 00:00:00 GMT"] {
            headers.insert(IF_RANGE, other.parse().unwrap());
            assert!(!range_applies(&headers, &tag), "{other}");
        }
    }
}
