#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::{Duration, Instant};

use super::*;

/// The parts of a body: name, content type and bytes.
type Parts = Vec<(String, Option<String>, Vec<u8>)>;

fn boundary(text: &str) -> Result<Boundary, MultipartError> {
    let content_type = format!("multipart/form-data; boundary={text}");
    Boundary::of(&Parameters::parse(&content_type).unwrap())
}

fn parser() -> Multipart {
    Multipart::new(&boundary("XyZ").unwrap())
}

/// Parses a body that arrives in these pieces.
fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Parts, MultipartError> {
    let mut parser = parser();
    let mut parts = Parts::new();
    for piece in pieces {
        parser.push(Bytes::copy_from_slice(piece));
        while let Some(piece) = parser.next()? {
            match piece {
                Piece::Part(head) => parts.push((head.name, head.content_type, Vec::new())),
                Piece::Data(data) => {
                    assert!(!data.is_empty());
                    parts.last_mut().unwrap().2.extend_from_slice(&data);
                }
            }
        }
    }
    parser.finish()?;
    Ok(parts)
}

fn whole(body: &[u8]) -> Result<Parts, MultipartError> {
    parse([body])
}

/// A form whose package is full of what is nearly a delimiter.
fn tricky() -> (Vec<u8>, Parts) {
    let head = br#"{"message":"hi"}"#.to_vec();
    let package = b"\r\n--Xy\r\r\n\r\n--XyA\n--XyZ\r\n-\r\n--\r\n--XyZ".to_vec();
    let package = [&package[..package.len() - 3], b"Q\r\n\r", b"\r\n--X"].concat();
    let mut body = b"\r\n--XyZ \t\r\nContent-Disposition: form-data; name=\"head\"\r\n".to_vec();
    body.extend_from_slice(b"Content-Type: application/json; charset=utf-8\r\nX-Other: 1\r\n\r\n");
    body.extend_from_slice(&head);
    body.extend_from_slice(b"\r\n--XyZ\r\ncontent-disposition:form-data;name=package;");
    body.extend_from_slice(b"filename=\"a.tar\"\r\n\r\n");
    body.extend_from_slice(&package);
    body.extend_from_slice(b"\r\n--XyZ--\r\n");
    let parts = vec![
        ("head".to_owned(), Some("application/json".to_owned()), head),
        ("package".to_owned(), None, package),
    ];
    (body, parts)
}

#[test]
fn a_form_is_the_same_however_it_is_split_in_two() {
    let (body, parts) = tricky();
    assert_eq!(whole(&body).unwrap(), parts);
    for at in 0..=body.len() {
        let (before, after) = body.split_at(at);
        assert_eq!(parse([before, after]).unwrap(), parts, "split at {at}");
    }
}

#[test]
fn a_form_is_the_same_in_pieces_of_every_size() {
    let (body, parts) = tricky();
    for size in 1..=body.len() {
        assert_eq!(parse(body.chunks(size)).unwrap(), parts, "pieces of {size}");
    }
}

#[test]
fn a_form_is_the_same_in_pieces_of_random_sizes() {
    let (body, parts) = tricky();
    // xorshift64: the same pieces in every run.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..2000 {
        let mut pieces = Vec::new();
        let mut rest = body.as_slice();
        while !rest.is_empty() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let size = usize::try_from(random % 17).unwrap().clamp(1, rest.len());
            let (piece, others) = rest.split_at(size);
            pieces.push(piece);
            rest = others;
        }
        assert_eq!(parse(pieces).unwrap(), parts, "round {round}");
    }
}

#[test]
fn every_prefix_of_a_form_is_truncated() {
    let (body, _) = tricky();
    let last = body.len() - b"\r\n".len();
    for end in 0..last {
        assert_eq!(
            whole(&body[..end]).unwrap_err(),
            MultipartError::Truncated,
            "{end}"
        );
    }
    assert!(whole(&body[..last]).is_ok());
}

#[test]
fn a_part_of_any_bytes_survives() {
    for filler in [b'\r', b'\n', b'-', b'X', 0] {
        for length in 0..200 {
            let package = vec![filler; length];
            let mut body = b"--XyZ\r\nContent-Disposition: form-data; name=a\r\n\r\n".to_vec();
            body.extend_from_slice(&package);
            body.extend_from_slice(b"\r\n--XyZ--");
            for size in [1, 2, 3, 7, 1000] {
                let parts = parse(body.chunks(size)).unwrap();
                assert_eq!(
                    parts[0].2, package,
                    "{length} of {filler} in pieces of {size}"
                );
            }
        }
    }
}

#[test]
fn nothing_may_follow_the_last_delimiter() {
    let form = |end: &str| {
        format!("--XyZ\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--XyZ--{end}")
    };
    for good in ["", "\r\n", "  \t", " \r\n"] {
        assert!(whole(form(good).as_bytes()).is_ok(), "{good:?}");
    }
    for bad in ["x", "\r\nx", "\r\n\r\n", "-", "\r", "\n", &" ".repeat(65)] {
        assert_eq!(
            whole(form(bad).as_bytes()).unwrap_err(),
            MultipartError::Trailing,
            "{bad:?}"
        );
    }
}

#[test]
fn a_line_that_only_begins_with_the_boundary_is_refused() {
    for line in [
        "--XyZA\r\n",
        "--XyZ-\r\n",
        "--XyZ\n",
        "--XyZ\rx",
        "--XyZ  x\r\n",
    ] {
        let error = whole(line.as_bytes()).unwrap_err();
        assert_eq!(error, MultipartError::Delimiter, "{line:?}");
    }
    let padded = format!("--XyZ{}\r\n", " ".repeat(MAX_PADDING + 1));
    assert_eq!(
        whole(padded.as_bytes()).unwrap_err(),
        MultipartError::Delimiter
    );
}

#[test]
fn a_malformed_part_head_is_refused() {
    for head in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Disposition: attachment; name=a\r\n",
        "Content-Disposition: form-data\r\n",
        "Content-Disposition: form-data; name=a; name=b\r\n",
        "Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b\r\n",
        "Content-Disposition: form-data;\r\n name=a\r\n",
        "Content-Disposition: form-data; name=a\r\nno colon\r\n",
        "Content-Disposition : form-data; name=a\r\n",
        "Content-Disposition: form-data; name=a\r\nX: \u{1b}[31m\r\n",
        "Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64\r\n",
        "Content-Disposition: form-data; name=a\n",
    ] {
        let body = format!("--XyZ\r\n{head}\r\nx\r\n--XyZ--\r\n");
        let error = whole(body.as_bytes()).unwrap_err();
        assert!(
            matches!(error, MultipartError::Header(_)),
            "{head:?}: {error}"
        );
    }
    let many = format!("--XyZ\r\n{}\r\n", "X: 1\r\n".repeat(MAX_PART_HEADERS + 1));
    assert_eq!(
        whole(many.as_bytes()).unwrap_err(),
        MultipartError::HeadTooLarge
    );
}

#[test]
fn a_boundary_is_of_the_letters_that_rfc_2046_allows() {
    for good in [
        "a",
        "\"a b\"",
        "----WebKitFormBoundary7MA4YWxkTrZu0gW",
        &"x".repeat(70),
    ] {
        assert!(boundary(good).is_ok(), "{good}");
    }
    for bad in [
        "\"\"",
        "\"a \"",
        "\"a\rb\"",
        "a@b",
        "\"ä\"",
        &"x".repeat(71),
    ] {
        assert_eq!(
            boundary(bad).unwrap_err(),
            MultipartError::Boundary,
            "{bad}"
        );
    }
    let none = Parameters::parse("multipart/form-data").unwrap();
    assert_eq!(Boundary::of(&none).unwrap_err(), MultipartError::Boundary);
}

/// Pushes 64 MiB of `filler` in small pieces and says how it ended, and how fast.
fn flood(start: &[u8], filler: &[u8]) -> Result<(), MultipartError> {
    let before = Instant::now();
    let mut parser = parser();
    let piece = Bytes::from(filler.repeat(1024 / filler.len()));
    let mut result = Ok(());
    parser.push(Bytes::copy_from_slice(start));
    for _ in 0..64 * 1024 {
        loop {
            match parser.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_err() {
            break;
        }
        assert!(parser.collected.len() <= MAX_PART_HEAD);
        parser.push(piece.clone());
    }
    // A parser that looks at bytes again and again takes minutes.
    assert!(
        before.elapsed() < Duration::from_secs(20),
        "{:?}",
        before.elapsed()
    );
    result
}

#[test]
fn endless_preambles_headers_and_parts_cost_little() {
    assert_eq!(
        flood(b"", b"preamble").unwrap_err(),
        MultipartError::Preamble
    );
    assert_eq!(
        flood(b"", b"\r\n--XyA").unwrap_err(),
        MultipartError::Preamble
    );
    assert_eq!(
        flood(b"--XyZ\r\n", b"X").unwrap_err(),
        MultipartError::HeadTooLarge
    );
    assert_eq!(
        flood(b"--XyZ\r\n", b"X: 1\r\n").unwrap_err(),
        MultipartError::HeadTooLarge
    );
    assert_eq!(
        flood(b"--XyZ", b" ").unwrap_err(),
        MultipartError::Delimiter
    );
    let part = b"--XyZ\r\nContent-Disposition: form-data; name=a\r\n\r\n";
    for filler in [&b"\r"[..], b"\r\n--Xy", b"\r\n--XyA", b"data"] {
        assert_eq!(flood(part, filler), Ok(()));
    }
}
