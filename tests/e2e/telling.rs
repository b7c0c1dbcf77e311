//! What people and programs are told: the reason with what to do, the news of a project, and an exit code.

use std::io::Read as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::package::{self, site};
use crate::server::{Server, cofferdam, wait_for};

/// One message as it was received.
pub(crate) struct Message {
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> &str {
        let line = self.headers.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        });
        line.unwrap_or_else(|| panic!("no {name} in {}", self.headers))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A receiver that answers the first `failures` messages with 503, and all others with 204.
pub(crate) async fn receiver(failures: usize) -> (String, Arc<Mutex<Vec<Message>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let messages = Arc::new(Mutex::new(Vec::new()));
    let received = messages.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            let (head, length) = loop {
                let mut part = [0; 4096];
                let more = stream.read(&mut part).await.unwrap();
                read.extend_from_slice(&part[..more]);
                let text = String::from_utf8_lossy(&read).into_owned();
                if let Some(end) = text.find("\r\n\r\n") {
                    let head = text[..end].to_owned();
                    let length = head.lines().find_map(|line| {
                        let (name, value) = line.split_once(": ")?;
                        name.eq_ignore_ascii_case("content-length")
                            .then(|| value.parse::<usize>().unwrap())
                    });
                    break (head, end + 4 + length.unwrap());
                }
                assert!(more > 0, "the request broke off");
            };
            while read.len() < length {
                let mut part = [0; 4096];
                let more = stream.read(&mut part).await.unwrap();
                read.extend_from_slice(&part[..more]);
            }
            let body = String::from_utf8(read[head.len() + 4..].to_vec()).unwrap();
            let number = {
                let mut received = received.lock().unwrap();
                received.push(Message {
                    headers: head,
                    body,
                });
                received.len()
            };
            let answer: &[u8] = if number <= failures {
                b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            } else {
                b"HTTP/1.1 204 Thanks\r\nConnection: close\r\n\r\n"
            };
            stream.write_all(answer).await.unwrap();
        }
    });
    (url, messages)
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projects_news_are_posted_signed_again_until_they_are_taken_and_without_what_was_printed()
{
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, "[network]\nallow_ranges = [\"127.0.0.0/8\"]\n").unwrap();
    let server = Server::start_with(&["--policy", &policy.display().to_string()]);
    server
        .admit("fail", cofferdam_test_guests::program("fail"))
        .await;
    let first = server
        .succeed("blog", &json!({}), package::tar(&site("one")))
        .await;
    let (url, messages) = receiver(1).await;
    let (code, secret, err) = server.client(&["webhook", "set", "blog", &url]);
    assert_eq!(code, 0, "{err}");
    let key = secret.trim().strip_prefix("whsec_").unwrap();
    let key = base64::engine::general_purpose::STANDARD
        .decode(key)
        .unwrap();

    let head =
        json!({ "pipeline": { "install": [{ "plugin": "fail", "config": { "code": 3 } }] } });
    let failed = server.fail("blog", &head, package::tar(&site("two"))).await;
    // The first attempt was in vain: the same message comes again.
    wait_for("the message, twice", async || {
        (messages.lock().unwrap().len() >= 2).then_some(())
    })
    .await;
    {
        let messages = messages.lock().unwrap();
        assert_eq!(messages[0].body, messages[1].body);
        assert_eq!(
            messages[0].header("webhook-id"),
            messages[1].header("webhook-id")
        );
        let message = &messages[1];
        let news = message.json();
        assert_eq!(news["type"], "deployment.failed", "{news:#}");
        let data = &news["data"];
        assert_eq!(data["deployment"], failed["id"]);
        assert_eq!(data["error"]["code"], "step_failed");
        assert_eq!(data["error"]["step"], "install-1");
        assert!(data["error"]["hint"].is_string(), "{data:#}");
        assert!(!message.body.contains("this did not work"), "{data:#}");
        let signed = format!(
            "{}.{}.{}",
            message.header("webhook-id"),
            message.header("webhook-timestamp"),
            message.body
        );
        let code = hmac(&key, signed.as_bytes());
        let code = base64::engine::general_purpose::STANDARD.encode(code);
        assert_eq!(message.header("webhook-signature"), format!("v1,{code}"));
    }
    server
        .succeed("blog", &json!({}), package::tar(&site("three")))
        .await;
    let back = json!({ "to": first["id"], "message": "three was wrong" });
    assert_eq!(server.roll_back("blog", &back).await.0, 200);
    let kinds = wait_for("all the news", async || {
        let messages = messages.lock().unwrap();
        let mut kinds: Vec<String> = messages
            .iter()
            .skip(1)
            .map(|message| message.json()["type"].as_str().unwrap().to_owned())
            .collect();
        kinds.sort();
        (kinds.len() == 3).then_some(kinds)
    })
    .await;
    assert_eq!(
        kinds,
        [
            "deployment.failed",
            "deployment.succeeded",
            "project.rollback"
        ]
    );
    wait_for("nothing to wait", async || {
        let view = server.get_json("/v1/projects/blog/webhook").await;
        (view["waiting"] == 0).then_some(())
    })
    .await;
    assert_eq!(server.client(&["webhook", "remove", "blog"]).0, 0);
    assert_eq!(server.client(&["webhook", "show", "blog"]).0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_reaches_no_address_that_the_operator_did_not_allow() {
    let server = Server::start();
    server
        .succeed("blog", &json!({}), package::tar(&site("one")))
        .await;
    let (url, messages) = receiver(0).await;
    assert_eq!(server.client(&["webhook", "set", "blog", &url]).0, 0);
    server
        .succeed("blog", &json!({}), package::tar(&site("two")))
        .await;
    let view = wait_for("the refusal", async || {
        let view = server.get_json("/v1/projects/blog/webhook").await;
        view["last_error"].is_string().then_some(view)
    })
    .await;
    assert!(
        view["last_error"]
            .as_str()
            .unwrap()
            .contains("allow_ranges"),
        "{view}"
    );
    assert!(messages.lock().unwrap().is_empty());
    for url in [
        "ftp://example.org/",
        "http://user:pass@example.org/",
        "nowhere",
    ] {
        assert_eq!(
            server.client(&["webhook", "set", "blog", url]).0,
            3,
            "{url}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_what_to_do_in_its_record_its_event_its_problem_and_on_the_terminal() {
    let server = Server::start();
    server
        .admit("fail", cofferdam_test_guests::program("fail"))
        .await;
    let head =
        json!({ "pipeline": { "install": [{ "plugin": "fail", "config": { "code": 3 } }] } });
    let record = server.fail("blog", &head, package::tar(&site("one"))).await;
    let error = &record["error"];
    for field in ["code", "message", "step", "hint"] {
        assert!(error[field].is_string(), "{field}: {error:#}");
    }
    assert_eq!(error["lines"].as_array().unwrap().len(), 2, "{error:#}");
    let id = record["id"].as_str().unwrap();
    let events = server.events(id, 0).await;
    let told = events
        .iter()
        .find(|event| event["kind"] == "error")
        .unwrap();
    assert_eq!(told["hint"], error["hint"]);
    let (code, out, err) = server.client(&["events", id]);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("what to do"), "{out}");
    let response = server
        .request(Method::GET, "/v1/projects/nosuch")
        .send()
        .await
        .unwrap();
    let problem: Value = response.json().await.unwrap();
    assert!(problem["hint"].is_string(), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn following_a_project_sees_every_deployment_as_it_comes_and_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    server
        .succeed("blog", &json!({}), package::tar(&site("before")))
        .await;
    let path = "/v1/projects/blog/events";
    let response = server.request(Method::GET, path).send().await.unwrap();
    let mut stream = response;
    let first = server
        .succeed(
            "blog",
            &json!({ "message": "one" }),
            package::tar(&site("one")),
        )
        .await;
    let mut text = String::new();
    while !text.contains("event: done") {
        let part = stream.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&part).unwrap());
    }
    let first_id = first["id"].as_str().unwrap();
    let ids: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    let expected: Vec<String> = (1..=ids.len())
        .map(|number| format!("{first_id}/{number}"))
        .collect();
    assert_eq!(ids, expected, "dense, and of nothing that was over before");

    // Cut off in the middle, across a restart and another deployment: no gap and no repeat.
    let last = ids[2].to_owned();
    drop(stream);
    server.kill();
    let server = Server::start_on(&data);
    let second = server
        .succeed("blog", &json!({}), package::tar(&site("two")))
        .await;
    let mut stream = server
        .request(Method::GET, path)
        .header("Last-Event-ID", &last)
        .send()
        .await
        .unwrap();
    let mut text = String::new();
    while text.matches("event: done").count() < 2 {
        let part = stream.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&part).unwrap());
    }
    let resumed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    let second_id = second["id"].as_str().unwrap();
    let events = second["events"]["last"].as_u64().unwrap();
    let mut all = expected[3..].to_vec();
    all.extend((1..=events).map(|number| format!("{second_id}/{number}")));
    assert_eq!(resumed, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_ends_with_the_code_that_says_how() {
    let server = Server::start();
    server
        .admit("fail", cofferdam_test_guests::program("fail"))
        .await;
    let good = server
        .succeed("blog", &json!({}), package::tar(&site("one")))
        .await;
    let head =
        json!({ "pipeline": { "install": [{ "plugin": "fail", "config": { "code": 3 } }] } });
    let bad = server.fail("blog", &head, package::tar(&site("two"))).await;
    let (good, bad) = (good["id"].as_str().unwrap(), bad["id"].as_str().unwrap());
    let directory = tempfile::tempdir().unwrap();
    package::write_to(directory.path(), &site("three"));
    let failing = tempfile::tempdir().unwrap();
    package::write_to(failing.path(), &site("four"));
    let manifest = "[[install]]\nplugin = \"fail\"\nconfig = { code = 3 }\n";
    std::fs::write(failing.path().join("cofferdam.toml"), manifest).unwrap();
    let unknown = tempfile::tempdir().unwrap();
    package::write_to(unknown.path(), &site("five"));
    let manifest = "[[install]]\nplugin = \"nosuch\"\n";
    std::fs::write(unknown.path().join("cofferdam.toml"), manifest).unwrap();
    let path = |directory: &tempfile::TempDir| directory.path().display().to_string();
    let (site_dir, failing_dir, unknown_dir) = (path(&directory), path(&failing), path(&unknown));
    let none = "01890000-0000-7000-8000-000000000000";
    let wasm = directory.path().join("no.wasm").display().to_string();

    // What a command is given, and the code that it ends with.
    let table: &[(&[&str], i32)] = &[
        (&["deploy", &site_dir, "-p", "site"], 0),
        (&["deploy", &failing_dir, "-p", "site"], 1),
        (&["deploy", "/nowhere/at/all"], 2),
        (&["deploy", &site_dir, "-p", "Not A Name"], 2),
        (&["deploy", &unknown_dir, "-p", "site"], 3),
        (&["events", good], 0),
        (&["events", bad], 1),
        (&["events"], 2),
        (&["events", "not-an-id!"], 2),
        (&["events", good, "--follow", "blog"], 2),
        (&["events", none], 3),
        (&["events", "--follow", "nosuch"], 3),
        (&["log", bad], 0),
        (&["log", none], 3),
        (&["list"], 0),
        (&["list", "--limit", "many"], 2),
        (&["list", "--status", "nosuch"], 3),
        (&["show", bad], 0),
        (&["show", none], 3),
        (&["projects"], 0),
        (&["projects", "too", "many"], 2),
        (&["history", "blog"], 0),
        (&["history", "nosuch"], 3),
        (&["history", "-"], 2),
        (&["pin", good], 0),
        (&["pin", none], 3),
        (&["unpin", good], 0),
        (&["unpin", none], 3),
        (&["rollback", "blog", "--to", good], 0),
        (&["rollback", "blog"], 3),
        (&["rollback", "blog", "--to", none], 3),
        (&["rollback"], 2),
        (&["verify", "blog"], 0),
        (&["verify", "nosuch"], 3),
        (&["audit"], 0),
        (&["audit", "--limit", "-1"], 2),
        (&["cancel", good], 3),
        (&["cancel", none], 3),
        (&["hold", "blog", "--reason", "a release is due"], 0),
        (&["deploy", &site_dir, "-p", "blog"], 3),
        (&["hold", "blog", "--release"], 0),
        (&["unlock", "nosuch"], 3),
        (&["webhook", "set", "blog", "http://example.org/"], 0),
        (&["webhook", "set", "blog", "nowhere"], 3),
        (&["webhook", "show", "blog"], 0),
        (&["webhook", "remove", "blog"], 0),
        (&["webhook", "remove", "blog"], 3),
        (&["webhook"], 2),
        (&["plugin", "list"], 0),
        (&["plugin", "show", "unpack@9.9.9"], 3),
        (&["plugin", "add", &wasm, "x@1.0.0"], 2),
        (&["plugin", "remove", "nosuch@1.0.0"], 3),
        (&["secret", "list", "blog"], 0),
        (&["secret", "remove", "blog", "NOSUCH"], 3),
        (&["secret", "set", "blog", "1BAD"], 2),
        (&["policy", "check", &site_dir], 0),
        (&["policy", "check", &unknown_dir], 3),
        (&["remove", "site", "--confirm", "other"], 2),
        (&["remove", "site", "--confirm", "site"], 0),
        (&["remove", "site"], 2),
        (
            &["token", "create", "--scope", "read:blog", "--name", "ci"],
            0,
        ),
        (&["token", "create", "--scope", "nonsense"], 2),
        (&["token", "create"], 2),
        (&["token", "list"], 0),
        (&["token", "revoke", "ci"], 0),
        (&["token", "revoke", "ci"], 3),
        (&["store", "gc"], 0),
        (&["store", "gc", "--dry-run", "much"], 2),
        (&["nosuch"], 2),
    ];
    let mut wrong = Vec::new();
    for (arguments, expected) in table {
        let (code, out, err) = server.client(arguments);
        if code != *expected {
            wrong.push(format!(
                "{arguments:?}: {code}, not {expected}\n{out}\n{err}"
            ));
        }
        assert!(
            code == 0 || !err.is_empty() || !out.is_empty(),
            "{arguments:?} fails without a word"
        );
    }

    // A wrong token is refused, and a server that is not there is out of reach: whatever the command.
    let commands: &[&[&str]] = &[
        &["deploy", &site_dir, "-p", "site"],
        &["events", good],
        &["events", "--follow", "blog"],
        &["log", good],
        &["list"],
        &["show", good],
        &["projects"],
        &["history", "blog"],
        &["pin", good],
        &["unpin", good],
        &["rollback", "blog"],
        &["verify", "blog"],
        &["audit"],
        &["cancel", good],
        &["unlock", "blog"],
        &["hold", "blog", "--reason", "x"],
        &["webhook", "show", "blog"],
        &["plugin", "list"],
        &["secret", "list", "blog"],
        &["remove", "blog", "--confirm", "blog"],
        &["policy", "check", &site_dir],
        &["token", "list"],
        &["store", "gc"],
    ];
    let url = server.url("");
    for arguments in commands {
        for (url, expected) in [(url.as_str(), 3), ("http://127.0.0.1:1", 4)] {
            let output = cofferdam()
                .args(*arguments)
                .args(["--url", url, "--token", "cofferdam_wrong"])
                .output()
                .unwrap();
            if output.status.code() != Some(expected) {
                wrong.push(format!("{arguments:?}, not {expected}: {output:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Whoever only waits ends at once when interrupted.
    let mut child = cofferdam()
        .args([
            "events",
            "--follow",
            "blog",
            "--url",
            &url,
            "--token",
            &server.token,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server
        .succeed("blog", &json!({}), package::tar(&site("six")))
        .await;
    let mut seen = [0; 11];
    child.stdout.take().unwrap().read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"deployment ");
    let kill = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_that_works_on_files_ends_with_the_code_that_says_how() {
    let server = Server::start();
    server
        .succeed("blog", &json!({}), package::tar(&site("one")))
        .await;
    let directory = tempfile::tempdir().unwrap();
    let unknown = directory.path().join("unknown");
    package::write_to(&unknown, &site("one"));
    let manifest = "[[install]]\nplugin = \"nosuch\"\n";
    std::fs::write(unknown.join("cofferdam.toml"), manifest).unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, "[defaults]\nnosuch = 1\n").unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (unknown, policy, file) = (path("unknown"), path("policy.toml"), path("a.tar.zst"));
    let (new, other) = (path("new"), path("other"));
    let data = server.data().display().to_string();
    let any = ["--api", "127.0.0.1:0", "--ingress", "127.0.0.1:0"];
    let serve = |arguments: &[&'static str]| [&["serve"], &any[..], arguments].concat();
    let no_collector = serve(&["--otlp", "nowhere"]);
    let up = [&["up", unknown.as_str(), "--once"], &any[..]].concat();

    let table: &[(&[&str], i32)] = &[
        (
            &["serve", "--data", &other, "--policy", "/nowhere/at/all"],
            2,
        ),
        (&["serve", "--data", &other, "--policy", &policy], 3),
        (&["serve", "--data", &other, "--api", "0.0.0.0:0"], 3),
        (&no_collector, 2),
        (&["up", "/nowhere/at/all", "--once"], 2),
        (&up, 3),
        (&["doctor", "too", "many"], 2),
        (&["backup"], 2),
        (&["backup", &file, "--data", &data], 0),
        (&["backup", &file, "--data", "/nowhere/at/all"], 3),
        (&["restore"], 2),
        (&["restore", &file, "--data", &new], 0),
        (&["restore", &file, "--data", &new], 3),
        (&["store", "check", "--data", &data], 3),
        (&["store", "reindex", "--data", &data], 3),
        (&["store", "check", "--data", &new], 0),
        (&["store", "check", "--data", &other], 2),
        (&["plugin", "new"], 2),
        (&["plugin", "new", "Not A Name"], 2),
        (&["plugin", "test", "/nowhere/at/all"], 2),
        (&["policy"], 2),
    ];
    let mut wrong = Vec::new();
    for (arguments, expected) in table {
        let output = cofferdam()
            .current_dir(directory.path())
            .args(*arguments)
            .output()
            .unwrap();
        if output.status.code() != Some(*expected) {
            wrong.push(format!("{arguments:?}, not {expected}: {output:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The commands whose codes the tests of this module look at.
const LOOKED_AT: [&str; 27] = [
    "audit", "backup", "cancel", "deploy", "doctor", "events", "history", "hold", "list", "log",
    "pin", "plugin", "policy", "projects", "remove", "restore", "rollback", "secret", "serve",
    "show", "store", "token", "unlock", "unpin", "up", "verify", "webhook",
];

#[test]
fn no_command_is_left_out() {
    let output = cofferdam().arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let commands = help.split("Commands:").nth(1).unwrap();
    let commands = commands.split("Options:").next().unwrap().lines();
    // A command's line is indented by two; what goes on is indented deeper.
    let mut found: Vec<&str> = commands
        .filter_map(|line| {
            line.strip_prefix("  ")
                .filter(|rest| !rest.starts_with(' '))
        })
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    found.sort_unstable();
    assert_eq!(found, LOOKED_AT);
}
