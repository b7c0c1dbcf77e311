//! Packages that are sent without what the project holds.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_deploy::{Chunker, ChunkerParams};
use serde_json::{Value, json};

use crate::harness::{TestServer, shared, site_with};

pub(crate) const MEDIA_TYPE: &str = "application/vnd.cofferdam.chunks";

pub(crate) type Id = [u8; 32];

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A package as the server cuts it.
pub(crate) fn cut(package: &[u8]) -> Vec<(Id, Vec<u8>)> {
    let mut chunker = Chunker::new(&ChunkerParams::default()).unwrap();
    chunker.push(package);
    std::iter::from_fn(|| chunker.next(true))
        .map(|chunk| (*blake3::hash(&chunk).as_bytes(), chunk.to_vec()))
        .collect()
}

/// The bit of each chunk in the server's answer.
async fn missing(server: &TestServer, project: &str, ids: &[Id]) -> Vec<bool> {
    let answer = ask(server, project, ids).await;
    assert_eq!(answer["chunks"], ids.len());
    let bits = STANDARD
        .decode(answer["missing"].as_str().unwrap())
        .unwrap();
    (0..ids.len())
        .map(|n| bits[n / 8] & (1 << (n % 8)) != 0)
        .collect()
}

async fn ask(server: &TestServer, project: &str, ids: &[Id]) -> Value {
    let answer = server
        .request("POST", &format!("/v1/projects/{project}/missing"))
        .body(ids.concat())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

/// A body in chunks: those that `sent` names are in it, in frames of one chunk each.
pub(crate) fn body(chunker: &Value, chunks: &[(Id, Vec<u8>)], sent: &[bool]) -> Vec<u8> {
    let bytes: usize = chunks.iter().map(|(_, data)| data.len()).sum();
    let head = json!({ "chunker": chunker, "chunks": chunks.len(), "bytes": bytes }).to_string();
    let mut body = b"CFDMCHKS\x01\0\0\0".to_vec();
    body.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
    body.extend(head.as_bytes());
    for ((id, data), sent) in chunks.iter().zip(sent) {
        let length = u32::try_from(data.len()).unwrap();
        let held = if *sent { 0 } else { 1 << 31 };
        body.extend((length | held).to_le_bytes());
        body.extend(id);
    }
    for (data, _) in chunks
        .iter()
        .map(|(_, data)| data)
        .zip(sent)
        .filter(|(_, sent)| **sent)
    {
        let stored = zstd::bulk::compress(data, 1).unwrap();
        let stored = if stored.len() < data.len() {
            &stored
        } else {
            data
        };
        body.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        body.extend(u32::try_from(stored.len()).unwrap().to_le_bytes());
        body.extend(stored);
    }
    body
}

pub(crate) fn params() -> Value {
    serde_json::to_value(ChunkerParams::default()).unwrap()
}

async fn send(server: &TestServer, project: &str, body: Vec<u8>) -> (u16, Value) {
    let answer = server
        .request("POST", &format!("/v1/projects/{project}/deployments"))
        .header("content-type", MEDIA_TYPE)
        .body(body)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn deployments(server: &TestServer, project: &str) -> usize {
    let list = server
        .get(&format!("/v1/deployments?project={project}"))
        .await;
    list["deployments"].as_array().unwrap().len()
}

fn ids(chunks: &[(Id, Vec<u8>)]) -> Vec<Id> {
    chunks.iter().map(|(id, _)| *id).collect()
}

#[tokio::test]
async fn only_what_is_missing_is_sent_and_the_package_is_whole() {
    let server = shared();
    let old = noise(1, 1_500_000);
    server.deploy("delta", site_with(&old)).await;
    let mut new = old.clone();
    new.splice(700_000..700_010, noise(2, 3000));
    let package = site_with(&new);
    let chunks = cut(&package);
    let sent = missing(&server, "delta", &ids(&chunks)).await;
    let count = sent.iter().filter(|sent| **sent).count();
    assert!((1..=4).contains(&count), "{count} of {}", chunks.len());
    assert_eq!(ask(&server, "delta", &[]).await["chunker"], params());

    let body = body(&params(), &chunks, &sent);
    assert!(body.len() < package.len() / 2);
    let (status, record) = send(&server, "delta", body).await;
    assert_eq!(status, 202, "{record}");
    let digest = blake3::hash(&package).to_hex().to_string();
    assert_eq!(record["package"]["blake3"], digest);
    assert_eq!(record["package"]["media_type"], "application/x-tar");
    let id = record["id"].as_str().unwrap();
    assert_eq!(server.ended(id).await["status"], "succeeded");
    let path = format!("/v1/deployments/{id}/package");
    let stored = server.request("GET", &path).send().await.unwrap();
    assert_eq!(stored.bytes().await.unwrap(), package);
    assert!(
        !missing(&server, "delta", &ids(&chunks))
            .await
            .contains(&true)
    );
}

/// A body that says of a package how it differs from the one with this digest: `lines` as they are, then `sent` in frames.
fn like(base: &str, list: &str, bytes: usize, lines: &[(u32, Id)], sent: &[&[u8]]) -> Vec<u8> {
    let head = json!({
        "chunker": params(), "chunks": lines.len(), "bytes": bytes, "base": base, "list": list,
    })
    .to_string();
    let mut body = b"CFDMCHKS\x01\0\0\0".to_vec();
    body.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
    body.extend(head.as_bytes());
    for (word, rest) in lines {
        body.extend(word.to_le_bytes());
        body.extend(rest);
    }
    for data in sent {
        let length = u32::try_from(data.len()).unwrap();
        body.extend(length.to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(*data);
    }
    body
}

/// A line for chunks of the base.
fn run(first: usize, chunks: usize) -> (u32, Id) {
    let mut place = [0; 32];
    place[..8].copy_from_slice(&(first as u64).to_le_bytes());
    (0b11 << 30 | u32::try_from(chunks).unwrap(), place)
}

fn line(chunk: &(Id, Vec<u8>)) -> (u32, Id) {
    (u32::try_from(chunk.1.len()).unwrap(), chunk.0)
}

fn list_digest<'a>(chunks: impl IntoIterator<Item = &'a (Id, Vec<u8>)>) -> String {
    let mut list = blake3::Hasher::new();
    for chunk in chunks {
        list.update(&line(chunk).0.to_le_bytes());
        list.update(&chunk.0);
    }
    list.finalize().to_hex().to_string()
}

#[tokio::test]
async fn a_package_may_be_said_to_be_like_another_of_its_project() {
    let server = shared();
    let package = site_with(&noise(21, 1_500_000));
    let other = site_with(&noise(22, 100_000));
    server.deploy("like", package.clone()).await;
    server.deploy("like-other", other.clone()).await;
    let digest = |package: &[u8]| blake3::hash(package).to_hex().to_string();
    let base = digest(&package);
    let chunks = cut(&package);

    // The list of it, to those who may deploy to its project and to no others.
    let get = |project: &str, digest: &str| {
        let path = format!("/v1/projects/{project}/chunks?package={digest}");
        server.request("GET", &path).send()
    };
    let found = get("like", &base).await.unwrap();
    assert_eq!(found.status(), 200);
    let expected: Vec<u8> = chunks
        .iter()
        .flat_map(|chunk| [&line(chunk).0.to_le_bytes()[..], &chunk.0].concat())
        .collect();
    assert!(found.bytes().await.unwrap() == expected);
    let mut refused = Vec::new();
    for foreign in [digest(&other), digest(b"nobody's")] {
        let answer = get("like", &foreign).await.unwrap();
        assert_eq!(answer.status(), 404);
        let text = answer.text().await.unwrap().replace(&foreign, "");
        let mut problem: Value = serde_json::from_str(&text).unwrap();
        problem.as_object_mut().unwrap().remove("request");
        refused.push(problem);
    }
    assert_eq!(refused[0], refused[1]);
    assert_eq!(get("like", "blue").await.unwrap().status(), 400);

    // Two runs, and a chunk that is sent in the place of one that is left out.
    let last = chunks.len();
    let fresh = noise(23, 30_000);
    let fresh = (*blake3::hash(&fresh).as_bytes(), fresh);
    let meant: Vec<_> = chunks[..5]
        .iter()
        .chain([&fresh])
        .chain(&chunks[6..])
        .collect();
    let lines = [run(0, 5), line(&fresh), run(6, last - 6)];
    let bytes: usize = meant.iter().map(|chunk| chunk.1.len()).sum();
    let list = list_digest(meant.iter().copied());
    let sound = like(&base, &list, bytes, &lines, &[&fresh.1]);
    let (status, record) = send(&server, "like", sound).await;
    assert_eq!(status, 202, "{record}");
    let whole: Vec<u8> = meant.iter().flat_map(|chunk| chunk.1.clone()).collect();
    assert_eq!(record["package"]["blake3"], digest(&whole));

    // What it must not say.
    let before = deployments(&server, "like").await;
    let digest_of_none = list_digest(&chunks[..1]);
    let bodies = [
        (
            409,
            "chunks_missing",
            like(&digest(&other), &list, bytes, &lines, &[&fresh.1]),
        ),
        (
            409,
            "chunks_missing",
            like(&digest(b"nobody's"), &list, bytes, &lines, &[&fresh.1]),
        ),
        (
            409,
            "chunks_missing",
            like(&base, &list, bytes, &[run(0, last + 1)], &[]),
        ),
        (
            409,
            "chunks_missing",
            like(&base, &list, bytes, &[run(last, 1)], &[]),
        ),
        (
            400,
            "package_invalid",
            like(&base, &list, bytes, &[run(6, 2), run(0, 5)], &[]),
        ),
        (
            400,
            "package_invalid",
            like(&base, &list, bytes, &[run(0, (1 << 30) - 1)], &[]),
        ),
        (
            400,
            "package_invalid",
            like("blue", &list, bytes, &lines, &[&fresh.1]),
        ),
        (
            422,
            "digest_mismatch",
            like(&base, &digest_of_none, bytes, &lines, &[&fresh.1]),
        ),
    ];
    for (at, (status, code, body)) in bodies.into_iter().enumerate() {
        let (found, problem) = send(&server, "like", body).await;
        assert_eq!(
            (found, &problem["code"]),
            (status, &json!(code)),
            "{at}: {problem}"
        );
    }
    let without_base = json!({
        "chunker": params(), "chunks": 1, "bytes": 5,
    });
    let mut body = b"CFDMCHKS\x01\0\0\0".to_vec();
    let head = without_base.to_string();
    body.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
    body.extend(head.as_bytes());
    body.extend(run(0, 1).0.to_le_bytes());
    body.extend([0; 32]);
    assert_eq!(send(&server, "like", body).await.0, 400);
    assert_eq!(deployments(&server, "like").await, before);
}

#[tokio::test]
async fn a_claim_on_what_another_project_holds_is_refused_as_one_on_nothing() {
    let server = shared();
    let secret = site_with(&noise(3, 200_000));
    server.deploy("claim-other", secret.clone()).await;
    server.deploy("claim-own", site_with(b"own")).await;
    let before = deployments(&server, "claim-own").await;
    let others = cut(&secret);
    let nobodys = cut(&site_with(&noise(4, 200_000)));
    let mut answers = Vec::new();
    for chunks in [&others, &nobodys] {
        assert!(
            !missing(&server, "claim-own", &ids(chunks))
                .await
                .contains(&false)
        );
        let body = body(&params(), chunks, &vec![false; chunks.len()]);
        let (status, mut problem) = send(&server, "claim-own", body).await;
        assert_eq!((status, &problem["code"]), (409, &json!("chunks_missing")));
        problem.as_object_mut().unwrap().remove("request");
        answers.push(problem);
    }
    assert_eq!(answers[0], answers[1]);
    // Refused before anything began; and what others have is received whole like anything else.
    assert_eq!(deployments(&server, "claim-own").await, before);
    let body = body(&params(), &others, &vec![true; others.len()]);
    assert_eq!(send(&server, "claim-own", body).await.0, 202);
}

#[tokio::test]
async fn a_chunk_that_is_not_what_the_list_says_fails_the_deployment_with_both_digests() {
    let server = shared();
    let mut chunks = cut(&site_with(&noise(5, 300_000)));
    let last = chunks.len() - 1;
    chunks[last].1[7] ^= 1;
    let found = blake3::hash(&chunks[last].1).to_hex().to_string();
    let expected: String = chunks[last]
        .0
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let body = body(&params(), &chunks, &vec![true; chunks.len()]);
    let (status, problem) = send(&server, "corrupt", body).await;
    assert_eq!((status, &problem["code"]), (422, &json!("digest_mismatch")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains(&found) && detail.contains(&expected),
        "{detail}"
    );
    let record = server.ended(problem["deployment"].as_str().unwrap()).await;
    assert_eq!(record["error"]["code"], "digest_mismatch");
    assert!(
        missing(&server, "corrupt", &ids(&chunks))
            .await
            .iter()
            .all(|missing| *missing)
    );
}

#[tokio::test]
async fn what_is_not_in_the_form_is_refused_before_anything_begins() {
    let server = shared();
    let chunks = cut(&site_with(b"a page"));
    let sound = body(&params(), &chunks, &[true]);
    let mut other = params();
    other["average"] = json!(32 * 1024);
    let (status, problem) = send(&server, "form", body(&other, &chunks, &[true])).await;
    assert_eq!((status, &problem["code"]), (409, &json!("chunks_missing")));
    let mut long = chunks.clone();
    long[0].1.resize(300_000, 0);
    for body in [
        b"CFDMCHKX".to_vec(),
        sound[..sound.len() / 2].to_vec(),
        body(&params(), &long, &[true]),
        body(&params(), &[], &[]),
    ] {
        let (status, problem) = send(&server, "form", body).await;
        assert_eq!((status, &problem["code"]), (400, &json!("package_invalid")));
    }
    assert_eq!(deployments(&server, "form").await, 0);
    let odd = server
        .request("POST", "/v1/projects/form/missing")
        .body(vec![0; 33])
        .send();
    assert_eq!(odd.await.unwrap().status(), 400);
}

/// How long one request takes, with the connection where its refusal has closed the last one, and its answer without the request's name.
async fn probe(request: reqwest::RequestBuilder) -> (Duration, String) {
    let begun = Instant::now();
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    let taken = begun.elapsed();
    let mut answer: Value = serde_json::from_str(&text).unwrap();
    answer.as_object_mut().unwrap().remove("request");
    (taken, format!("{status} {answer}"))
}

/// The largest distance between two distributions (Kolmogorov-Smirnov).
fn distance(mut one: Vec<Duration>, mut other: Vec<Duration>) -> f64 {
    one.sort_unstable();
    other.sort_unstable();
    let below = |all: &[Duration], limit: Duration| {
        let count = all.partition_point(|one| *one <= limit);
        f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(all.len()).unwrap())
    };
    one.iter()
        .chain(&other)
        .map(|limit| (below(&one, *limit) - below(&other, *limit)).abs())
        .fold(0.0, f64::max)
}

/// A list of one chunk: a claim on it, or on one of a package that it leans on.
fn claim(of: &Id, base: Option<&Id>) -> Vec<u8> {
    let bytes = 70_000_u32;
    let hex = |id: &Id| blake3::Hash::from_bytes(*id).to_hex().to_string();
    let head = json!({ "chunker": params(), "chunks": 1, "bytes": bytes, "base": base.map(hex) });
    let head = head.to_string();
    let mut body = b"CFDMCHKS\x01\0\0\0".to_vec();
    body.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
    body.extend(head.as_bytes());
    body.extend((bytes | 1 << 31).to_le_bytes());
    body.extend(of);
    body
}

/// Ten thousand of each kind. They take turns, so that whatever else the machine does falls on
/// both alike. For two samples of this size of the same distribution the distance exceeds 0.028 once in a thousand
/// times. What the store does of it has a finer test of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_probes_do_not_tell_what_others_hold_from_what_nobody_has() {
    const PROBES: usize = 10_000;
    const SAME: f64 = 0.05;
    let server = shared();
    server
        .deploy("probing", site_with(b"the prober's own"))
        .await;
    let secret = site_with(&noise(6, 4_000_000));
    server.deploy("probed", secret.clone()).await;
    let held = ids(&cut(&secret));
    let package = *blake3::hash(&secret).as_bytes();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = |path: &str| {
        let url = format!("http://{}/v1/projects/probing/{path}", server.api);
        client.post(url).bearer_auth(&server.token)
    };
    let list = |body: Vec<u8>| {
        let request = post("deployments").header("content-type", MEDIA_TYPE);
        request.body(body)
    };
    for kind in ["question", "claim", "base"] {
        let (mut of_others, mut of_nobody) = (Vec::new(), Vec::new());
        let mut answers = std::collections::HashSet::new();
        for n in 0..PROBES {
            let nobodys = *blake3::hash(&n.to_le_bytes()).as_bytes();
            // Which of the two is first changes, too.
            for turn in 0..2 {
                let is_of_others = (turn + n) % 2 == 0;
                let (chunk, base) = match is_of_others {
                    true => (held[n % held.len()], package),
                    false => (nobodys, nobodys),
                };
                let (taken, answer) = probe(match kind {
                    "question" => post("missing").body(chunk.to_vec()),
                    "claim" => list(claim(&chunk, None)),
                    _ => list(claim(&chunk, Some(&base))),
                })
                .await;
                answers.insert(answer);
                match is_of_others {
                    true => of_others.push(taken),
                    false => of_nobody.push(taken),
                }
            }
        }
        assert_eq!(answers.len(), 1, "{kind}: {answers:?}");
        let distance = distance(of_others, of_nobody);
        assert!(
            distance < SAME,
            "{kind}: the distributions are {distance} apart"
        );
    }
    assert_eq!(deployments(&server, "probing").await, 1);
}
