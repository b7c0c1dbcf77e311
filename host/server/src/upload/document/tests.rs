#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use base64::engine::general_purpose::STANDARD;

use super::*;

/// Head and package of a body that arrives in these pieces.
fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Option<String>, Vec<u8>), DocumentError> {
    let mut document = Document::new();
    let (mut head, mut package, mut begun) = (None, Vec::new(), false);
    for piece in pieces {
        document.push(Bytes::copy_from_slice(piece));
        while let Some(piece) = document.next()? {
            match piece {
                Piece::Head(text) => head = Some(String::from_utf8(text).unwrap()),
                Piece::Package => begun = true,
                Piece::Upload(name) => package.extend_from_slice(name.as_bytes()),
                Piece::Data(data) => {
                    assert!(begun && !data.is_empty());
                    package.extend_from_slice(&data);
                }
            }
        }
    }
    document.finish()?;
    Ok((head, package))
}

fn whole(body: &str) -> Result<(Option<String>, Vec<u8>), DocumentError> {
    read([body.as_bytes()])
}

#[test]
fn a_document_is_the_same_in_pieces_of_every_size() {
    let package: Vec<u8> = (0..=255).collect();
    let text = STANDARD
        .encode(&package)
        .replace('/', "\\/")
        .replace("==", "=\\u003d");
    let head = r#"{"message":"a \"}\\ b","pipeline":{"install":[{"plugin":"x"}]}}"#;
    let body = format!(" {{ \"head\" :{head} ,\r\n\"package_base64\":\"{text}\" }} \n");
    for size in 1..=body.len() {
        let (found, bytes) = read(body.as_bytes().chunks(size)).unwrap();
        assert_eq!(
            (found.as_deref(), &bytes),
            (Some(head), &package),
            "pieces of {size}"
        );
    }
}

#[test]
fn packages_of_every_length_are_decoded_with_and_without_padding() {
    for length in 0..70 {
        let package = vec![0xa5; length];
        let text = STANDARD.encode(&package);
        for text in [
            text.as_str(),
            text.trim_end_matches('='),
            &text.replace("pa", "p\\r\\na"),
        ] {
            let body = format!("{{\"package_base64\":\"{text}\"}}");
            for size in [1, 3, 4, 5, 1000] {
                assert_eq!(
                    read(body.as_bytes().chunks(size)).unwrap(),
                    (None, package.clone())
                );
            }
        }
    }
}

#[test]
fn a_document_may_name_an_upload_and_then_no_package() {
    let body = r#"{ "upload" : "0198-a" , "head":{"message":"x"} }"#;
    for size in 1..=body.len() {
        let (head, name) = read(body.as_bytes().chunks(size)).unwrap();
        assert_eq!(head.as_deref(), Some(r#"{"message":"x"}"#));
        assert_eq!(name, b"0198-a");
    }
    let long = format!(r#"{{"upload":"{}"}}"#, "x".repeat(MAX_UPLOAD + 1));
    for wrong in [
        long.as_str(),
        r#"{"upload":"a","package_base64":"aGk="}"#,
        r#"{"package_base64":"aGk=","upload":"a"}"#,
        r#"{"upload":"a\u0062"}"#,
    ] {
        assert_eq!(whole(wrong), Err(DocumentError::Upload), "{wrong}");
    }
    let twice = whole(r#"{"upload":"a","upload":"b"}"#);
    assert_eq!(twice, Err(DocumentError::Repeated("upload")));
}

#[test]
fn a_head_may_be_null() {
    let body = r#"{"head":null,"package_base64":"aGk="}"#;
    assert_eq!(whole(body).unwrap(), (None, b"hi".to_vec()));
}

#[test]
fn every_prefix_of_a_document_is_truncated() {
    let body = r#"{"head":{"project":"blog"},"package_base64":"aGVsbG8="}"#;
    for end in 0..body.len() {
        assert_eq!(
            whole(&body[..end]).unwrap_err(),
            DocumentError::Truncated,
            "{end}"
        );
    }
}

#[test]
fn what_is_not_such_a_document_is_refused_with_its_reason() {
    use DocumentError::{Base64, HeadTooLate, NoPackage, Repeated};
    for (body, expected) in [
        (r#"{"package_base64":"aGk=","head":{}}"#, HeadTooLate),
        (
            r#"{"head":{},"head":{},"package_base64":""}"#,
            Repeated("head"),
        ),
        (
            r#"{"package_base64":"","package_base64":""}"#,
            Repeated("package_base64"),
        ),
        (r#"{"head":{}}"#, NoPackage),
        ("{}", NoPackage),
        (r#"{"package_base64":"aGk=aGk="}"#, Base64),
        (r#"{"package_base64":"aGk=\u003d"}"#, Base64),
        (r#"{"package_base64":"aGk==="}"#, Base64),
        (r#"{"package_base64":"a"}"#, Base64),
        (r#"{"package_base64":"aG k="}"#, Base64),
        (r#"{"package_base64":"a-_k"}"#, Base64),
        (r#"{"package_base64":"aGk\t"}"#, Base64),
        (r#"{"package_base64":"aGk\u0100"}"#, Base64),
    ] {
        assert_eq!(whole(body).unwrap_err(), expected, "{body}");
    }
    for body in [
        "[]",
        "tar",
        "{,}",
        r#"{"package_base64":1}"#,
        r#"{"package_base64":"",}"#,
        r#"{"package_base64":""} x"#,
        r#"{"package_base64":""}{}"#,
        r#"{"head":nil}"#,
        r#"{"head":[]}"#,
        r#"{"head" {}}"#,
    ] {
        let error = whole(body).unwrap_err();
        assert!(
            matches!(error, DocumentError::Syntax { .. }),
            "{body}: {error}"
        );
    }
    let unknown = whole(r#"{"packge":""}"#).unwrap_err();
    assert_eq!(unknown, DocumentError::UnknownField("packge".to_owned()));
}

#[test]
fn endless_space_heads_and_keys_are_cut_off() {
    let endless = |start: &str, filler: &str| {
        let filler = filler.repeat(1024);
        let start = std::iter::once(start.as_bytes());
        read(start.chain(std::iter::repeat_n(filler.as_bytes(), 1024))).unwrap_err()
    };
    assert_eq!(endless("{", " "), DocumentError::Space);
    assert_eq!(endless(r#"{"head":{"#, "[[]]"), DocumentError::HeadTooLarge);
    assert!(matches!(endless("{\"", "k"), DocumentError::Syntax { .. }));
}
