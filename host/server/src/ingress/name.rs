//! What a request's path names inside a site, and whether such a name is ever served.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Component, Path};

/// The file that stands for its directory.
pub(super) const INDEX: &str = "index.html";

/// The one dot-directory that is served, at the root of a site only (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// Why a path names nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no path: a broken escape, a control character, bytes that are not UTF-8.
    Malformed,
    /// It is a path, and nothing under such a name is served: `..`, a dot-file, a backslash, an escaped
    /// slash.
    Unserved,
}

/// A path relative to a site's root, decoded once: no empty segment, no dot segment, no separator but `/`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    path: Cow<'a, str>,
    directory: bool,
}

impl<'a> Name<'a> {
    /// Judges the path of a request target.
    pub(super) fn parse(target: &'a str) -> Result<Name<'a>, Refusal> {
        let decoded = decode(target.strip_prefix('/').ok_or(Refusal::Malformed)?)?;
        let directory = decoded.is_empty() || decoded.ends_with('/');
        let path = merge_slashes(decoded);
        if !path.is_empty()
            && !path
                .split('/')
                .enumerate()
                .all(|(at, name)| shown(at, name))
        {
            return Err(Refusal::Unserved);
        }
        Ok(Name { path, directory })
    }

    /// Whether the path ended in a slash: it can only mean a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.directory
    }

    /// The file this name means: itself, or the index of the directory it names.
    pub(super) fn file(&self) -> Cow<'_, str> {
        match (self.directory, self.path.is_empty()) {
            (false, _) => Cow::Borrowed(&self.path),
            (true, true) => Cow::Borrowed(INDEX),
            (true, false) => Cow::Owned(format!("{}/{INDEX}", self.path)),
        }
    }

    /// Where this name is found as a directory: an absolute path, escaped anew, so that it can never be
    /// read as another host (`//host/`) or as another header.
    pub(super) fn as_directory(&self, query: Option<&str>) -> String {
        let mut location = String::with_capacity(self.path.len() + 2);
        location.push('/');
        for byte in self.path.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
                location.push(char::from(byte));
            } else {
                // Writing to a string does not fail.
                let _ = write!(location, "%{byte:02X}");
            }
        }
        location.push('/');
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

/// Whether a path inside a site, links resolved, may be shown.
pub(super) fn is_shown(resolved: &Path) -> bool {
    resolved
        .components()
        .enumerate()
        .all(|(at, component)| match component {
            Component::Normal(name) => name.to_str().is_some_and(|name| shown(at, name)),
            _ => false,
        })
}

fn shown(at: usize, segment: &str) -> bool {
    !segment.starts_with('.') || (at == 0 && segment == WELL_KNOWN)
}

/// Undoes percent-encoding, once. A second layer stays what it is: part of a name.
fn decode(path: &str) -> Result<Cow<'_, str>, Refusal> {
    let decoded = if path.contains('%') {
        let mut bytes = path.bytes();
        let mut decoded = Vec::with_capacity(path.len());
        while let Some(byte) = bytes.next() {
            let byte = match byte {
                b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                    // No file's name holds a slash, so an escaped one names nothing.
                    (Some(2), Some(15)) => return Err(Refusal::Unserved),
                    (Some(high), Some(low)) => high << 4 | low,
                    _ => return Err(Refusal::Malformed),
                },
                plain => plain,
            };
            decoded.push(byte);
        }
        Cow::Owned(String::from_utf8(decoded).map_err(|_| Refusal::Malformed)?)
    } else {
        Cow::Borrowed(path)
    };
    if decoded.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Refusal::Malformed);
    }
    if decoded.contains('\\') {
        return Err(Refusal::Unserved);
    }
    Ok(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Drops empty segments, as file systems do.
fn merge_slashes(path: Cow<'_, str>) -> Cow<'_, str> {
    match path {
        Cow::Borrowed(path) if !path.starts_with('/') && !path.contains("//") => {
            Cow::Borrowed(path.strip_suffix('/').unwrap_or(path))
        }
        path => {
            let mut merged = String::with_capacity(path.len());
            for segment in path.split('/').filter(|segment| !segment.is_empty()) {
                if !merged.is_empty() {
                    merged.push('/');
                }
                merged.push_str(segment);
            }
            Cow::Owned(merged)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;

    fn file(target: &str) -> String {
        Name::parse(target).unwrap().file().into_owned()
    }

    #[test]
    fn a_path_names_a_file_and_a_trailing_slash_an_index() {
        assert_eq!(file("/"), "index.html");
        assert_eq!(file("/a/b.css"), "a/b.css");
        assert_eq!(file("/a/"), "a/index.html");
        assert_eq!(file("/a%20b/%C3%A9.txt"), "a b/\u{e9}.txt");
        assert_eq!(file("//a///b"), "a/b");
        assert_eq!(file("//"), "index.html");
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(file("/%2561"), "%61");
        assert_eq!(file("/%252e%252e/x"), "%2e%2e/x");
        assert_eq!(file("/a%252fb"), "a%2fb");
    }

    #[test]
    fn dot_names_backslashes_and_escaped_slashes_are_never_served() {
        for target in [
            "/..",
            "/../x",
            "/a/../b",
            "/%2e%2e/x",
            "/.%2E/x",
            "/./x",
            "/.env",
            "/%2eenv",
            "/a/.git/config",
            "/a/.well-known/x",
            "/.well-known2",
            "/.well-known/.x",
            "/..%5cx",
            "/a\\..\\b",
            "/a%2fb",
            "/..%2f..%2fetc/passwd",
        ] {
            assert_eq!(Name::parse(target), Err(Refusal::Unserved), "{target}");
        }
        assert_eq!(
            file("/.well-known/security.txt"),
            ".well-known/security.txt"
        );
        assert_eq!(file("/a..b/c."), "a..b/c.");
    }

    #[test]
    fn what_is_no_path_is_malformed() {
        for target in [
            "*",
            "",
            "/%",
            "/%4",
            "/%zz",
            "/a%00b",
            "/a%0d%0ab",
            "/%7f",
            "/%ff",
            "/%c3",
        ] {
            assert_eq!(Name::parse(target), Err(Refusal::Malformed), "{target}");
        }
    }

    #[test]
    fn a_redirect_stays_on_its_host() {
        let location = |target| Name::parse(target).unwrap().as_directory(Some("a=b"));
        assert_eq!(location("//evil.example"), "/evil.example/?a=b");
        assert_eq!(location("/d%C3%A9%20%3F%25"), "/d%C3%A9%20%3F%25/?a=b");
        assert_eq!(Name::parse("/docs").unwrap().as_directory(None), "/docs/");
    }

    #[test]
    fn a_resolved_path_is_judged_like_a_name() {
        assert!(is_shown(Path::new("a/b.txt")));
        assert!(is_shown(Path::new(".well-known/acme")));
        for hidden in [
            ".env",
            "a/.env",
            "../a",
            "a/.well-known/b",
            "/etc/passwd",
            ".",
        ] {
            assert!(!is_shown(Path::new(hidden)), "{hidden}");
        }
    }
}
