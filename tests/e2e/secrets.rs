//! A canary: a step says a secret in every way, and no byte that the host has stored, sent or logged holds it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use futures::{StreamExt as _, stream};
use memchr::memmem;
use serde_json::{Value, json};

use crate::package::{self, site};
use crate::server::{Server, assert_dense, cofferdam, events_in, wait_for};
use crate::telling::{Message, receiver};

/// Every encoding changes something about it.
const CANARY: &str = "c4n/Ry+\"p\u{e4}ss\"-7f3Qz81LmX0w~<&>\\tail";

/// What is granted beside it and never read.
const UNUSED: &str = "another-secret-that-nobody-reads";

/// The length of a piece that is not to be seen anywhere.
const PIECE: usize = 12;

/// The forms that are looked for, by other code than the host's.
fn forms() -> BTreeMap<String, Vec<u8>> {
    let bytes = CANARY.as_bytes();
    let json = serde_json::to_string(CANARY).unwrap();
    let json = json.trim_matches('"');
    let percent = |keep: &str| {
        let one = |byte: &u8| match *byte {
            byte if byte.is_ascii_alphanumeric() || keep.contains(char::from(byte)) => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        };
        bytes.iter().map(one).collect::<String>()
    };
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = BTreeMap::from(
        [
            ("plain", CANARY.to_owned()),
            ("debug", format!("{CANARY:?}").trim_matches('"').to_owned()),
            ("json", json.to_owned()),
            ("json, slashes escaped", json.replace('/', "\\/")),
            ("base64", STANDARD_NO_PAD.encode(bytes)),
            ("base64 for URLs", URL_SAFE.encode(bytes)),
            ("hex", hex.clone()),
            ("upper hex", hex.to_uppercase()),
            ("percent", percent("")),
            ("percent, component", percent("-_.~")),
            ("percent, lower", percent("-_.~").to_lowercase()),
        ]
        .map(|(name, form)| (name.to_owned(), form.into_bytes())),
    );
    // The base64 of a text that the secret stands in, without the characters that it shares with what surrounds it.
    for before in 1..3 {
        let within = STANDARD.encode([&vec![b'x'; before][..], bytes, b"xxx"].concat());
        let core = within.as_bytes()[before + 1..within.len() - 8].to_vec();
        forms.insert(format!("base64 behind {before}"), core);
    }
    forms
}

/// Where and as what a secret can be seen.
fn seen(bytes: &[u8]) -> Option<String> {
    for (name, form) in forms() {
        // Any piece of the length contains one of these, whose distance is half of it, and all of them are looked for.
        for piece in form
            .windows(PIECE)
            .step_by(if bytes.len() < 1 << 20 { 1 } else { PIECE })
        {
            if let Some(at) = memmem::find(bytes, piece) {
                let around = &bytes[at.saturating_sub(60)..bytes.len().min(at + 60)];
                return Some(format!("{name}: {}", String::from_utf8_lossy(around)));
            }
        }
    }
    None
}

fn unseen(what: &str, bytes: &[u8]) {
    if let Some(seen) = seen(bytes) {
        panic!("{what} holds the secret as {seen}");
    }
}

/// How often something was taken out.
fn marks(text: &str) -> usize {
    text.matches("[redacted]").count()
}

/// Looks at every file of a directory but those below `releases`, and says how many there were.
fn unseen_in(directory: &Path) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            if entry.file_name() != "releases" {
                files += unseen_in(&path);
            }
        } else {
            unseen(&path.display().to_string(), &std::fs::read(&path).unwrap());
            files += 1;
        }
    }
    files
}

fn run(server: &Server, arguments: &[&str], stdin: &[u8]) -> (Option<i32>, String, String) {
    let mut child = cofferdam()
        .args(arguments)
        .env("COFFERDAM_URL", server.url(""))
        .env("COFFERDAM_TOKEN", &server.token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn head(end: &str) -> Value {
    json!({ "pipeline": { "install": [
        { "plugin": "tell-secret", "config": { "end": end }, "request": { "secrets": ["CANARY", "UNUSED"] } },
        { "plugin": "tell-file" },
    ] } })
}

async fn text_of(server: &Server, path: &str, accept: &str) -> String {
    let request = server
        .request(reqwest::Method::GET, path)
        .header("Accept", accept);
    request.send().await.unwrap().text().await.unwrap()
}

async fn the_canary_is_seen_nowhere(arguments: &[&str]) {
    // One who is told everything that leaves the server: a project's news, and traces.
    let (hook, messages) = receiver(0).await;
    let place = tempfile::tempdir().unwrap();
    let policy = place.path().join("policy.toml");
    std::fs::write(&policy, "[network]\nallow_ranges = [\"127.0.0.0/8\"]\n").unwrap();
    let policy = policy.display().to_string();
    let collector = hook.trim_end_matches("/hook");
    let mut server =
        Server::start_traced(&[arguments, &["--policy", &policy, "--otlp", collector]].concat());
    for (name, program) in [("tell-secret", "tell_secret"), ("tell-file", "tell_file")] {
        server
            .admit(name, cofferdam_test_guests::program(program))
            .await;
    }
    for (name, value) in [("CANARY", CANARY), ("UNUSED", UNUSED)] {
        let value = format!("{value}\n");
        let (code, said, errors) = run(&server, &["secret", "set", "blog", name], value.as_bytes());
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!((said.trim(), errors.as_str()), (name, ""));
    }

    let mut failed = Vec::new();
    for (end, code, least) in [
        ("success", None, 26),
        ("panic", Some("step_trapped"), 24),
        ("failure", Some("step_failed"), 24),
        ("release", Some("release_invalid"), 26),
    ] {
        // The answer is the stream of events.
        let answer = server
            .request(reqwest::Method::POST, "/v1/projects/blog/deployments")
            .header("Cofferdam-Head", head(end).to_string())
            .header("Accept", "text/event-stream")
            .body(package::tar(&site("canary")))
            .send()
            .await
            .unwrap();
        let stream = answer.text().await.unwrap();
        unseen("the stream", stream.as_bytes());
        assert!(marks(&stream) >= least, "{end}: {}", marks(&stream));
        let events = events_in(&stream);
        assert_dense(&events, 1);
        let id = events[0]["deployment"].as_str().unwrap().to_owned();

        let path = format!("/v1/deployments/{id}");
        let record = server.get_json(&path).await;
        unseen("the record", record.to_string().as_bytes());
        assert_eq!(record["error"]["code"].as_str(), code, "{record:#}");
        assert_eq!(
            record["steps"][1]["receipt"]["secrets_read"],
            json!(["CANARY"])
        );
        if code == Some("release_invalid") {
            // The name of a file that it is refused for.
            assert_eq!(
                marks(&record["error"]["message"].to_string()),
                1,
                "{record:#}"
            );
        } else if code.is_some() {
            let lines = record["error"]["lines"].to_string();
            assert!(marks(&lines) > 5, "{lines}");
            failed.push(id.clone());
        } else {
            let found = events
                .iter()
                .any(|event| event["step"] == "install-2" && event["text"] == "found: [redacted]");
            assert!(found, "a later step prints what it finds in the release");
        }
        // The one of them has lines only.
        for (accept, least) in [("text/plain", 16), ("application/x-ndjson", least)] {
            let log = text_of(&server, &format!("{path}/log"), accept).await;
            unseen("the log", log.as_bytes());
            assert!(marks(&log) >= least, "{accept}: {log}");
        }
        let replayed = server.events(&id, 0).await;
        assert_eq!(replayed, events);
        // The project is there since the first of them.
        let (code, _, errors) = run(&server, &["webhook", "set", "blog", &hook], b"");
        assert_eq!(code, Some(0), "{errors}");
    }

    // What a person and a script see of it.
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("blog");
    package::write_to(&root, &site("canary"));
    std::fs::write(
        root.join("cofferdam.toml"),
        "[[install]]\nplugin = \"tell-secret\"\nconfig = { end = \"panic\" }\n\
         request = { secrets = [\"CANARY\", \"UNUSED\"] }\n",
    )
    .unwrap();
    let root = root.to_str().unwrap();
    for arguments in [
        &["deploy", root][..],
        &["deploy", "--json", root],
        &["log", &failed[0]],
        &["show", &failed[1]],
        &["list"],
        &["secret", "list", "blog"],
    ] {
        let (_, out, err) = run(&server, arguments, b"");
        unseen(&arguments.join(" "), out.as_bytes());
        unseen(&arguments.join(" "), err.as_bytes());
        assert!(!(out + &err).contains(UNUSED));
    }

    let figures = text_of(&server, "/metrics", "text/plain").await;
    unseen("the figures", figures.as_bytes());
    wait_for("the news of a name that is refused", async || {
        let messages = messages.lock().unwrap();
        let told = |message: &Message| {
            message.body.contains("release_invalid") && marks(&message.body) > 0
        };
        messages.iter().any(told).then_some(())
    })
    .await;
    wait_for("the trash to be empty", async || {
        (server.names_in("trash").is_empty() && server.names_in("staging").is_empty()).then_some(())
    })
    .await;
    let leaked = std::fs::read_dir(server.data().join("releases/blog"))
        .unwrap()
        .map(|release| release.unwrap().path())
        // A kept release has its list of files beside it.
        .find(|path| path.is_dir())
        .map(|release| std::fs::read(release.join("leaked.txt")).unwrap())
        .unwrap();
    assert!(
        seen(&leaked).is_some(),
        "the files of a release are the step's own affair, and show that this test can see"
    );
    assert!(unseen_in(server.data()) > 10);
    let log = server.log();
    assert!(log.contains("DEBUG"), "the server logs all there is to log");
    unseen("the server's log", log.as_bytes());
    assert!(!log.contains(UNUSED));
    // And after everything was written back, and posted.
    server.terminate();
    server.wait();
    assert!(unseen_in(server.data()) > 10);
    let messages = messages.lock().unwrap();
    let traced = |message: &Message| {
        message.headers.starts_with("POST /v1/traces") && message.body.contains(&failed[1])
    };
    assert!(messages.iter().any(traced));
    for message in messages.iter() {
        unseen("the head of a message", message.headers.as_bytes());
        unseen("a message", message.body.as_bytes());
        assert!(!message.body.contains(UNUSED));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_a_step_says_in_every_way_is_seen_nowhere() {
    the_canary_is_seen_nowhere(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_where_steps_run_on_threads() {
    the_canary_is_seen_nowhere(&["--isolation", "thread"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_there_is_refused_by_name_before_the_package_is_read() {
    let server = Server::start();
    for (name, program) in [("tell-secret", "tell_secret"), ("tell-file", "tell_file")] {
        server
            .admit(name, cofferdam_test_guests::program(program))
            .await;
    }
    // Another project's, and one of this project that is there.
    for (project, name) in [("shop", "CANARY"), ("blog", "UNUSED")] {
        let (code, _, errors) = run(&server, &["secret", "set", project, name], b"a value\n");
        assert_eq!(code, Some(0), "{errors}");
    }
    let refused = async || {
        let answer = server
            .request(reqwest::Method::POST, "/v1/projects/blog/deployments")
            .header("Cofferdam-Head", head("success").to_string())
            // A package of which no more comes than its first bytes.
            .body(reqwest::Body::wrap_stream(
                stream::once(async { Ok::<_, std::io::Error>(vec![b'x'; 512]) })
                    .chain(stream::pending()),
            ))
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let (status, problem) = refused().await;
    assert_eq!(status, 403, "{problem}");
    assert_eq!(problem["code"], "grant_denied");
    let denied = problem["errors"].as_array().unwrap();
    assert_eq!(denied.len(), 1, "{problem}");
    assert!(
        denied[0]
            .as_str()
            .unwrap()
            .contains("cofferdam secret set blog CANARY")
    );
    let deployments = server.get_json("/v1/deployments").await;
    assert_eq!(deployments["deployments"], json!([]));

    // A secret without its key is as good as none.
    run(&server, &["secret", "set", "blog", "CANARY"], b"a value\n");
    std::fs::remove_file(server.data().join("secrets.key")).unwrap();
    let (status, problem) = refused().await;
    assert_eq!(status, 409, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("secrets.key"),
        "{problem}"
    );
    let (code, _, errors) = run(&server, &["secret", "set", "blog", "NEW"], b"a value\n");
    assert_eq!(code, Some(3), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_a_value_from_a_pipe_or_a_file_and_never_from_its_arguments() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem");
    std::fs::write(
        &key,
        "-----BEGIN KEY-----\nMC4CAQAwBQYDK2VwBCIE\n-----END KEY-----\n",
    )
    .unwrap();
    let key = key.to_str().unwrap();
    let secret = |arguments: &[&str], stdin: &[u8]| {
        let arguments = [&["secret"], arguments].concat();
        run(&server, &arguments, stdin)
    };
    assert_eq!(secret(&["set", "blog", "A"], b"short\n").0, Some(0));
    let (code, out, errors) = secret(&["set", "blog", "A", "--json"], b"1234567\n");
    assert_eq!(code, Some(0));
    assert_eq!(
        serde_json::from_str::<Value>(&out).unwrap()["redacted"],
        false
    );
    assert!(errors.contains("8 bytes"), "{errors}");
    assert_eq!(
        secret(&["set", "blog", "KEY", "--file", key], b"").0,
        Some(0)
    );
    assert_eq!(secret(&["set", "blog", "B"], b"").0, Some(2));
    assert_eq!(secret(&["set", "blog", "B", "value"], b"").0, Some(2));
    assert_eq!(secret(&["set", "blog", "1B"], b"x").0, Some(2));
    let large = vec![b'x'; (64 << 10) + 1];
    assert_eq!(secret(&["set", "blog", "B"], &large).0, Some(3));
    let (_, list, _) = secret(&["list", "blog"], b"");
    assert_eq!(list.lines().count(), 3, "{list}");
    assert_eq!(secret(&["remove", "blog", "A"], b"").0, Some(0));
    assert_eq!(secret(&["remove", "blog", "A"], b"").0, Some(3));
    let (_, list, _) = secret(&["list", "blog", "--json"], b"");
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()["name"], "KEY");
}
