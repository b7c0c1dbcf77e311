//! The id of a request: its client's own, if it sends one that can be repeated, else one that is made here.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header that carries it, both ways.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id of a client's that is believed; what proxies make has 20 to 55 characters.
const MAX_LENGTH: usize = 64;

/// A request's id, fit for a header, a log and a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The id that a request carries, or a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(X_REQUEST_ID).iter();
        let given = values.next().and_then(|value| value.to_str().ok());
        match (given, values.next()) {
            (Some(given), None) if is_sane(given) => Self(given.to_owned()),
            _ => Self(Uuid::now_v7().to_string()),
        }
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// As a header's value.
    pub(crate) fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("it has only letters, digits and - . _")
    }
}

/// What a log can hold without being misread, and a browser without being misled.
fn is_sane(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn id(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_REQUEST_ID, HeaderValue::from_str(value).unwrap());
        }
        RequestId::of(&headers).0
    }

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        assert_eq!(id(&["abc-1.2_3"]), "abc-1.2_3");
        let long = "x".repeat(65);
        for other in [
            &[][..],
            &[""],
            &["a b"],
            &["a\"b"],
            &["a", "a"],
            &["a{}"],
            &[&long],
        ] {
            let made = id(other);
            assert!(Uuid::try_parse(&made).is_ok(), "{other:?}: {made}");
        }
    }
}
