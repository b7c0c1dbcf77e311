//! One byte range of a representation (RFC 9110, section 14).

use http::HeaderValue;

/// What a `Range` header asks of a representation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ranged {
    /// All of it: there is no range, or none that this server reads. Several ranges in one request are
    /// answered with the whole, which is always allowed and cannot be used to multiply work.
    Whole,
    /// Bytes `first..=last`, inside the representation.
    Part { first: u64, last: u64 },
    /// Nothing that exists.
    Unsatisfiable,
}

/// Reads a `Range` header against a representation of `len` bytes.
pub(super) fn parse(header: &HeaderValue, len: u64) -> Ranged {
    // An empty representation has no byte to point at, and is soon sent whole.
    if len == 0 {
        return Ranged::Whole;
    }
    read(header, len).unwrap_or(Ranged::Whole)
}

fn read(header: &HeaderValue, len: u64) -> Option<Ranged> {
    let (unit, spec) = header.to_str().ok()?.split_once('=')?;
    let (first, last) = spec.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    if first.is_empty() {
        return Some(match position(last)? {
            0 => Ranged::Unsatisfiable,
            suffix => Ranged::Part {
                first: len.saturating_sub(suffix),
                last: len - 1,
            },
        });
    }
    let first = position(first)?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        position(last)?
    };
    if first > last {
        return None;
    }
    Some(if first >= len {
        Ranged::Unsatisfiable
    } else {
        Ranged::Part {
            first,
            last: last.min(len - 1),
        }
    })
}

/// A byte position. One too great to count is beyond every file, so it saturates.
fn position(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranged(header: &'static str, len: u64) -> Ranged {
        parse(&HeaderValue::from_static(header), len)
    }

    #[test]
    fn a_range_is_cut_to_what_exists() {
        assert_eq!(ranged("bytes=0-0", 10), Ranged::Part { first: 0, last: 0 });
        assert_eq!(ranged("bytes=2-5", 10), Ranged::Part { first: 2, last: 5 });
        assert_eq!(ranged("bytes=2-", 10), Ranged::Part { first: 2, last: 9 });
        assert_eq!(
            ranged("Bytes = 2-99", 10),
            Ranged::Part { first: 2, last: 9 }
        );
        assert_eq!(
            ranged("bytes=0-99999999999999999999999", 10),
            Ranged::Part { first: 0, last: 9 }
        );
    }

    #[test]
    fn a_suffix_counts_from_the_end() {
        assert_eq!(ranged("bytes=-3", 10), Ranged::Part { first: 7, last: 9 });
        assert_eq!(ranged("bytes=-30", 10), Ranged::Part { first: 0, last: 9 });
        assert_eq!(ranged("bytes=-0", 10), Ranged::Unsatisfiable);
    }

    #[test]
    fn a_range_past_the_end_cannot_be_satisfied() {
        assert_eq!(ranged("bytes=10-", 10), Ranged::Unsatisfiable);
        assert_eq!(ranged("bytes=10-12", 10), Ranged::Unsatisfiable);
        assert_eq!(
            ranged("bytes=99999999999999999999999-", 10),
            Ranged::Unsatisfiable
        );
    }

    #[test]
    fn what_is_not_one_range_of_bytes_means_the_whole() {
        for header in [
            "bytes=0-1,3-4",
            "bytes=5-2",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1 - 2",
            "bytes",
            "pages=1-2",
            "bytes=--1",
        ] {
            assert_eq!(ranged(header, 10), Ranged::Whole, "{header}");
        }
        assert_eq!(ranged("bytes=0-", 0), Ranged::Whole);
    }
}
