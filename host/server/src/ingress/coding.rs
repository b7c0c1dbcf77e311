//! Content codings: what a client accepts, and which precompressed sibling it gets.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// A content coding that a release may hold ready beside a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

impl Coding {
    /// Every coding, the one that usually makes the smallest file first.
    pub(super) const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    /// Its name in `Content-Encoding`.
    pub(super) fn token(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    /// What a sibling's name ends in.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Coding::Brotli => ".br",
            Coding::Zstd => ".zst",
            Coding::Gzip => ".gz",
        }
    }
}

/// What a request's `Accept-Encoding` says, in thousandths: 0 is "not acceptable".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    brotli: u16,
    zstd: u16,
    gzip: u16,
    identity: u16,
}

/// A coding that nobody named is not acceptable, but the plain file always is, last.
const UNNAMED_IDENTITY: u16 = 1;

impl Accepted {
    /// Reads every `Accept-Encoding` of a request. An element that cannot be read counts as absent.
    pub(super) fn of(headers: &HeaderMap) -> Accepted {
        let (mut brotli, mut zstd, mut gzip, mut identity, mut any) =
            (None, None, None, None, None);
        for value in headers.get_all(ACCEPT_ENCODING) {
            let Ok(value) = value.to_str() else { continue };
            for element in value.split(',') {
                let (token, weight) = element.split_once(';').unwrap_or((element, "q=1"));
                let token = token.trim();
                let slot = if token.eq_ignore_ascii_case("br") {
                    &mut brotli
                } else if token.eq_ignore_ascii_case("zstd") {
                    &mut zstd
                } else if token.eq_ignore_ascii_case("gzip") || token.eq_ignore_ascii_case("x-gzip")
                {
                    &mut gzip
                } else if token.eq_ignore_ascii_case("identity") {
                    &mut identity
                } else if token == "*" {
                    &mut any
                } else {
                    continue;
                };
                *slot = thousandths(weight.trim()).or(*slot);
            }
        }
        let named = |weight: Option<u16>| weight.or(any).unwrap_or(0);
        Accepted {
            brotli: named(brotli),
            zstd: named(zstd),
            gzip: named(gzip),
            identity: match (identity, any) {
                (Some(weight), _) => weight,
                (None, Some(0)) => 0,
                _ => UNNAMED_IDENTITY,
            },
        }
    }

    /// How much a coding, or the plain file, is wanted.
    pub(super) fn weight(self, coding: Option<Coding>) -> u16 {
        match coding {
            Some(Coding::Brotli) => self.brotli,
            Some(Coding::Zstd) => self.zstd,
            Some(Coding::Gzip) => self.gzip,
            None => self.identity,
        }
    }
}

/// Reads `q=0.5` as 500; at most three decimals (RFC 9110, section 12.4.2).
fn thousandths(weight: &str) -> Option<u16> {
    let value = weight.strip_prefix("q=").or(weight.strip_prefix("Q="))?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(3)
        .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match (whole, fraction) {
        ("0", fraction) => Some(fraction),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;

    fn accepted(values: &[&str]) -> [u16; 4] {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT_ENCODING, value.parse().unwrap());
        }
        let accepted = Accepted::of(&headers);
        [
            accepted.brotli,
            accepted.zstd,
            accepted.gzip,
            accepted.identity,
        ]
    }

    #[test]
    fn weights_are_read_per_coding() {
        assert_eq!(accepted(&[]), [0, 0, 0, 1]);
        assert_eq!(
            accepted(&["gzip, deflate, br, zstd"]),
            [1000, 1000, 1000, 1]
        );
        assert_eq!(
            accepted(&["br;q=0.9, gzip ; q=0.25,identity;q=0.5"]),
            [900, 0, 250, 500]
        );
        assert_eq!(accepted(&["GZIP", "br;Q=0.001"]), [1, 0, 1000, 1]);
        assert_eq!(accepted(&["x-gzip"]), [0, 0, 1000, 1]);
    }

    #[test]
    fn a_star_speaks_for_what_is_not_named() {
        assert_eq!(accepted(&["*;q=0.5, br;q=0"]), [0, 500, 500, 1]);
        assert_eq!(accepted(&["gzip, *;q=0"]), [0, 0, 1000, 0]);
        assert_eq!(accepted(&["identity;q=0"]), [0, 0, 0, 0]);
    }

    #[test]
    fn nonsense_counts_as_absent() {
        assert_eq!(
            accepted(&["br;q=2, gzip;q=0.1234, zstd;level=3, ,;;"]),
            [0, 0, 0, 1]
        );
        assert_eq!(accepted(&["br;q=1.001, gzip;q=-1, zstd;q="]), [0, 0, 0, 1]);
    }
}
