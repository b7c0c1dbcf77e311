#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use futures::stream;
use http::HeaderValue;

use super::*;

const MAX: u64 = 1 << 20;

/// A body that arrives in pieces of this size.
fn body(bytes: &[u8], size: usize) -> Body {
    let pieces: Vec<_> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
    Body::from_stream(stream::iter(
        pieces.into_iter().map(Ok::<_, std::io::Error>),
    ))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (
            (*name).parse().unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    pairs.iter().map(pair).collect()
}

/// Head, media type and package of a request.
async fn take(
    headers: &HeaderMap,
    bytes: &[u8],
    size: usize,
) -> Result<(Head, Option<String>, Vec<u8>), UploadError> {
    let body = body(bytes, size);
    let mut arrival = Arrival::open(headers, body, BodyLimits::default(), MAX).await?;
    let mut package = Vec::new();
    while let Some(bytes) = arrival.next().await? {
        package.extend_from_slice(&bytes);
    }
    Ok((arrival.head, arrival.media_type, package))
}

fn form(parts: &[(&str, &str, &[u8])]) -> (HeaderMap, Vec<u8>) {
    let mut text = Vec::new();
    for (name, content_type, bytes) in parts {
        let head = format!(
            "--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\nContent-Type: {content_type}\r\n\r\n"
        );
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(bytes);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"--B--\r\n");
    (
        headers(&[("content-type", "multipart/form-data; boundary=B")]),
        text,
    )
}

const OCTETS: &str = "application/octet-stream";
const HEAD: &[u8] = br#"{"message":"hello"}"#;

#[tokio::test]
async fn all_three_forms_carry_the_same_package_and_head() {
    let package = [&[0x1f, 0x8b][..], &[7; 5000]].concat();
    let base64 = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&package)
    };
    let (form_headers, form_body) = form(&[
        ("head", "application/json", HEAD),
        ("package", OCTETS, &package),
    ]);
    let document = format!(r#"{{"head":{{"message":"hello"}},"package_base64":"{base64}"}}"#);
    let requests = [
        (form_headers, form_body),
        (
            headers(&[("content-type", "application/json")]),
            document.into_bytes(),
        ),
        (
            headers(&[("cofferdam-head", r#"{"message":"hello"}"#)]),
            package.clone(),
        ),
    ];
    for (headers, body) in requests {
        for size in [1, 7, 1000, 100_000] {
            let (head, media_type, bytes) = take(&headers, &body, size).await.unwrap();
            assert_eq!(head.message.as_deref(), Some("hello"));
            assert_eq!(media_type.as_deref(), Some("application/gzip"));
            assert_eq!(bytes, package);
        }
    }
}

#[tokio::test]
async fn a_head_may_be_cbor() {
    let mut cbor = Vec::new();
    let head: serde_json::Value = serde_json::from_slice(HEAD).unwrap();
    ciborium::into_writer(&head, &mut cbor).unwrap();
    let (headers, body) = form(&[
        ("head", "application/cbor", &cbor),
        ("package", OCTETS, b"p"),
    ]);
    let (head, _, _) = take(&headers, &body, 3).await.unwrap();
    assert_eq!(head.message.as_deref(), Some("hello"));
    cbor.push(0);
    let (headers, body) = form(&[
        ("head", "application/cbor", &cbor),
        ("package", OCTETS, b"p"),
    ]);
    assert!(matches!(
        take(&headers, &body, 99).await,
        Err(UploadError::Head(_))
    ));
}

#[tokio::test]
async fn the_parts_of_a_form_are_head_then_package_and_nothing_else() {
    let head = ("head", "application/json", HEAD);
    let package = ("package", OCTETS, &b"p"[..]);
    let other = ("other", OCTETS, &b"p"[..]);
    assert!(matches!(take_form(&[head, package]).await, Ok(())));
    assert!(matches!(take_form(&[package]).await, Ok(())));
    for parts in [
        &[package, head][..],
        &[head, head, package],
        &[head, package, package],
        &[other, head, package],
        &[head, other, package],
        &[head, package, other],
    ] {
        assert!(
            matches!(take_form(parts).await, Err(UploadError::Part(_))),
            "{parts:?}"
        );
    }
    assert!(matches!(
        take_form(&[head]).await,
        Err(UploadError::NoPackage)
    ));
    let empty = ("package", OCTETS, &b""[..]);
    assert!(matches!(
        take_form(&[head, empty]).await,
        Err(UploadError::Empty)
    ));
    let yaml = ("head", "application/yaml", HEAD);
    assert!(matches!(
        take_form(&[yaml, package]).await,
        Err(UploadError::Head(_))
    ));
}

async fn take_form(parts: &[(&str, &str, &[u8])]) -> Result<(), UploadError> {
    let (headers, body) = form(parts);
    take(&headers, &body, 64).await.map(drop)
}

#[tokio::test]
async fn a_head_in_two_places_is_refused() {
    let (mut headers, body) = form(&[
        ("head", "application/json", HEAD),
        ("package", OCTETS, b"p"),
    ]);
    headers.insert(HEAD_HEADER, HeaderValue::from_static("{}"));
    assert!(matches!(
        take(&headers, &body, 64).await,
        Err(UploadError::Head(_))
    ));
    headers.append(HEAD_HEADER, HeaderValue::from_static("{}"));
    assert!(matches!(
        take(&headers, &body, 64).await,
        Err(UploadError::Head(_))
    ));
}

#[tokio::test]
async fn a_package_of_too_many_bytes_is_refused_by_its_length_and_by_count() {
    let announced = headers(&[("content-length", &(MAX + 1).to_string())]);
    let untouched = Body::from_stream(stream::poll_fn(
        |_| -> std::task::Poll<Option<Result<Bytes, std::io::Error>>> {
            panic!("the body must not be asked for")
        },
    ));
    let refused = Arrival::open(&announced, untouched, BodyLimits::default(), MAX).await;
    assert!(matches!(refused, Err(UploadError::TooLarge { limit: MAX })));

    let most = vec![1; usize::try_from(MAX).unwrap()];
    assert_eq!(
        take(&HeaderMap::new(), &most, 65_536)
            .await
            .unwrap()
            .2
            .len(),
        most.len()
    );
    let more = vec![1; most.len() + 1];
    let refused = take(&HeaderMap::new(), &more, 65_536).await;
    assert!(matches!(refused, Err(UploadError::TooLarge { limit: MAX })));
}

#[tokio::test]
async fn an_empty_body_is_no_package() {
    assert!(matches!(
        take(&HeaderMap::new(), b"", 1).await,
        Err(UploadError::Empty)
    ));
}
