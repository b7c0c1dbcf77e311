//! What kind of archive a package is: by its content type, else by its first bytes.

use super::parameters::is_token;

/// How many of a package's first bytes are needed to tell: the magic of a tar header ends here.
pub(crate) const SNIFFED_BYTES: usize = 262;

/// The longest media type that is believed: each of its two halves has at most 127 characters (RFC 6838).
const MAX_MEDIA_TYPE: usize = 255;

/// Where the magic of a tar header begins (POSIX ustar; GNU and pax use the same place).
const TAR_MAGIC_AT: usize = 257;

/// What archives begin with, and where.
const MAGIC: [(usize, &[u8], &str); 6] = [
    (0, &[0x1f, 0x8b], "application/gzip"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "application/zstd"),
    (0, b"PK\x03\x04", "application/zip"),
    // An archive without entries begins with its end record.
    (0, b"PK\x05\x06", "application/zip"),
    (TAR_MAGIC_AT, b"ustar", "application/x-tar"),
    (0, b"\0asm", "application/wasm"),
];

/// Content types that name a format, and the name that is recorded for it.
const NAMED: [(&str, &str); 9] = [
    ("application/gzip", "application/gzip"),
    ("application/x-gzip", "application/gzip"),
    ("application/x-gtar-compressed", "application/gzip"),
    ("application/x-compressed-tar", "application/gzip"),
    ("application/zstd", "application/zstd"),
    ("application/x-zstd", "application/zstd"),
    ("application/zip", "application/zip"),
    ("application/x-zip-compressed", "application/zip"),
    ("application/x-tar", "application/x-tar"),
];

/// Content types that clients send when nobody told them what the bytes are.
const SAYS_NOTHING: [&str; 3] = [
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "binary/octet-stream",
];

/// The media type to record for a package: what its sender said, if that says something, else what its
/// first bytes look like, else nothing.
pub(crate) fn media_type(declared: Option<&str>, first: &[u8]) -> Option<String> {
    let declared =
        declared.filter(|declared| is_media_type(declared) && !SAYS_NOTHING.contains(declared));
    let named = |declared: &str| {
        let known = NAMED.iter().find(|(alias, _)| *alias == declared);
        known.map_or_else(|| declared.to_owned(), |(_, name)| (*name).to_owned())
    };
    declared
        .map(named)
        .or_else(|| sniff(first).map(str::to_owned))
}

/// Whether a text has the form `type/subtype`, so that it can be recorded and given back in a header.
fn is_media_type(text: &str) -> bool {
    let (kind, subtype) = text.split_once('/').unwrap_or_default();
    text.len() <= MAX_MEDIA_TYPE && is_token(kind) && is_token(subtype)
}

fn sniff(first: &[u8]) -> Option<&'static str> {
    let begins = |(at, magic, _): &&(usize, &[u8], &str)| {
        first.get(*at..).is_some_and(|rest| rest.starts_with(magic))
    };
    MAGIC.iter().find(begins).map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_wins_when_it_says_something() {
        let gzip = [0x1f, 0x8b, 8, 0];
        assert_eq!(
            media_type(Some("application/x-tar"), &gzip).as_deref(),
            Some("application/x-tar")
        );
        assert_eq!(
            media_type(Some("application/x-gzip"), b"").as_deref(),
            Some("application/gzip")
        );
        assert_eq!(
            media_type(Some("font/woff"), &gzip).as_deref(),
            Some("font/woff")
        );
        for silent in SAYS_NOTHING
            .into_iter()
            .chain(["tar", "a/b/c", "text/ä", "/", ""])
        {
            assert_eq!(
                media_type(Some(silent), &gzip).as_deref(),
                Some("application/gzip")
            );
        }
    }

    #[test]
    fn the_first_bytes_tell_what_curl_does_not() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (first, expected) in [
            (&tar[..SNIFFED_BYTES], Some("application/x-tar")),
            (&[0x28, 0xb5, 0x2f, 0xfd, 0], Some("application/zstd")),
            (b"PK\x03\x04..", Some("application/zip")),
            (b"PK\x01\x02..", None),
            (b"", None),
            (&tar[..SNIFFED_BYTES - 1], None),
        ] {
            assert_eq!(media_type(None, first).as_deref(), expected);
        }
    }
}
