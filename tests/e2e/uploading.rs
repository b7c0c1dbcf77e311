//! Packages that are sent without what the server has, and over links that break.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::server::{Server, cofferdam, wait_for};

/// What the test's server puts into a pack, and what its client sends to an upload.
const PACK: u64 = 1 << 20;

/// More than all requests have beside the bytes of a package: heads, questions, and a deployment's own.
const BESIDE: u64 = 256 << 10;

/// A link that counts what goes to the server, and breaks where it is told to.
struct Link {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    passed: Arc<AtomicU64>,
    /// Every connection is cut when so many bytes have passed; each place serves once.
    cuts: Arc<Mutex<Vec<u64>>>,
    /// Nothing passes any more, and nothing is cut either.
    stuck: Arc<AtomicBool>,
    tricks: Arc<Mutex<Tricks>>,
}

/// What else the link does to what passes.
#[derive(Default)]
struct Tricks {
    /// Gets stuck before the first request that begins like this.
    stick_at: Option<&'static str>,
    /// Gets stuck before more bytes than these go to the server.
    stick_past: Option<u64>,
    /// Breaks before a request that has this in it, as if the server were not there; and how often it did.
    lose: Option<&'static str>,
    lost: usize,
    /// Flips a bit when so many bytes have gone to the server.
    flip_at: Option<u64>,
    /// What the server says, and what is made of it; not in this many answers before.
    replace: Option<(&'static str, &'static str, usize)>,
    /// How often that came to something.
    replaced: usize,
}

fn find(bytes: &[u8], sought: &str) -> Option<usize> {
    let sought = sought.as_bytes();
    bytes.windows(sought.len()).position(|here| here == sought)
}

impl Link {
    fn to(server: SocketAddr) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link {
            address: listener.local_addr().unwrap(),
            server: Arc::new(Mutex::new(server)),
            passed: Arc::default(),
            cuts: Arc::default(),
            stuck: Arc::default(),
            tricks: Arc::default(),
        };
        let (server, passed) = (Arc::clone(&link.server), Arc::clone(&link.passed));
        let (cuts, stuck) = (Arc::clone(&link.cuts), Arc::clone(&link.stuck));
        let tricks = Arc::clone(&link.tricks);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let target = *server.lock().unwrap();
                // A server that is away refuses, and so does the link.
                let Ok(upstream) = TcpStream::connect(target) else {
                    continue;
                };
                let (from, to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                let passed = Arc::clone(&passed);
                let (cuts, stuck) = (Arc::clone(&cuts), Arc::clone(&stuck));
                let (there, back) = (Arc::clone(&tricks), Arc::clone(&tricks));
                std::thread::spawn(move || forward(from, to, &passed, &cuts, &stuck, &there));
                std::thread::spawn(move || answer(upstream, client, &back));
            }
        });
        link
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn cut_at(&self, places: impl IntoIterator<Item = u64>) {
        let passed = self.passed();
        let mut places: Vec<u64> = places.into_iter().map(|place| passed + place).collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        *self.cuts.lock().unwrap() = places;
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Waits until it is stuck, as it was told to get.
    async fn is_stuck(&self) {
        wait_for("the link to be stuck", async || {
            self.stuck.load(Ordering::SeqCst).then_some(())
        })
        .await;
    }

    /// Waits until it has lost so many requests.
    async fn has_lost(&self, requests: usize) {
        wait_for("requests to be lost", async || {
            (self.tricks.lock().unwrap().lost >= requests).then_some(())
        })
        .await;
    }

    fn is_free(&self) {
        self.stuck.store(false, Ordering::SeqCst);
    }
}

/// What the server says to the client.
fn answer(mut from: TcpStream, mut to: TcpStream, tricks: &Mutex<Tricks>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut tricks = tricks.lock().unwrap();
        let Tricks {
            replace, replaced, ..
        } = &mut *tricks;
        if let Some((said, other, before)) = replace
            && let Some(at) = find(&buffer[..read], said)
        {
            if *before == 0 {
                buffer[at..at + other.len()].copy_from_slice(other.as_bytes());
                *replaced += 1;
            } else {
                *before -= 1;
            }
        }
        drop(tricks);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn forward(
    mut from: TcpStream,
    mut to: TcpStream,
    passed: &AtomicU64,
    cuts: &Mutex<Vec<u64>>,
    stuck: &AtomicBool,
    tricks: &Mutex<Tricks>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            break;
        }
        {
            let mut tricks = tricks.lock().unwrap();
            if tricks
                .stick_at
                .is_some_and(|line| find(&buffer[..read], line).is_some())
            {
                tricks.stick_at = None;
                stuck.store(true, Ordering::SeqCst);
            }
            if tricks
                .lose
                .is_some_and(|line| find(&buffer[..read], line).is_some())
            {
                tricks.lost += 1;
                break;
            }
            let end = passed.load(Ordering::SeqCst) + read as u64;
            if tricks.stick_past.is_some_and(|place| place < end) {
                tricks.stick_past = None;
                stuck.store(true, Ordering::SeqCst);
            }
            if tricks.flip_at.is_some_and(|place| place < end) {
                tricks.flip_at = None;
                buffer[read / 2] ^= 1;
            }
        }
        while stuck.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let total = passed.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        let mut cuts = cuts.lock().unwrap();
        if cuts.last().is_some_and(|place| total >= *place) {
            cuts.pop();
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A site of so many files of 256 KiB each.
fn site(root: &Path, files: u64) {
    std::fs::write(root.join("index.html"), "the page").unwrap();
    for n in 0..files {
        std::fs::write(root.join(format!("{n}.bin")), noise(n, 256 << 10)).unwrap();
    }
    std::fs::write(root.join("cofferdam.toml"), "project = \"sent\"\n").unwrap();
}

fn server() -> Server {
    Server::start_with(&["--pack-bytes", &PACK.to_string()])
}

fn command(server: &Server, url: &str, root: &Path, home: &Path) -> std::process::Command {
    let mut command = cofferdam();
    command
        .args(["deploy", "--json", "--url", url, "--token", &server.token])
        .args(["--resumable-bytes", &PACK.to_string()])
        .arg(root)
        .env("HOME", home)
        .env_remove("XDG_STATE_HOME")
        .env_remove("XDG_CACHE_HOME")
        .env_remove("http_proxy")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The same, and every file is read, however sure it is that it did not change.
fn rereading(server: &Server, url: &str, root: &Path, home: &Path) -> std::process::Command {
    let mut command = command(server, url, root, home);
    command.arg("--reread");
    command
}

/// Returns when every file was left alone for so long that a client remembers it.
async fn settled(root: &Path) {
    wait_for("the files to be old enough", async || {
        let old = |entry: std::io::Result<std::fs::DirEntry>| {
            let changed = entry.unwrap().metadata().unwrap().modified().unwrap();
            changed.elapsed().is_ok_and(|age| age.as_secs() >= 4)
        };
        std::fs::read_dir(root).unwrap().all(old).then_some(())
    })
    .await;
}

/// The line that says what was sent, and the record, of a deployment that ended well.
fn told(output: &Output) -> (Value, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let find = |kind: &str| lines.iter().rfind(|line| line["kind"] == kind).cloned();
    let record = find("record").unwrap_or_else(|| panic!("{text}\n{errors}"));
    let record = record["record"].clone();
    assert_eq!(record["status"], "succeeded", "{record:#}\n{errors}");
    (find("sent").unwrap(), record)
}

async fn run(mut command: std::process::Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

async fn wait(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap()
}

/// Takes a deployment's package away; what it served stays.
async fn remove_package(server: &Server, record: &Value) {
    let package = format!("/v1/deployments/{}/package", record["id"].as_str().unwrap());
    let gone = server.request(reqwest::Method::DELETE, &package).send();
    assert_eq!(gone.await.unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_at_10_50_and_90_percent_costs_at_most_a_pack_each_time() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 48);
    let package: u64 = 12 << 20;
    link.cut_at([10, 50, 90].map(|percent| package * percent / 100));
    let output = run(command(&server, &link.url(), root.path(), home.path())).await;
    let (sent, record) = told(&output);
    assert_eq!(sent["breaks"], 3, "{sent}");
    assert!(link.cuts.lock().unwrap().is_empty());
    let bytes = record["package"]["bytes"].as_u64().unwrap();
    let again = link.passed() - bytes;
    assert!(
        again <= 3 * PACK,
        "{again} bytes were sent again, or beside"
    );
    assert_eq!(server.serves("sent", "/").await.1, "the page");
    let uploads = home.path().join(".local/state/cofferdam/uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
    // One deployment came of it, and no upload is left.
    let list = server.get_json("/v1/deployments?project=sent").await;
    assert_eq!(list["deployments"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_middle_is_gone_on_with_when_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let pack = PACK.to_string();
    let mut first = Server::start_on_with(&data, &["--pack-bytes", &pack]);
    let link = Link::to(first.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 48);
    link.tricks.lock().unwrap().stick_past = Some(6 << 20);
    let child = command(&first, &link.url(), root.path(), home.path())
        .spawn()
        .unwrap();
    let uploads = home.path().join(".local/state/cofferdam/uploads");
    let (place, told_before) = wait_for("an offset in the middle", async || {
        let file = std::fs::read_dir(&uploads).ok()?.next()?.ok()?;
        let state: Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
        let place = format!("/v1/uploads/{}", state["upload"].as_str()?);
        let offset = first.get_json(&place).await["offset"].as_u64()?;
        (offset > 2 * PACK).then_some((place, offset))
    })
    .await;
    first.kill();
    let second = Server::start_on_with(&data, &["--pack-bytes", &pack]);
    // What was told holds after the kill, and the client goes on from there.
    let offset = second.get_json(&place).await["offset"].as_u64().unwrap();
    assert!(offset >= told_before, "{offset} after {told_before}");
    *link.server.lock().unwrap() = second.api;
    let before = link.passed();
    link.is_free();
    let (_, record) = told(&wait(child).await);
    let bytes = record["package"]["bytes"].as_u64().unwrap();
    let rest = link.passed() - before;
    assert!(rest <= bytes - offset + PACK, "{rest} bytes after {offset}");
    assert_eq!(second.serves("sent", "/").await.1, "the page");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_goes_on_the_next_time_it_is_asked() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 48);
    // Two thirds of the package.
    link.tricks.lock().unwrap().stick_past = Some(8 << 20);
    let mut child = command(&server, &link.url(), root.path(), home.path())
        .spawn()
        .unwrap();
    link.is_stuck().await;
    child.kill().unwrap();
    child.wait().unwrap();
    link.is_free();
    let uploads = home.path().join(".local/state/cofferdam/uploads");
    let state = std::fs::read_dir(&uploads).unwrap().next().unwrap();
    let state = std::fs::read(state.unwrap().path()).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    let place = format!("/v1/uploads/{}", state["upload"].as_str().unwrap());
    // How much of what was on its way counts is the server's to say, once it has seen the connection go.
    let offset = wait_for("what arrived to be durable", async || {
        let offset = server.get_json(&place).await["offset"].as_u64()?;
        (offset > PACK).then_some(offset)
    })
    .await;
    let before = link.passed();
    let output = run(command(&server, &link.url(), root.path(), home.path())).await;
    let (_, record) = told(&output);
    let bytes = record["package"]["bytes"].as_u64().unwrap();
    let rest = link.passed() - before;
    assert!(
        rest <= bytes - offset + BESIDE,
        "{rest} of {bytes} were sent, and {offset} were there"
    );
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
}

/// As ctrl-c does.
fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_deployed_by_the_next_client_when_the_server_was_away_after_the_last_byte()
{
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 40);
    let uploads = home.path().join(".local/state/cofferdam/uploads");
    // The whole of a package; edits that go to an upload because their request breaks; and many edits.
    for (edits, cut, page) in [
        (0, None, "whole"),
        (2, Some(300 << 10), "few"),
        (8, None, "many"),
    ] {
        for n in 0..edits {
            // What arrives compressed has nothing in common with a package, so an upload of it is not held as one.
            let text: String = noise(100 * edits + n, 128 << 10)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            std::fs::write(root.path().join(format!("{}.bin", 3 * n)), text).unwrap();
        }
        std::fs::write(root.path().join("index.html"), page).unwrap();
        link.cut_at(cut);
        // The request that makes a deployment of an upload.
        link.tricks.lock().unwrap().lose = Some("\"upload\":\"");
        let child = rereading(&server, &link.url(), root.path(), home.path())
            .spawn()
            .unwrap();
        link.has_lost(1).await;
        interrupt(&child);
        let output = wait(child).await;
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert!(link.cuts.lock().unwrap().is_empty());

        // The next one is more patient with it than for a few seconds.
        link.tricks.lock().unwrap().lost = 0;
        let before = link.passed();
        let child = rereading(&server, &link.url(), root.path(), home.path())
            .spawn()
            .unwrap();
        link.has_lost(if edits == 0 { 7 } else { 1 }).await;
        *link.tricks.lock().unwrap() = Tricks::default();
        told(&wait(child).await);
        let passed = link.passed() - before;
        assert!(passed < BESIDE, "{passed} bytes were sent for {page}");
        assert_eq!(server.serves("sent", "/").await.1, page);
        assert_eq!(std::fs::read_dir(&uploads).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_deployment_sends_what_was_edited_and_says_what_it_spared() {
    let server = server();
    let url = server.url("");
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 40);
    let first = run(command(&server, &url, root.path(), home.path())).await;
    assert_eq!(told(&first).0["spared_bytes"], 0);
    std::fs::write(root.path().join("7.bin"), noise(99, 256 << 10)).unwrap();
    std::fs::write(root.path().join("index.html"), "edited").unwrap();
    let second = run(command(&server, &url, root.path(), home.path())).await;
    let (sent, record) = told(&second);
    let bytes = record["package"]["bytes"].as_u64().unwrap();
    let through = sent["sent_bytes"].as_u64().unwrap();
    assert!(through < 900_000, "{through} bytes for 256 KiB of edits");
    assert!(sent["spared_bytes"].as_u64().unwrap() > bytes - 900_000);
    assert_eq!(server.serves("sent", "/").await.1, "edited");
    // Nothing was edited: the list alone goes.
    let third = run(rereading(&server, &url, root.path(), home.path())).await;
    assert!(told(&third).0["sent_bytes"].as_u64().unwrap() < 20_000);

    // Another project has none of it.
    let mut other = command(&server, &url, root.path(), home.path());
    other.args(["--project", "other"]);
    assert_eq!(told(&run(other).await).0["spared_bytes"], 0);
}

/// Gives so many files of a site other contents.
fn edit(root: &Path, seed: u64, files: u64) {
    for n in 0..files {
        let name = root.join(format!("{}.bin", 3 * n));
        std::fs::write(name, noise(1000 * seed + n, 256 << 10)).unwrap();
    }
}

/// The server's name for the only upload that a client remembers, and what the server says of it.
async fn remembered_upload(server: &Server, home: &Path) -> Option<Value> {
    let uploads = home.join(".local/state/cofferdam/uploads");
    let file = std::fs::read_dir(uploads).ok()?.next()?.ok()?;
    let state: Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    let place = format!("/v1/uploads/{}", state["upload"].as_str()?);
    Some(server.get_json(&place).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_whose_request_breaks_are_sent_again_without_the_rest_of_the_package() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 40);
    told(&run(rereading(&server, &link.url(), root.path(), home.path())).await);
    // Two files and what is around them in their chunks: less than goes to an upload at once.
    let edits: u64 = 600 << 10;
    for (seed, cuts) in [&[10][..], &[50], &[90], &[10, 50, 90]].iter().enumerate() {
        edit(root.path(), 1 + seed as u64, 2);
        let page = format!("edit {seed}");
        std::fs::write(root.path().join("index.html"), &page).unwrap();
        let before = link.passed();
        link.cut_at(cuts.iter().map(|percent| edits * percent / 100));
        let output = run(rereading(&server, &link.url(), root.path(), home.path())).await;
        let (sent, _) = told(&output);
        assert!(sent["spared_bytes"].as_u64().unwrap() > 8 << 20, "{sent}");
        assert!(link.cuts.lock().unwrap().is_empty(), "{cuts:?}");
        let passed = link.passed() - before;
        // As much as one request has at most, and what a break may cost.
        assert!(passed <= PACK + PACK, "{passed} bytes for {cuts:?}, {sent}");
        assert_eq!(server.serves("sent", "/").await.1, page);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_between_the_questions_is_asked_over_again() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 40);
    settled(root.path()).await;
    told(&run(rereading(&server, &link.url(), root.path(), home.path())).await);
    // About 2 KiB of names for every 4 MiB of the package; before them, whether there is anything at all.
    let before = link.passed();
    link.cut_at([1500, 3000, 4500, 6000]);
    let output = run(rereading(&server, &link.url(), root.path(), home.path())).await;
    let (sent, record) = told(&output);
    assert!(link.cuts.lock().unwrap().is_empty());
    assert_eq!(sent["spared_bytes"], record["package"]["bytes"]);
    let passed = link.passed() - before;
    assert!(passed < 40_000, "{passed} bytes passed");

    // Of a directory that is remembered, the list of its package is asked for too.
    let before = link.passed();
    for question in ["/v1/projects/sent/missing", "/v1/projects/sent/chunks"] {
        link.tricks.lock().unwrap().lose = Some(question);
        link.tricks.lock().unwrap().lost = 0;
        let child = command(&server, &link.url(), root.path(), home.path())
            .spawn()
            .unwrap();
        link.has_lost(2).await;
        link.tricks.lock().unwrap().lose = None;
        told(&wait(child).await);
    }
    let passed = link.passed() - before;
    assert!(passed < 10_000, "{passed} bytes passed");

    // But not for ever.
    link.tricks.lock().unwrap().lose = Some("/v1/projects/sent/missing");
    let child = command(&server, &link.url(), root.path(), home.path())
        .args(["--patience", "1"])
        .spawn()
        .unwrap();
    assert_eq!(wait(child).await.status.code(), Some(4));
}

/// Takes all the places that a token has among the uploads, for a project that has none, until they are dropped.
fn all_places(server: &Server, project: &str) -> Vec<TcpStream> {
    let take = |_| {
        let mut stream = TcpStream::connect(server.api).unwrap();
        let head = format!(
            "POST /v1/uploads?project={project} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
             expect: 100-continue\r\nupload-complete: ?0\r\ncontent-length: 1000000\r\n\r\n",
            server.api, server.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The server wants the body: so it has its place.
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100");
        stream
    };
    (0..16).map(take).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_too_many_uploads_waits_until_one_of_them_is_over() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // In one request, to an upload, and what was edited in one request.
    for (round, (files, edits)) in [(2, 0), (20, 0), (20, 2)].into_iter().enumerate() {
        site(root.path(), files);
        edit(root.path(), 1, edits);
        let page = format!("round {round}");
        std::fs::write(root.path().join("index.html"), &page).unwrap();
        *link.tricks.lock().unwrap() = Tricks {
            replace: Some(("429 Too", "429 Too", 0)),
            ..Tricks::default()
        };
        let places = all_places(&server, &format!("other-{round}"));
        let child = rereading(&server, &link.url(), root.path(), home.path())
            .spawn()
            .unwrap();
        wait_for("the server to refuse", async || {
            (link.tricks.lock().unwrap().replaced > 0).then_some(())
        })
        .await;
        drop(places);
        let (sent, _) = told(&wait(child).await);
        assert_eq!(sent["breaks"], 0, "{sent}");
        assert_eq!(server.serves("sent", "/").await.1, page);
    }
    let codes = codes(&server).await;
    assert_eq!(codes, [json!(null), json!(null), json!(null)]);

    // What the server does not take for so long is given up, with the server's own words.
    let _places = all_places(&server, "another");
    edit(root.path(), 2, 2);
    let output = rereading(&server, &link.url(), root.path(), home.path())
        .args(["--patience", "1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("this token has 16 uploads under way"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_edits_are_gone_on_with_after_breaks_and_by_the_next_client() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 48);
    told(&run(rereading(&server, &link.url(), root.path(), home.path())).await);
    // Eight files of 256 KiB, so at least two packs.
    let edits = 2 * PACK;
    edit(root.path(), 1, 8);
    let before = link.passed();
    link.cut_at([10, 50, 90].map(|percent| edits * percent / 100));
    let output = run(rereading(&server, &link.url(), root.path(), home.path())).await;
    let (sent, _) = told(&output);
    assert_eq!(sent["breaks"], 3, "{sent}");
    assert!(link.cuts.lock().unwrap().is_empty());
    // What is around the edits in their chunks is less than as much again.
    let passed = link.passed() - before;
    assert!(passed <= 2 * edits + 3 * PACK, "{passed} bytes");

    edit(root.path(), 2, 8);
    std::fs::write(root.path().join("index.html"), "edited").unwrap();
    link.tricks.lock().unwrap().stick_past = Some(link.passed() + edits * 3 / 4);
    let mut child = rereading(&server, &link.url(), root.path(), home.path())
        .spawn()
        .unwrap();
    link.is_stuck().await;
    child.kill().unwrap();
    child.wait().unwrap();
    // What is between the two is lost.
    link.cut_at([0]);
    link.is_free();
    wait_for("the connection to be cut", async || {
        link.cuts.lock().unwrap().is_empty().then_some(())
    })
    .await;
    let upload = wait_for("what arrived to be durable", async || {
        let upload = remembered_upload(&server, home.path()).await?;
        (upload["offset"].as_u64()? >= PACK).then_some(upload)
    })
    .await;
    let (length, offset) = (&upload["length"], &upload["offset"]);
    let left = length.as_u64().unwrap() - offset.as_u64().unwrap();
    let before = link.passed();
    let output = run(rereading(&server, &link.url(), root.path(), home.path())).await;
    assert!(told(&output).0["spared_bytes"].as_u64().unwrap() > 8 << 20);
    let passed = link.passed() - before;
    assert!(passed <= left + BESIDE, "{passed} bytes, {left} were left");
    assert_eq!(server.serves("sent", "/").await.1, "edited");
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_that_broke_are_sent_whole_when_what_they_lean_on_went_meanwhile() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 40);
    let first = run(rereading(&server, &link.url(), root.path(), home.path())).await;
    let (_, first) = told(&first);
    edit(root.path(), 1, 2);
    std::fs::write(root.path().join("index.html"), "edited").unwrap();
    let before = link.passed();
    link.cut_at([300 << 10]);
    // The request that makes a deployment of what was sent again.
    link.tricks.lock().unwrap().stick_at = Some("\"upload\":\"");
    let child = rereading(&server, &link.url(), root.path(), home.path())
        .spawn()
        .unwrap();
    link.is_stuck().await;
    assert!(link.cuts.lock().unwrap().is_empty());
    assert!(
        link.passed() - before < 2 * PACK,
        "more than the edits went"
    );
    remove_package(&server, &first).await;
    link.is_free();
    let (sent, record) = told(&wait(child).await);
    let bytes = record["package"]["bytes"].as_u64().unwrap();
    // The edits once or twice, and the whole package; beside them, a few hundred bytes of requests.
    let (said, passed) = (sent["sent_bytes"].as_u64().unwrap(), link.passed() - before);
    assert_eq!(sent["spared_bytes"], 0);
    assert!(
        said > bytes + (600 << 10) && said < bytes + 2 * PACK,
        "{sent}"
    );
    assert!(passed > bytes, "{passed} of {bytes} bytes");
    assert_eq!(server.serves("sent", "/").await.1, "edited");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_change_since_the_last_time_is_neither_read_nor_named() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 40);
    settled(root.path()).await;
    let deploy = async |more: &[&str]| {
        let mut command = command(&server, &link.url(), root.path(), home.path());
        let before = link.passed();
        let output = run({
            command.args(more);
            command
        })
        .await;
        let (sent, record) = told(&output);
        let bytes = record["package"]["bytes"].as_u64().unwrap();
        let digest = record["package"]["blake3"].as_str().unwrap().to_owned();
        let (sent, spared) = (&sent["sent_bytes"], &sent["spared_bytes"]);
        let sent = (sent.as_u64().unwrap(), spared.as_u64().unwrap());
        (digest, bytes, sent, link.passed() - before)
    };
    let (whole, bytes, (_, spared), _) = deploy(&[]).await;
    assert_eq!(spared, 0);
    // A line for all of it; without what is remembered, a question and a line for each chunk.
    let (digest, _, (sent, spared), passed) = deploy(&[]).await;
    assert_eq!((&digest, spared), (&whole, bytes));
    assert!(sent < 1000 && passed < 8000, "{sent} of {passed}");
    let (digest, _, (sent, spared), passed) = deploy(&["--reread"]).await;
    assert_eq!((&digest, spared), (&whole, bytes));
    assert!(sent > 3000 && passed > 8000, "{sent} of {passed}");

    // What is new, what is another, and what went: the package is the one that anybody else would make of it.
    let write = |name: &str, data: &[u8]| std::fs::write(root.path().join(name), data).unwrap();
    write("17.bin", &noise(99, 100 << 10));
    write("170.bin", &noise(98, 100 << 10));
    std::fs::remove_file(root.path().join("30.bin")).unwrap();
    write("index.html", b"another page");
    let (digest, bytes, (sent, spared), _) = deploy(&[]).await;
    // Of the chunks around it, only what is another.
    assert!(
        sent < 220_000 && spared > bytes - 220_000,
        "{sent}, {spared}"
    );
    let (again, _, _, _) = deploy(&["--reread"]).await;
    assert_eq!(
        (&again, server.serves("sent", "/").await.1),
        (&digest, "another page".to_owned())
    );

    // Nothing of what is remembered has to be right.
    let remembered = home.path().join(".local/state/cofferdam/packages");
    let files: Vec<_> = std::fs::read_dir(remembered)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(files.len(), 1);
    std::fs::write(files[0].path(), "no memory").unwrap();
    assert_eq!(deploy(&[]).await.0, digest);
    let list = server.get_json("/v1/deployments?project=sent").await;
    for record in list["deployments"].as_array().unwrap() {
        remove_package(&server, record).await;
    }
    let (again, _, (_, spared), _) = deploy(&[]).await;
    assert_eq!((again, spared), (digest, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_that_was_to_be_spared_is_sent_again_and_healed() {
    let server = server();
    let url = server.url("");
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // As much as makes the steps wait for it.
    site(root.path(), 160);
    told(&run(command(&server, &url, root.path(), home.path())).await);
    // Not in the first pack: what is wrong with the first chunks is found before there is a deployment.
    let packs = std::fs::read_dir(server.data().join("blobs/packs")).unwrap();
    let mut packs: Vec<_> = packs.map(|pack| pack.unwrap().path()).collect();
    packs.sort();
    let pack = &packs[packs.len() - 3];
    let mut bytes = std::fs::read(pack).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(pack, bytes).unwrap();
    // The first attempt meets it and fails; what is sent then does not lean on it.
    let output = run(command(&server, &url, root.path(), home.path())).await;
    let (_, record) = told(&output);
    assert_eq!(record["error"], json!(null));
    let list = server.get_json("/v1/deployments?project=sent").await;
    let records = list["deployments"].as_array().unwrap();
    let failed = records
        .iter()
        .find(|record| record["error"]["code"] == "chunks_missing")
        .unwrap_or_else(|| panic!("{list:#}"));
    // No step began to read what was not whole.
    let events = server.events(failed["id"].as_str().unwrap(), 0).await;
    assert!(
        events.iter().all(|event| event["status"] != "extracting"),
        "{events:#?}"
    );
}

/// The codes of a project's deployments, the newest first.
async fn codes(server: &Server) -> Vec<Value> {
    let list = server.get_json("/v1/deployments?project=sent").await;
    list["deployments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["error"]["code"].clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_forgets_between_its_answer_and_the_package_is_sent_after_all() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 20);
    let first = run(command(&server, &link.url(), root.path(), home.path())).await;
    let (_, first) = told(&first);
    std::fs::write(root.path().join("index.html"), "edited").unwrap();
    link.tricks.lock().unwrap().stick_at = Some("POST /v1/projects/sent/deployments");
    let before = link.passed();
    let child = command(&server, &link.url(), root.path(), home.path())
        .spawn()
        .unwrap();
    link.is_stuck().await;
    // The only package that had the chunks goes; the release stays.
    remove_package(&server, &first).await;
    link.is_free();
    let (_, record) = told(&wait(child).await);
    let bytes = record["package"]["bytes"].as_u64().unwrap();
    assert!(link.passed() - before > bytes, "something was leaned on");
    assert_eq!(server.serves("sent", "/").await.1, "edited");
    // It was refused before it was a deployment.
    assert_eq!(codes(&server).await, [json!(null), json!(null)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_begins_to_cut_in_another_way_gets_the_package_all_the_same() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 20);
    settled(root.path()).await;
    told(&run(rereading(&server, &link.url(), root.path(), home.path())).await);
    for (round, replace) in [
        // One that this client does not know, from the second answer on; other numbers, from the first and later on.
        ("\"version\":1,", "\"version\":2,", 1),
        ("\"average\":65536", "\"average\":32768", 0),
        ("\"average\":65536", "\"average\":32768", 2),
    ]
    .into_iter()
    .enumerate()
    {
        let page = format!("round {round}");
        std::fs::write(root.path().join("index.html"), &page).unwrap();
        *link.tricks.lock().unwrap() = Tricks {
            replace: Some(replace),
            ..Tricks::default()
        };
        told(&run(rereading(&server, &link.url(), root.path(), home.path())).await);
        assert!(link.tricks.lock().unwrap().replaced > 0, "{replace:?}");
        assert_eq!(server.serves("sent", "/").await.1, page);

        // What is remembered of the directory is of no use either, when nobody here can cut the rest of it.
        std::fs::write(root.path().join("index.html"), format!("again {page}")).unwrap();
        *link.tricks.lock().unwrap() = Tricks {
            replace: Some(("\"version\":1,", "\"version\":2,", 0)),
            ..Tricks::default()
        };
        told(&run(command(&server, &link.url(), root.path(), home.path())).await);
        assert_eq!(server.serves("sent", "/").await.1, format!("again {page}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_does_not_arrive_as_it_was_sent_is_sent_again() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 20);
    told(&run(rereading(&server, &link.url(), root.path(), home.path())).await);
    std::fs::write(root.path().join("7.bin"), noise(99, 256 << 10)).unwrap();
    // Behind the questions and the list, in the middle of what was edited.
    link.tricks.lock().unwrap().flip_at = Some(link.passed() + (150 << 10));
    let output = run(rereading(&server, &link.url(), root.path(), home.path())).await;
    told(&output);
    assert!(link.tricks.lock().unwrap().flip_at.is_none());
    let codes = codes(&server).await;
    assert_eq!(codes.len(), 3, "{codes:?}");
    let mangled = [json!("digest_mismatch"), json!("package_invalid")];
    assert!(mangled.contains(&codes[1]), "{codes:?}");
    assert_eq!(server.serves("sent", "/").await.1, "the page");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_stays_broken_is_given_up_with_the_code_for_it() {
    let server = server();
    let link = Link::to(server.api);
    let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    site(root.path(), 20);
    link.tricks.lock().unwrap().stick_past = Some(1 << 20);
    let child = command(&server, &link.url(), root.path(), home.path())
        .args(["--patience", "1"])
        .spawn()
        .unwrap();
    link.is_stuck().await;
    *link.server.lock().unwrap() = "127.0.0.1:1".parse().unwrap();
    // Every connection that there is.
    link.cut_at([0; 100]);
    link.is_free();
    let output = wait(child).await;
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}
