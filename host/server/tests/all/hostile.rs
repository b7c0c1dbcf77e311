//! Clients that send too much, too slowly, or what nobody wants.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Raw, SMALL, TestServer, impatient, shared, site, site_with};

/// Sends a piece again and again until the server closes or so many bytes are sent.
async fn flood(raw: &mut Raw, piece: &[u8], most: usize) {
    use tokio::io::AsyncWriteExt as _;
    let mut sent = 0;
    while sent < most && raw.0.write_all(piece).await.is_ok() {
        sent += piece.len();
    }
}

#[tokio::test]
async fn a_client_that_sends_everything_before_it_reads_sees_the_refusal() {
    let server = shared();
    let length = 32 * 1024 * 1024;
    let head = |token: &str, path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    for (token, path, status, code) in [
        (
            "wrong",
            "/v1/projects/blog/deployments",
            401,
            "unauthorized",
        ),
        (
            server.token.as_str(),
            "/v1/projects/-/deployments",
            400,
            "head_invalid",
        ),
        (server.token.as_str(), "/v1/nowhere", 404, "not_found"),
    ] {
        let mut raw = server.connect().await;
        raw.send(head(token, path).as_bytes()).await;
        flood(&mut raw, &[0; 64 * 1024], length).await;
        let answer = raw.answer().await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path}"
        );
        assert!(answer.head.contains("connection: close"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_package_that_a_step_refuses_is_answered_before_it_is_through() {
    let server = shared();
    let headers = "Transfer-Encoding: chunked\r\n";
    let mut raw = server
        .begin("POST /v1/projects/refused/deployments", headers)
        .await;
    // No archive begins like this, so that the first step fails; the client goes on and on.
    let piece = b"no archive ".repeat(3000);
    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
    chunk.extend_from_slice(&piece);
    chunk.extend_from_slice(b"\r\n");
    flood(&mut raw, &chunk, 128 * 1024 * 1024).await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 422, "{answer:?}");
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    let id = problem["deployment"].as_str().unwrap();
    let record = server.ended(id).await;
    assert_eq!(record["status"], "failed");
    assert_eq!(record["error"]["code"], problem["code"]);
    assert_eq!(problem["step"], "extract");
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends() {
    let server = impatient();
    let expect = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", SMALL + 1);
    let mut raw = server
        .begin("POST /v1/projects/expect/deployments", &expect)
        .await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "package_too_large")
    );
    let expect = "Expect: 100-continue\r\nContent-Length: 10\r\nCofferdam-Head: {\r\n";
    let mut raw = server
        .begin("POST /v1/projects/expect/deployments", expect)
        .await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "head_invalid")
    );
}

#[tokio::test]
async fn a_package_that_is_too_large_is_refused_when_it_gets_there() {
    let server = impatient();
    let headers = "Transfer-Encoding: chunked\r\n";
    let mut raw = server
        .begin("PUT /v1/projects/large/deployments", headers)
        .await;
    // An archive with a member that does not end, so that it is the size alone that is wrong.
    let mut archive = tar::Header::new_ustar();
    archive.set_path("big").unwrap();
    archive.set_size(SMALL * 4);
    archive.set_mode(0o644);
    archive.set_cksum();
    raw.send_chunk(archive.as_bytes()).await;
    for _ in 0..SMALL / 65_536 {
        raw.send_chunk(&[1; 65_536]).await;
    }
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "package_too_large")
    );
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    let record = server.ended(problem["deployment"].as_str().unwrap()).await;
    // What the record says is what the client was told.
    assert_eq!(record["error"]["code"], "package_too_large");
    assert_eq!(record["error"]["message"], problem["detail"]);
}

#[tokio::test]
async fn forms_without_an_end_are_cut_off() {
    let server = shared();
    let headers =
        "Content-Type: multipart/form-data; boundary=XyZ\r\nContent-Length: 1000000000\r\n";
    for (start, filler) in [
        (&b""[..], &b"preamble"[..]),
        (b"", b"\r\n--XyA"),
        (b"--XyZ\r\n", b"X-Long: "),
        (b"--XyZ\r\n", b"X: 1\r\n"),
        (b"--XyZ", b"        "),
        (
            b"--XyZ\r\nContent-Disposition: form-data; name=other\r\n\r\n",
            b"bytes",
        ),
    ] {
        let mut raw = server
            .begin("POST /v1/projects/endless/deployments", headers)
            .await;
        raw.send(start).await;
        flood(&mut raw, &filler.repeat(1000), 16 * 1024 * 1024).await;
        // The client gives up; the answer has long been there.
        let answer = raw.answer().await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "package_invalid"),
            "{filler:?}"
        );
    }
    let headers = "Content-Type: multipart/form-data\r\nContent-Length: 10\r\n";
    let mut raw = server
        .begin("POST /v1/projects/endless/deployments", headers)
        .await;
    raw.send(b"0123456789").await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "package_invalid")
    );
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let server = impatient();
    let mut raw = server
        .begin(
            "PUT /v1/projects/slow/deployments",
            "Content-Length: 500000\r\n",
        )
        .await;
    raw.send(&site()[..600]).await;
    let before = Instant::now();
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "upload_interrupted")
    );
    assert!(
        before.elapsed() >= Duration::from_millis(400),
        "{:?}",
        before.elapsed()
    );
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    let record = server.ended(problem["deployment"].as_str().unwrap()).await;
    assert_eq!(record["error"]["code"], "upload_interrupted");
}

#[tokio::test]
async fn short_bodies_that_do_not_come_begin_nothing_and_keep_nobody_waiting() {
    // However slow this machine is, nobody's time is over.
    let server = TestServer::start(|options| {
        options.body.idle = Duration::from_secs(300);
        options.body.credit = Duration::from_secs(300);
    });
    let mut waiting = Vec::new();
    // More than the store takes at a time.
    for _ in 0..80 {
        let mut raw = server
            .begin(
                "PUT /v1/projects/slow/deployments",
                "Content-Length: 60000\r\n",
            )
            .await;
        raw.send(&site()[..600]).await;
        waiting.push(raw);
    }
    let deployed = server.deploy("quick", site_with(&[b' '; 200_000]));
    let id = tokio::time::timeout(Duration::from_secs(60), deployed)
        .await
        .expect("the others hold what it needs");
    assert_eq!(server.ended(&id).await["status"], "succeeded");
    let page = server.get("/v1/deployments?project=slow").await;
    assert_eq!(page["deployments"], serde_json::json!([]));
    // What arrives late is as good.
    let mut raw = waiting.pop().unwrap();
    let mut rest = site()[600..].to_vec();
    rest.resize(60_000 - 600, 0);
    raw.send(&rest).await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

#[tokio::test]
async fn a_body_that_dribbles_is_given_up() {
    use tokio::io::AsyncWriteExt as _;
    let server = impatient();
    let mut raw = server
        .begin(
            "PUT /v1/projects/dribble/deployments",
            "Content-Length: 500000\r\n",
        )
        .await;
    let mut sent = 0;
    // Never idle for long, and far below the least rate.
    while raw.0.try_read(&mut [0; 0]).is_err() && sent < 1000 {
        if raw.0.write_all(b"x").await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut peeked = [0];
        if tokio::time::timeout(Duration::from_millis(1), raw.0.peek(&mut peeked))
            .await
            .is_ok()
        {
            break;
        }
    }
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "upload_interrupted")
    );
    assert!(sent < 1000, "{sent}");
}

#[tokio::test]
async fn a_head_that_does_not_arrive_ends_the_connection() {
    let server = impatient();
    for start in ["", "GET /healthz HTTP/1.1\r\nHost: localh"] {
        let mut raw = server.connect().await;
        raw.send(start.as_bytes()).await;
        let before = Instant::now();
        assert_eq!(raw.read_to_end().await, "", "{start:?}");
        assert!(before.elapsed() < Duration::from_secs(20), "{start:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = shared();
    let mut raw = server.connect().await;
    raw.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        .await;
    flood(&mut raw, &[b'x'; 8192], 256 * 1024).await;
    assert!(raw.read_to_end().await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_fails_its_deployment() {
    let server = shared();
    let mut raw = server
        .begin(
            "PUT /v1/projects/gone/deployments",
            "Content-Length: 100000\r\n",
        )
        .await;
    raw.send(&site()[..1000]).await;
    begun(&server, "gone").await;
    drop(raw);
    let ended = server
        .eventually("/v1/deployments?project=gone", |page| {
            page["deployments"][0]["status"] == "failed"
        })
        .await;
    assert_eq!(
        ended["deployments"][0]["error"]["code"],
        "upload_interrupted"
    );
}

/// Waits until a project has a deployment.
async fn begun(server: &TestServer, project: &str) {
    let path = format!("/v1/deployments?project={project}");
    server
        .eventually(&path, |page| page["deployments"][0]["id"].is_string())
        .await;
}

#[tokio::test]
async fn a_client_that_goes_away_after_its_last_byte_stops_nothing() {
    let server = shared();
    let package = site_with(&[b' '; 200_000]);
    let headers = format!("Content-Length: {}\r\n", package.len());
    let mut raw = server
        .begin("PUT /v1/projects/left/deployments", &headers)
        .await;
    raw.send(&package[..1000]).await;
    begun(&server, "left").await;
    raw.send(&package[1000..]).await;
    drop(raw);
    server
        .eventually("/v1/deployments?project=left", |page| {
            page["deployments"][0]["status"] == "succeeded"
        })
        .await;
}
