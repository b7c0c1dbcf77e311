//! Header values of the form `value; name=value; name="value"` (RFC 9110, section 5.6.6).

/// The most parameters that are read. `multipart/form-data` has one, a part's disposition two.
const MAX_PARAMETERS: usize = 8;

/// A header value and its parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// What comes before the first `;`, in lower case.
    pub(crate) value: String,
    parameters: Vec<(String, String)>,
}

impl Parameters {
    /// Reads a header value; nothing when it is malformed or names a parameter twice.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (value, mut rest) = match text.split_once(';') {
            Some((value, rest)) => (value, Some(rest)),
            None => (text, None),
        };
        let value = value.trim_matches([' ', '\t']).to_ascii_lowercase();
        let mut parameters: Vec<(String, String)> = Vec::new();
        while let Some(text) = rest {
            let text = text.trim_start_matches([' ', '\t']);
            if text.is_empty() {
                break;
            }
            let (name, text) = text.split_once('=')?;
            let name = name.to_ascii_lowercase();
            let (value, text) = match text.strip_prefix('"') {
                Some(text) => quoted(text)?,
                None => {
                    let end = text.find(';').unwrap_or(text.len());
                    let value = text[..end].trim_end_matches([' ', '\t']);
                    (value.to_owned(), &text[end..])
                }
            };
            let repeated = parameters.iter().any(|(known, _)| *known == name);
            if repeated || !is_token(&name) || parameters.len() == MAX_PARAMETERS {
                return None;
            }
            parameters.push((name, value));
            let text = text.trim_start_matches([' ', '\t']);
            rest = match text.strip_prefix(';') {
                Some(text) => Some(text),
                None if text.is_empty() => None,
                None => return None,
            };
        }
        Some(Self { value, parameters })
    }

    /// The value of a parameter, by its name in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A quoted string after its first quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// Whether a text is a token of RFC 9110, section 5.6.2: the form of a header's or parameter's name.
pub(crate) fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn values_and_parameters_are_told_apart() {
        let plain = Parameters::parse("Application/JSON").unwrap();
        assert_eq!(
            (plain.value.as_str(), plain.get("charset")),
            ("application/json", None)
        );
        let form =
            Parameters::parse("form-data; Name=head ;filename=\"a \\\"b\\\"; c\" ; ").unwrap();
        assert_eq!(form.value, "form-data");
        assert_eq!(form.get("name"), Some("head"));
        assert_eq!(form.get("filename"), Some("a \"b\"; c"));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for text in [
            "form-data; name=a; name=b",
            "form-data; name=\"a",
            "form-data; name=\"a\\",
            "form-data; name=\"a\"b",
            "form-data; name",
            "form-data; na me=a",
            "form-data; =a",
        ] {
            assert_eq!(Parameters::parse(text), None, "{text}");
        }
        let many = format!("a{}", "; p=1".repeat(9));
        assert_eq!(Parameters::parse(&many), None);
    }
}
