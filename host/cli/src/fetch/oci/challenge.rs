//! What a registry asks for before it gives something: the `WWW-Authenticate` header.

use serde::Deserialize;

/// What a client is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user and a password.
    Basic,
    /// A token, from the service at the realm.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads one header's value; one that asks for something else is `None`.
    pub(super) fn parse(value: &str) -> Option<Challenge> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        for (name, value) in parameters(rest) {
            match name.as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
        }
        Some(Challenge::Bearer {
            realm: realm?,
            service,
        })
    }
}

/// `name="value"` pairs between commas; a quoted value may hold commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let after = after.trim_start();
        let value;
        if let Some(quoted) = after.strip_prefix('"') {
            let mut text = String::new();
            let mut characters = quoted.chars();
            loop {
                match characters.next() {
                    Some('\\') => text.extend(characters.next()),
                    Some('"') | None => break,
                    Some(other) => text.push(other),
                }
            }
            value = text;
            rest = characters.as_str();
        } else {
            let end = after.find(',').unwrap_or(after.len());
            value = after[..end].trim().to_owned();
            rest = &after[end..];
        }
        found.push((name, value));
    }
    found
}

/// The token in a service's answer.
pub(super) fn token(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(text).ok()?;
    let token = answer.token.or(answer.access_token)?;
    // It goes into a header.
    token
        .bytes()
        .all(|byte| byte.is_ascii_graphic())
        .then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_says_where_to_get_a_token() {
        let bearer = Challenge::parse(
            r#"Bearer realm="https://auth.example/token?a=1,2",service="registry \"x\"",scope="repository:a:pull""#,
        );
        assert_eq!(
            bearer,
            Some(Challenge::Bearer {
                realm: "https://auth.example/token?a=1,2".to_owned(),
                service: Some("registry \"x\"".to_owned()),
            })
        );
        assert_eq!(
            Challenge::parse("Basic realm=\"x\""),
            Some(Challenge::Basic)
        );
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer"), None);
        assert_eq!(
            Challenge::parse("Bearer realm=\"unfinished"),
            Some(Challenge::Bearer {
                realm: "unfinished".to_owned(),
                service: None,
            })
        );
    }

    #[test]
    fn a_token_has_either_name_and_fits_a_header() {
        assert_eq!(token(br#"{"token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(token(br#"{"access_token":"b"}"#).as_deref(), Some("b"));
        assert_eq!(token(br#"{"token":"a\r\nb"}"#), None);
        assert_eq!(token(b"{}"), None);
    }
}
