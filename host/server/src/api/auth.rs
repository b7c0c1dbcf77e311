//! Bearer tokens (RFC 6750), in the `Authorization` header and nowhere else: what is in a query ends up
//! in logs.

use cofferdam_deploy::{Host, Identity};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::problem::Problem;

/// What a client without a token is told.
const NO_TOKEN: &str = "Bearer realm=\"cofferdam\"";

/// What a client with a wrong one is told.
pub(super) const BAD_TOKEN: &str = "Bearer realm=\"cofferdam\", error=\"invalid_token\"";

/// Finds out who asks.
pub(super) fn identify(host: &Host, headers: &HeaderMap) -> Result<Identity, Problem> {
    let token = bearer(headers)?;
    match host.tokens().authenticate(token) {
        Some(identity) => Ok(identity),
        None => Err(Problem::unauthorized(
            "the token is not known, or has expired",
            BAD_TOKEN,
        )),
    }
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let wants =
        "send Authorization: Bearer TOKEN; the first token is in admin.token in the data directory";
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(Problem::unauthorized(wants, NO_TOKEN));
    };
    if values.next().is_some() {
        return Err(Problem::unauthorized(
            "there are two Authorization headers",
            BAD_TOKEN,
        ));
    }
    let malformed = || Problem::unauthorized(wants, BAD_TOKEN);
    let value = value.to_str().map_err(|_| malformed())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(malformed)?;
    let token = token.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
        Ok(token)
    } else {
        Err(malformed())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use http::HeaderValue;

    fn found(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        bearer(&headers).ok().map(str::to_owned)
    }

    #[test]
    fn a_token_comes_once_and_by_the_bearer_scheme() {
        assert_eq!(found(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(found(&["bearer  abc "]).as_deref(), Some("abc"));
        for wrong in [
            &[][..],
            &["abc"],
            &["Basic abc"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a", "Bearer a"],
        ] {
            assert_eq!(found(wrong), None, "{wrong:?}");
        }
    }
}
