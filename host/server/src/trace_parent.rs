//! The trace that a client's request belongs to: `traceparent` of W3C's Trace Context, version 00.

use http::{HeaderMap, HeaderName};

/// The header.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The trace's and the parent's ids, and the flags, each in hexadecimal.
const DIGITS: [usize; 4] = [2, 32, 16, 2];

/// What a request says of its trace, if that is fit for a log.
pub(crate) fn of(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let given = values.next()?.to_str().ok()?;
    let parts: Vec<&str> = given.split('-').take(DIGITS.len() + 1).collect();
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let sane = parts.len() == DIGITS.len()
        && parts[0] == "00"
        && parts
            .iter()
            .zip(DIGITS)
            .all(|(part, digits)| part.len() == digits && part.bytes().all(is_hex));
    (sane && values.next().is_none()).then_some(given)
}

/// The same, if whoever began the trace keeps it: the lowest of its flags says so.
pub(crate) fn sampled(headers: &HeaderMap) -> Option<&str> {
    let kept = |digit: char| digit.to_digit(16).is_some_and(|flags| flags & 1 == 1);
    // Ids of nothing but zeros are none.
    let is_some = |id: &str| id.bytes().any(|digit| digit != b'0');
    of(headers)
        .filter(|given| given.ends_with(kept) && given.split('-').skip(1).take(2).all(is_some))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_trace_is_taken_as_it_is_given_or_not_at_all() {
        let good = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
        let found = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
            }
            of(&headers).map(str::to_owned)
        };
        assert_eq!(found(&[good]).as_deref(), Some(good));
        for bad in [
            &[][..],
            &[""],
            &[good, good],
            &["00-1-2-3"],
            &["01-0123456789abcdef0123456789abcdef-0123456789abcdef-01"],
            &["00-0123456789ABCDEF0123456789abcdef-0123456789abcdef-01"],
            &["00-0123456789abcdef0123456789abcdef-0123456789abcdef-01-x"],
        ] {
            assert_eq!(found(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_trace_that_nobody_keeps_is_none_to_belong_to() {
        for (flags, kept) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let mut headers = HeaderMap::new();
            let given = format!("00-0123456789abcdef0123456789abcdef-0123456789abcdef-{flags}");
            headers.insert(TRACEPARENT, HeaderValue::from_str(&given).unwrap());
            assert_eq!(sampled(&headers).is_some(), kept, "{flags}");
        }
        let mut headers = HeaderMap::new();
        for given in [
            "00-00000000000000000000000000000000-0123456789abcdef-01",
            "00-0123456789abcdef0123456789abcdef-0000000000000000-01",
        ] {
            headers.insert(TRACEPARENT, HeaderValue::from_static(given));
            assert_eq!(sampled(&headers), None, "{given}");
        }
        assert_eq!(sampled(&HeaderMap::new()), None);
    }
}
