//! Uploads that are resumed.

use std::path::Path;
use std::time::Duration;

use cofferdam_deploy::Policy;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Raw, TestServer, shared, site, site_with};

pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers()[name].to_str().unwrap()
}

pub(crate) async fn create(server: &TestServer, project: &str, length: Option<usize>) -> String {
    let request = server.request("POST", &format!("/v1/uploads?project={project}"));
    let request = match length {
        Some(length) => request.header("upload-length", length),
        None => request,
    };
    let answer = request
        .header("upload-complete", "?0")
        .header("content-type", "application/x-tar")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(header(&answer, "upload-offset"), "0");
    assert!(header(&answer, "upload-limit").contains("max-age="));
    header(&answer, "location").to_owned()
}

pub(crate) async fn patch(
    server: &TestServer,
    place: &str,
    offset: usize,
    complete: bool,
    bytes: &[u8],
) -> Response {
    server
        .request("PATCH", place)
        .header("content-type", "application/partial-upload")
        .header("upload-offset", offset)
        .header("upload-complete", if complete { "?1" } else { "?0" })
        .body(bytes.to_vec())
        .send()
        .await
        .unwrap()
}

pub(crate) async fn offset(server: &TestServer, place: &str) -> usize {
    let answer = server.request("HEAD", place).send().await.unwrap();
    assert!(answer.status().is_success());
    assert_eq!(header(&answer, "cache-control"), "no-store");
    header(&answer, "upload-offset").parse().unwrap()
}

async fn problem(answer: Response) -> (StatusCode, Value) {
    let status = answer.status();
    assert_eq!(header(&answer, "content-type"), "application/problem+json");
    (status, answer.json().await.unwrap())
}

async fn deploy(server: &TestServer, project: &str, place: &str, head: Value) -> Response {
    let upload = place.rsplit('/').next().unwrap();
    server
        .request("POST", &format!("/v1/projects/{project}/deployments"))
        .header("content-type", "application/json")
        .body(json!({ "head": head, "upload": upload }).to_string())
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn an_upload_in_pieces_becomes_a_deployment_once() {
    let server = shared();
    let package = site_with(&noise(1, 900_000));
    let place = create(&server, "pieces", Some(package.len())).await;
    let mut at = 0;
    for length in [1, 5000, 600_000] {
        let answer = patch(&server, &place, at, false, &package[at..at + length]).await;
        at += length;
        assert_eq!(answer.status(), 204);
        assert_eq!(header(&answer, "upload-offset"), at.to_string());
        assert_eq!(header(&answer, "upload-complete"), "?0");
        assert_eq!(offset(&server, &place).await, at);
    }
    let early = deploy(&server, "pieces", &place, json!({})).await;
    assert_eq!(problem(early).await.0, 409);
    let last = patch(&server, &place, at, true, &package[at..]).await;
    assert_eq!(last.status(), 204);
    assert_eq!(header(&last, "upload-complete"), "?1");
    let shown = server.get(&place).await;
    assert_eq!(
        (&shown["complete"], &shown["offset"]),
        (&json!(true), &json!(package.len()))
    );

    // A head that is refused leaves the upload where it is, and another project does not see it.
    let digest = json!({ "digest": { "blake3": "0" } });
    assert!(
        deploy(&server, "pieces", &place, digest)
            .await
            .status()
            .is_client_error()
    );
    let stranger = deploy(&server, "pieces-of-others", &place, json!({})).await;
    assert_eq!(problem(stranger).await.0, 404);

    let digest = blake3::hash(&package).to_hex().to_string();
    let head = json!({ "digest": { "blake3": digest } });
    let answer = deploy(&server, "pieces", &place, head.clone()).await;
    assert_eq!(answer.status(), 202);
    let record: Value = answer.json().await.unwrap();
    assert_eq!(record["package"]["received"], package.len());
    assert_eq!(record["package"]["blake3"], digest);
    assert_eq!(record["package"]["media_type"], "application/x-tar");
    let record = server.ended(record["id"].as_str().unwrap()).await;
    assert_eq!(record["status"], "succeeded", "{record}");
    let again = deploy(&server, "pieces", &place, head).await;
    assert_eq!(problem(again).await.0, 404);
}

#[tokio::test]
async fn a_deployment_of_an_upload_whose_answer_was_lost_is_asked_for_again_by_its_key() {
    let server = shared();
    let package = site();
    let place = create(&server, "lost", None).await;
    assert_eq!(
        patch(&server, &place, 0, true, &package).await.status(),
        204
    );
    let upload = place.rsplit('/').next().unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = server
            .request("POST", "/v1/projects/lost/deployments")
            .header("content-type", "application/json")
            .header("idempotency-key", upload)
            .body(json!({ "upload": upload }).to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 202);
        let record: Value = answer.json().await.unwrap();
        ids.push(record["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_wrong_offset_is_a_conflict_that_names_the_right_one() {
    let server = shared();
    let place = create(&server, "offsets", None).await;
    assert_eq!(
        patch(&server, &place, 0, false, b"12345").await.status(),
        204
    );
    for wrong in [0, 4, 6] {
        let (status, problem) = problem(patch(&server, &place, wrong, false, b"x").await).await;
        assert_eq!(status, 409);
        assert_eq!(
            problem["type"],
            "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
        );
        assert_eq!(problem["expected-offset"], 5);
        assert_eq!(problem["provided-offset"], wrong);
    }
    assert_eq!(offset(&server, &place).await, 5);
    assert_eq!(patch(&server, &place, 5, true, b"6").await.status(), 204);
    let (status, problem) = problem(patch(&server, &place, 6, true, b"7").await).await;
    assert_eq!(status, 409);
    assert!(
        problem["type"]
            .as_str()
            .unwrap()
            .ends_with("#completed-upload")
    );
}

#[tokio::test]
async fn what_does_not_fit_the_length_or_the_draft_is_refused_and_costs_nothing() {
    let server = shared();
    let place = create(&server, "lengths", Some(10)).await;
    let short = patch(&server, &place, 0, true, b"only five").await;
    let (status, why) = problem(short).await;
    assert_eq!(status, 400);
    assert!(
        why["type"]
            .as_str()
            .unwrap()
            .ends_with("#inconsistent-upload-length")
    );
    let long = patch(&server, &place, 0, false, b"more than ten").await;
    assert_eq!(problem(long).await.0, 400);
    assert_eq!(offset(&server, &place).await, 0);
    let plain = server
        .request("PATCH", &place)
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(plain).await.0, 415);
    let unsaid = server
        .request("PATCH", &place)
        .header("content-type", "application/partial-upload")
        .header("upload-offset", 0)
        .send();
    assert_eq!(problem(unsaid.await.unwrap()).await.0, 400);
    let nowhere = server.request("POST", "/v1/uploads").send().await.unwrap();
    assert_eq!(problem(nowhere).await.0, 400);
}

/// Waits until a server of one's own has read so many bytes of bodies.
async fn arrived(server: &TestServer, bytes: usize) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = server.request("GET", "/metrics").send().await.unwrap();
        let figures = answer.text().await.unwrap();
        let figure = figures
            .lines()
            .find_map(|line| line.strip_prefix("cofferdam_received_bytes_total "))
            .unwrap();
        if figure.parse::<usize>().unwrap() >= bytes {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{figure} of {bytes}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Begins to send a package to an upload, as far as its first `sent` bytes.
async fn half_sent(server: &TestServer, place: &str, package: &[u8], sent: usize) -> Raw {
    let headers = format!(
        "Content-Type: application/partial-upload\r\nUpload-Offset: 0\r\nUpload-Complete: ?1\r\nContent-Length: {}\r\n",
        package.len()
    );
    let mut raw = server.begin(&format!("PATCH {place}"), &headers).await;
    raw.send(&package[..sent]).await;
    raw
}

#[tokio::test]
async fn a_newer_writer_takes_over_and_nothing_that_arrived_is_lost() {
    let server = TestServer::start(|_| {});
    let mut before = 0;
    for asks_first in [true, false] {
        let package = site_with(&noise(u64::from(asks_first), 400_000));
        let place = create(&server, "two", None).await;
        let mut older = half_sent(&server, &place, &package, 300_000).await;
        before += 300_000;
        arrived(&server, before).await;
        if asks_first {
            // Whoever asks for the offset ends the older request first, so what it says holds.
            assert_eq!(offset(&server, &place).await, 300_000);
        }
        let newer = patch(&server, &place, 300_000, true, &package[300_000..]).await;
        assert_eq!(newer.status(), 204, "{asks_first}");
        before += package.len() - 300_000;
        let answer = older.answer().await;
        assert_eq!((answer.status, answer.code()), (409, "conflict".to_owned()));
        let answer = deploy(&server, "two", &place, json!({})).await;
        let record: Value = answer.json().await.unwrap();
        let digest = blake3::hash(&package).to_hex().to_string();
        assert_eq!(record["package"]["blake3"], digest);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_everything_that_arrived() {
    let server = TestServer::start(|_| {});
    let package = site_with(&noise(3, 300_000));
    let place = create(&server, "broken", Some(package.len())).await;
    let raw = half_sent(&server, &place, &package, 200_000).await;
    arrived(&server, 200_000).await;
    raw.0.set_zero_linger().unwrap_or_default();
    drop(raw);
    for _ in 0..3 {
        assert_eq!(offset(&server, &place).await, 200_000);
    }
    assert_eq!(
        patch(&server, &place, 200_000, true, &package[200_000..])
            .await
            .status(),
        204
    );
}

#[tokio::test]
async fn who_may_not_deploy_the_project_does_not_see_its_uploads() {
    let server = shared();
    let place = create(&server, "hidden", None).await;
    let anonymous = server.anonymous("HEAD", &place).send().await.unwrap();
    assert_eq!(anonymous.status(), 401);
    let unknown = server
        .request("GET", "/v1/uploads/not-one")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(unknown).await.0, 404);
    let gone = server.request("DELETE", &place).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    let gone = server.request("HEAD", &place).send().await.unwrap();
    assert_eq!(gone.status(), 404);
    let gone = server.request("DELETE", &place).send().await.unwrap();
    assert_eq!(problem(gone).await.0, 404);
}

#[tokio::test]
async fn a_package_in_chunks_may_come_through_an_upload_and_leaves_none() {
    let server = shared();
    // The smallest such package: one chunk, which is sent as it is.
    let package = site();
    let head = json!({
        "chunker": cofferdam_deploy::ChunkerParams::default(),
        "chunks": 1,
        "bytes": package.len(),
    })
    .to_string();
    let length = u32::try_from(package.len()).unwrap().to_le_bytes();
    let mut body = b"CFDMCHKS\x01\0\0\0".to_vec();
    body.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
    body.extend(head.as_bytes());
    body.extend(length);
    body.extend(blake3::hash(&package).as_bytes());
    body.extend(length);
    body.extend(length);
    body.extend(&package);
    let answer = server
        .request("POST", "/v1/uploads?project=framed")
        .header("upload-complete", "?1")
        .header("content-type", "application/vnd.cofferdam.chunks")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(header(&answer, "upload-complete"), "?1");
    let place = header(&answer, "location").to_owned();
    let answer = deploy(&server, "framed", &place, json!({})).await;
    assert_eq!(answer.status(), 202);
    let record: Value = answer.json().await.unwrap();
    assert_eq!(record["package"]["bytes"], package.len());
    let record = server.ended(record["id"].as_str().unwrap()).await;
    assert_eq!(record["status"], "succeeded", "{record}");
    let gone = server.request("GET", &place).send().await.unwrap();
    assert_eq!(gone.status(), 404);
}

#[tokio::test]
async fn the_digest_that_the_last_request_names_is_checked_before_the_upload_is_complete() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let server = shared();
    let data = noise(21, 700_000);
    let base64 = |digest: &[u8]| base64::engine::general_purpose::STANDARD.encode(digest);
    let last = async |place: &str, promise: String| {
        assert_eq!(
            patch(&server, place, 0, false, &data[..500_000])
                .await
                .status(),
            204
        );
        let request = server
            .request("PATCH", place)
            .header("content-type", "application/partial-upload")
            .header("upload-offset", 500_000)
            .header("upload-complete", "?1")
            .header("repr-digest", promise);
        request.body(data[500_000..].to_vec()).send().await.unwrap()
    };

    let place = create(&server, "digest", None).await;
    let right = base64(&sha2::Sha256::digest(&data));
    let answer = last(&place, format!("sha-256=:{right}:")).await;
    assert_eq!(header(&answer, "upload-complete"), "?1");
    assert!(answer.status().is_success());

    let place = create(&server, "digest", None).await;
    let answer = last(&place, format!("sha-256=:{}:", base64(&[7; 32]))).await;
    let (status, said) = problem(answer).await;
    assert_eq!(
        (status.as_u16(), &said["code"]),
        (422, &json!("digest_mismatch"))
    );
    let detail = said["detail"].as_str().unwrap();
    let found = sha2::Sha256::digest(&data);
    let found = found
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert!(
        detail.contains(&"07".repeat(32)) && detail.contains(&found),
        "{detail}"
    );
    let gone = server.request("GET", &place).send().await.unwrap();
    assert_eq!(gone.status(), 404);

    // What cannot be checked is no promise, and nothing is lost by it.
    let place = create(&server, "digest", None).await;
    let answer = last(&place, "sha-256=:AAAA:".to_owned()).await;
    let (status, said) = problem(answer).await;
    assert_eq!(
        (status.as_u16(), &said["code"]),
        (400, &json!("request_invalid"))
    );
    assert_eq!(offset(&server, &place).await, 500_000);
}

#[tokio::test]
async fn an_upload_that_nobody_goes_on_with_expires_and_gives_its_room_back() {
    let text = "[defaults]\nstorage_bytes = 1000000\n";
    let policy = Policy::parse("policy", text, Path::new("/")).unwrap();
    let server = TestServer::start(|options| {
        options.storage.upload_ttl = Duration::from_secs(3);
        options.policy = policy;
    });
    let place = create(&server, "expiring", None).await;
    assert_eq!(
        patch(&server, &place, 0, false, &noise(1, 700_000))
            .await
            .status(),
        204
    );
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while server.request("GET", &place).send().await.unwrap().status() != 404 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = patch(&server, &place, 0, true, b"late").await;
    assert_eq!(problem(late).await.0, 404);
    // Not only does nobody see it any more: there is room for another as large.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let place = create(&server, "expiring", None).await;
        if patch(&server, &place, 0, false, &noise(2, 700_000))
            .await
            .status()
            == 204
        {
            break;
        }
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_token_that_was_revoked_under_way_completes_nothing_and_what_it_sent_stays() {
    let server = shared();
    let made = server
        .request("POST", "/v1/tokens")
        .header("content-type", "application/json")
        .body(json!({ "scopes": ["deploy:revoking"] }).to_string())
        .send()
        .await
        .unwrap();
    let made: Value = made.json().await.unwrap();
    let package = site_with(&noise(4, 300_000));
    let place = create(&server, "revoking", Some(package.len())).await;
    let head = format!(
        "PATCH {place} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/partial-upload\r\nUpload-Offset: 0\r\nUpload-Complete: ?1\r\n\
         Content-Length: {}\r\n\r\n",
        made["token"].as_str().unwrap(),
        package.len()
    );
    let mut raw = server.connect().await;
    raw.send(head.as_bytes()).await;
    raw.send(&package[..package.len() - 1]).await;
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    let revoked = server.request("DELETE", &path).send().await.unwrap();
    assert_eq!(revoked.status(), 204);
    // Its last byte comes too late.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut raw.0, &package[package.len() - 1..]).await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "unauthorized")
    );
    let now = offset(&server, &place).await;
    assert!(now <= package.len());
    assert_eq!(server.get(&place).await["complete"], false);
    let last = patch(&server, &place, now, true, &package[now..]).await;
    assert_eq!(last.status(), 204);
    assert_eq!(header(&last, "upload-complete"), "?1");
}

#[tokio::test]
async fn an_upload_that_exceeds_the_quota_is_refused_and_what_fitted_stays_until_it_is_deleted() {
    let server = TestServer::start(|options| {
        let text = "[defaults]\nstorage_bytes = \"1MiB\"\n";
        options.policy = Policy::parse("policy", text, Path::new("/")).unwrap();
    });
    let place = create(&server, "full", None).await;
    let data = noise(5, 1_500_000);
    assert_eq!(
        patch(&server, &place, 0, false, &data[..600_000])
            .await
            .status(),
        204
    );
    for _ in 0..2 {
        let now = offset(&server, &place).await;
        assert!((600_000..=1 << 20).contains(&now), "{now}");
        let over = patch(&server, &place, now, true, &data[now..]).await;
        let (status, problem) = problem(over).await;
        assert_eq!(
            (status.as_u16(), &problem["code"]),
            (507, &json!("storage_full"))
        );
    }
    assert_eq!(server.get(&place).await["complete"], false);
    let package = site_with(&noise(6, 900_000));
    let path = "/v1/projects/full/deployments";
    let beside = server.request("PUT", path).body(package.clone());
    assert_eq!(beside.send().await.unwrap().status(), 507);
    let gone = server.request("DELETE", &place).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    server.deploy("full", package).await;
}
