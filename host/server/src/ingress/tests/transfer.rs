//! How much of a file is sent, in which coding, and whether at all.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::body::{Body, FileReader};
use super::client::{ask, get, head};
use super::release::{Server, Tree};

/// Every byte tells where it is.
fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// On both sides of what is held in memory.
const SIZES: [usize; 3] = [1000, 64 * 1024, 200_000];

#[tokio::test]
async fn a_range_is_exactly_those_bytes() {
    for size in SIZES {
        let content = pattern(size);
        let tree = Tree::new().file("f", &content);
        let server = tree.serve().await;
        for (range, first, last) in [
            ("bytes=0-0", 0, 0),
            ("bytes=10-19", 10, 19),
            ("bytes=900-", 900, size - 1),
            ("bytes=-7", size - 7, size - 1),
            ("bytes=0-99999999", 0, size - 1),
        ] {
            let answer = get(server.address, "/f", &[("range", range)]).await;
            assert_eq!(answer.status, 206, "{range} of {size}");
            assert_eq!(answer.body, content[first..=last], "{range} of {size}");
            let content_range = format!("bytes {first}-{last}/{size}");
            assert_eq!(answer.header("content-range"), Some(content_range.as_str()));
            assert_eq!(
                answer.header("content-length"),
                Some((last - first + 1).to_string().as_str())
            );
        }
        for range in ["bytes=0-1,5-6", "bytes=5-1", "lines=1-2"] {
            let answer = get(server.address, "/f", &[("range", range)]).await;
            assert_eq!(
                (answer.status, answer.header("content-range")),
                (200, None),
                "{range}"
            );
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert!(answer.body == content);
        }
        for range in [format!("bytes={size}-"), "bytes=-0".to_owned()] {
            let answer = get(server.address, "/f", &[("range", &range)]).await;
            assert_eq!(answer.status, 416, "{range}");
            assert_eq!(
                answer.header("content-range"),
                Some(format!("bytes */{size}").as_str())
            );
        }
    }
}

#[tokio::test]
async fn a_range_of_something_else_is_the_whole() {
    let tree = Tree::new().file("f", pattern(1000));
    let server = tree.serve().await;
    let tag = get(server.address, "/f", &[])
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    let answer = get(
        server.address,
        "/f",
        &[("range", "bytes=0-9"), ("if-range", &tag)],
    )
    .await;
    assert_eq!((answer.status, answer.body.len()), (206, 10));
    for condition in ["\"other\"", "Tue, 01 Jan 2030 00:00:00 GMT"] {
        let answer = get(
            server.address,
            "/f",
            &[("range", "bytes=0-9"), ("if-range", condition)],
        )
        .await;
        assert_eq!(
            (answer.status, answer.body.len()),
            (200, 1000),
            "{condition}"
        );
    }
}

#[tokio::test]
async fn a_head_says_what_a_get_would_and_sends_nothing() {
    for size in SIZES {
        let tree = Tree::new().file("f.txt", pattern(size));
        let server = tree.serve().await;
        let head = ask(server.address, "HEAD", "/f.txt", &[("range", "bytes=0-1")]).await;
        let get = get(server.address, "/f.txt", &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        for header in [
            "content-type",
            "content-length",
            "etag",
            "accept-ranges",
            "cache-control",
        ] {
            assert_eq!(head.header(header), get.header(header), "{header}");
        }
    }
}

#[tokio::test]
async fn who_has_it_already_is_told_so() {
    for size in SIZES {
        let tree = Tree::new().file("f.txt", pattern(size));
        let server = tree.serve().await;
        let tag = get(server.address, "/f.txt", &[])
            .await
            .header("etag")
            .unwrap()
            .to_owned();
        for method in ["GET", "HEAD"] {
            let headers = [("if-none-match", tag.as_str()), ("range", "bytes=0-1")];
            let answer = ask(server.address, method, "/f.txt", &headers).await;
            assert_eq!((answer.status, answer.body.len()), (304, 0));
            assert_eq!(answer.header("etag"), Some(tag.as_str()));
            assert_eq!(
                answer.header("cache-control"),
                Some("public, max-age=0, must-revalidate")
            );
        }
        assert_eq!(
            get(server.address, "/f.txt", &[("if-none-match", "\"x\"")])
                .await
                .status,
            200
        );
        assert_eq!(
            get(server.address, "/f.txt", &[("if-match", "\"x\"")])
                .await
                .status,
            412
        );
        assert_eq!(
            get(server.address, "/f.txt", &[("if-match", &tag)])
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn a_redeploy_of_the_same_bytes_keeps_the_tag_and_of_others_does_not() {
    for size in SIZES {
        let tree = Tree::new().file("f.txt", pattern(size));
        let server = tree.serve().await;
        let mut changed = pattern(size);
        changed[size - 1] ^= 1;
        let before = get(server.address, "/f.txt", &[]).await;
        let same = Tree::new().file("f.txt", pattern(size));
        server.swap("site.localhost", same.route());
        assert_eq!(
            get(server.address, "/f.txt", &[]).await.header("etag"),
            before.header("etag")
        );
        let other = Tree::new().file("f.txt", &changed);
        server.swap("site.localhost", other.route());
        let after = get(server.address, "/f.txt", &[]).await;
        assert_ne!(after.header("etag"), before.header("etag"));
        assert!(after.body == changed);
    }
}

#[tokio::test]
async fn the_best_precompressed_sibling_is_sent() {
    let plain = "plain ".repeat(100);
    let tree = Tree::new()
        .file("app.js", &plain)
        .file("app.js.br", "brotli")
        .file("app.js.zst", "zstandard")
        .file("app.js.gz", "gzip, as it were")
        .file("useless.js", "tiny")
        .file("useless.js.gz", "larger than the plain file")
        .file("useless.js.br", "");
    let server = tree.serve().await;
    let mut tags = Vec::new();
    for (accepted, coding, body) in [
        ("gzip, deflate, br, zstd", Some("br"), "brotli"),
        ("gzip, zstd", Some("zstd"), "zstandard"),
        ("gzip", Some("gzip"), "gzip, as it were"),
        ("br;q=0.1, gzip;q=0.9", Some("gzip"), "gzip, as it were"),
        ("br;q=0, *", Some("zstd"), "zstandard"),
        ("deflate", None, plain.as_str()),
        ("gzip;q=0", None, plain.as_str()),
        ("gzip;q=0.5, identity", None, plain.as_str()),
        ("identity;q=0", None, plain.as_str()),
    ] {
        let answer = get(server.address, "/app.js", &[("accept-encoding", accepted)]).await;
        assert_eq!((answer.status, answer.text()), (200, body), "{accepted}");
        assert_eq!(answer.header("content-encoding"), coding, "{accepted}");
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert_eq!(
            answer.header("content-type"),
            Some("text/javascript; charset=utf-8")
        );
        tags.push(answer.header("etag").unwrap().to_owned());
    }
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), 4, "each representation has its own tag");

    let headers = [("accept-encoding", "br"), ("range", "bytes=1-3")];
    let answer = get(server.address, "/app.js", &headers).await;
    assert_eq!(
        (
            answer.status,
            answer.text(),
            answer.header("content-encoding")
        ),
        (206, "rot", Some("br"))
    );
    assert_eq!(answer.header("content-range"), Some("bytes 1-3/6"));

    let answer = get(
        server.address,
        "/useless.js",
        &[("accept-encoding", "br, gzip")],
    )
    .await;
    assert_eq!((answer.text(), answer.header("vary")), ("tiny", None));
}

#[tokio::test]
async fn a_large_precompressed_sibling_is_streamed() {
    let tree = Tree::new()
        .file("big.json", pattern(400_000))
        .file("big.json.zst", pattern(150_000));
    let server = tree.serve().await;
    let answer = get(server.address, "/big.json", &[("accept-encoding", "zstd")]).await;
    assert_eq!(
        (answer.status, answer.header("content-encoding")),
        (200, Some("zstd"))
    );
    assert!(answer.body == pattern(150_000));
}

#[tokio::test]
async fn a_swap_never_mixes_releases_within_a_response() {
    // More than the sockets' buffers hold, so that the rest is still to be sent.
    const SIZE: usize = 32 << 20;
    let blue = Tree::new().file("f", vec![b'b'; SIZE]);
    let green = Tree::new().file("f", vec![b'g'; SIZE]);
    let route = blue.route();
    let leased = Arc::downgrade(&route);
    let server = Server::start([("site.localhost", route)]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(head("GET /f HTTP/1.1", &[("host", "site.localhost")]).as_bytes())
        .await
        .unwrap();
    let mut raw = vec![0; 1000];
    stream.read_exact(&mut raw).await.unwrap();

    server.swap("site.localhost", green.route());
    assert!(
        get(server.address, "/f", &[])
            .await
            .body
            .iter()
            .all(|byte| *byte == b'g')
    );
    assert!(
        leased.upgrade().is_some(),
        "a response in flight holds its route"
    );

    stream.read_to_end(&mut raw).await.unwrap();
    let body = super::client::parse(&raw).body;
    assert!(body.len() == SIZE && body.iter().all(|byte| *byte == b'b'));
    while leased.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_that_breaks_off_breaks_the_connection() {
    const SIZE: usize = 32 << 20;
    let tree = Tree::new().file("f", pattern(SIZE));
    let server = tree.serve().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(head("GET /f HTTP/1.1", &[("host", "site.localhost")]).as_bytes())
        .await
        .unwrap();
    let mut raw = vec![0; 1000];
    stream.read_exact(&mut raw).await.unwrap();
    File::options()
        .write(true)
        .open(tree.path("f"))
        .unwrap()
        .set_len(100)
        .unwrap();
    // An end or a reset, but not the length that was promised.
    let _ = stream.read_to_end(&mut raw).await;
    assert!(raw.len() < SIZE);
    assert_eq!(
        get(server.address, "/f", &[]).await.status,
        500,
        "what changed is not served"
    );
}

#[tokio::test]
async fn a_huge_file_is_sent_in_small_pieces() {
    const SIZE: u64 = 512 << 20;
    const MARK: &[u8] = b"the end";
    let tree = Tree::new().file("huge.bin", "");
    let file = File::options()
        .write(true)
        .open(tree.path("huge.bin"))
        .unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(MARK, SIZE - MARK.len() as u64).unwrap();

    let dir =
        cap_std::fs::Dir::open_ambient_dir(tree.path(""), cap_std::ambient_authority()).unwrap();
    let mut body =
        Body::file(FileReader::open(&dir, "huge.bin".as_ref(), SIZE, 5, 1 << 20).unwrap());
    while let Some(frame) = body.frame().await {
        assert!(frame.unwrap().into_data().unwrap().len() <= 64 * 1024);
    }

    let server = tree.serve().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(head("GET /huge.bin HTTP/1.1", &[("host", "site.localhost")]).as_bytes())
        .await
        .unwrap();
    let (mut received, mut most, mut tail) = (0, 0, Vec::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = stream.read(&mut piece).await.unwrap();
        if read == 0 {
            break;
        }
        received += read as u64;
        most = most.max(resident_bytes());
        tail.extend_from_slice(&piece[..read]);
        tail.drain(..tail.len().saturating_sub(MARK.len()));
    }
    assert!(received > SIZE && received < SIZE + 1000);
    assert_eq!(tail, MARK);
    assert!(
        most < SIZE / 4,
        "{most} bytes resident while sending {SIZE}"
    );
}

/// The memory of this process, of all tests that run in it.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
