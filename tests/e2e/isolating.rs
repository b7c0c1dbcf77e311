//! Steps in processes of their own: killed ones, orphaned ones, and a machine without Landlock.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::package::{self, site};
use crate::server::{Server, cofferdam, wait_for};

/// The processes that a process has started and that still run.
pub(crate) fn children(process: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    // A thread may end while it is looked at.
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let Ok(task) = task else { continue };
        if let Ok(children) = std::fs::read_to_string(task.path().join("children")) {
            found.extend(
                children
                    .split_whitespace()
                    .map(|id| id.parse::<u32>().unwrap()),
            );
        }
    }
    found.retain(|child| runs(*child));
    found
}

pub(crate) fn runs(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

/// A deployment whose install step computes for ever, at a moment when it does.
async fn running(server: &Server) -> Value {
    server
        .admit("spin", cofferdam_test_guests::program("loop_forever"))
        .await;
    let head = json!({ "pipeline": { "install": [{ "plugin": "spin" }] } });
    let record = server
        .deploy("blog", &head, package::tar(&site("never")))
        .await;
    let path = format!("/v1/deployments/{}", record["id"].as_str().unwrap());
    wait_for("the install step to run", async || {
        let log = server
            .request(reqwest::Method::GET, &format!("{path}/log"))
            .send()
            .await
            .unwrap();
        log.text().await.unwrap().contains("looping").then_some(())
    })
    .await;
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_process_is_killed_fails_with_a_clear_error_and_the_next_deployment_works() {
    let server = Server::start();
    let record = running(&server).await;
    // Idle ones die too, which nobody may notice.
    for child in children(server.process()) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    let ended = server.end_of(&record).await;
    assert_eq!(ended["status"], "failed", "{ended:#}");
    assert_eq!(ended["error"]["code"], "interrupted", "{ended:#}");
    assert_eq!(ended["error"]["step"], "install-1", "{ended:#}");
    let message = ended["error"]["message"].as_str().unwrap();
    assert!(message.contains("killed by signal 9"), "{message}");
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    server
        .succeed("blog", &json!({}), package::tar(&site("after")))
        .await;
    assert!(server.serves("blog", "/").await.1.contains("after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_outlives_a_server_that_is_killed() {
    let mut server = Server::start();
    running(&server).await;
    let workers = children(server.process());
    assert!(!workers.is_empty());
    server.kill();
    wait_for("the workers to die with it", async || {
        workers.iter().all(|worker| !runs(*worker)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_landlock_is_warned_of_and_one_that_requires_it_runs_nothing() {
    let guarded = Server::start();
    assert!(!guarded.log().contains("Landlock is"), "{}", guarded.log());

    let server = Server::start_with(&["--landlock", "off"]);
    assert!(
        server.log().contains("Landlock is switched off"),
        "{}",
        server.log()
    );
    server
        .succeed("blog", &json!({}), package::tar(&site("all the same")))
        .await;

    let doctor = cofferdam()
        .args(["doctor", "--json", "--landlock", "off"])
        .output()
        .unwrap();
    assert!(doctor.status.success(), "{doctor:?}");
    let findings: Vec<Value> = String::from_utf8(doctor.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let standing = |check: &str| {
        findings
            .iter()
            .find(|finding| finding["check"] == check)
            .unwrap()["standing"]
            .clone()
    };
    assert_eq!(standing("landlock"), "warning");
    assert_eq!(standing("worker"), "ok");
    let doctor = cofferdam().args(["doctor", "--json"]).output().unwrap();
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(text.contains("Landlock is enforced"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_on_threads_are_a_choice_that_is_said_aloud() {
    let server = Server::start_with(&["--isolation", "thread"]);
    assert!(server.log().contains("only wall"), "{}", server.log());
    assert_eq!(children(server.process()).len(), 0);
    server
        .succeed("blog", &json!({}), package::tar(&site("on a thread")))
        .await;
}
