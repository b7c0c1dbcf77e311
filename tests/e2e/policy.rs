//! The operator's policy: what is refused before a byte, by which line, and what a cache keeps.

use serde_json::{Value, json};

use crate::package::{self, site};
use crate::server::{Server, cofferdam};

const POLICY: &str = "\
[defaults]
env = [\"FAIL\"]
cache_bytes = \"1MiB\"

[projects.shop]
cache = false
";

fn policy(directory: &std::path::Path) -> String {
    let path = directory.join("policy.toml");
    std::fs::write(&path, POLICY).unwrap();
    path.display().to_string()
}

fn head(env: &Value) -> Value {
    json!({ "pipeline": { "install": [
        { "plugin": "use-cache", "request": { "cache": true, "env": env } },
    ]}})
}

fn said(record: &Value) -> String {
    record["events"]["summary"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_survives_deployments_until_a_step_fails_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(&["--policy", &policy(directory.path())]);
    assert!(server.log().contains("policy.toml"), "{}", server.log());
    server
        .admit("use-cache", cofferdam_test_guests::program("use_cache"))
        .await;
    let package = || package::tar(&site("cached"));
    for run in 1..=2 {
        let record = server.succeed("blog", &head(&json!({})), package()).await;
        assert!(said(&record).contains(&format!("run {run}")), "{record:#}");
        assert_eq!(record["steps"][1]["grant"]["cache"], true);
    }
    server
        .fail("blog", &head(&json!({ "FAIL": "1" })), package())
        .await;
    let record = server.succeed("blog", &head(&json!({})), package()).await;
    assert!(said(&record).contains("run 1"), "{record:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_the_policy_is_refused_with_its_line_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let file = policy(directory.path());
    let server = Server::start_with(&["--policy", &file]);
    server
        .admit("use-cache", cofferdam_test_guests::program("use_cache"))
        .await;
    let root = directory.path().join("shop");
    package::write_to(&root, &site("refused"));
    let manifest =
        "[[install]]\nplugin = \"use-cache\"\nrequest = { cache = true, env = { PATH = \"/\" } }\n";
    std::fs::write(root.join("cofferdam.toml"), manifest).unwrap();

    let url = server.url("");
    let online = ["--url", &url, "--token", &server.token];
    let ways: [(&str, Vec<&str>); 3] = [
        ("deploy", [&["deploy"][..], &online].concat()),
        ("check", [&["policy", "check"][..], &online].concat()),
        ("offline", vec!["policy", "check", "--policy", &file]),
    ];
    for (name, arguments) in ways {
        let output = cofferdam().args(arguments).arg(&root).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{name}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        for words in [
            "install-1",
            "PATH",
            "policy.toml:2",
            "cache",
            "policy.toml:6",
        ] {
            assert!(said.contains(words), "{name}: {words} in {said}");
        }
    }
    let sent = server.get_json("/v1/deployments?project=shop").await;
    assert_eq!(sent["deployments"], json!([]));
}
