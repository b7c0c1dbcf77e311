//! A server that is killed, at every boundary of the journal and at random, and one that is stopped in order: what
//! was acknowledged is there, what was under way goes on or ends, and nothing is left over.

use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_deploy::faults;
use reqwest::Method;
use serde_json::{Value, json};

use crate::package::{self, site};
use crate::queueing::{client, endless, newest, sleeping, step_is};
use crate::server::{Server, assert_dense, wait_for};

/// A head whose install step prints so many lines, a tenth of a second apart.
fn slow(lines: u32) -> Value {
    json!({ "pipeline": { "install": [
        { "plugin": "slow", "config": { "lines": lines, "pause_ms": 100 } },
    ]}})
}

async fn admit(server: &Server) {
    for (name, program) in [("slow", "print_slowly"), ("fail", "fail")] {
        server
            .admit(name, cofferdam_test_guests::program(program))
            .await;
    }
}

/// Everything that must hold of a data directory once its server has come back and nothing runs any more: every
/// deployment has ended once, its events are dense, and nothing is left in staging. Answers the newest.
async fn in_order(server: &Server, project: &str) -> Option<Value> {
    let page = server
        .get_json(&format!("/v1/deployments?project={project}"))
        .await;
    let mut newest = None;
    for record in page["deployments"].as_array().unwrap() {
        let record = server.end_of(record).await;
        let events = server.events(record["id"].as_str().unwrap(), 0).await;
        assert_dense(&events, 1);
        assert_eq!(events.last().unwrap()["status"], record["status"]);
        assert_eq!(record["events"]["last"], json!(events.len()));
        newest.get_or_insert(record);
    }
    wait_for("staging to be empty", async || {
        server.names_in("staging").is_empty().then_some(())
    })
    .await;
    newest
}

fn kinds(events: &[Value], kind: &str) -> Vec<Value> {
    let of_kind = events.iter().filter(|event| event["kind"] == kind);
    of_kind.cloned().collect()
}

/// Kills a server at a point of a deployment, and looks at what the next one makes of it.
async fn killed_at(data: &Path, point: &str, head: &Value, fails: bool) {
    let mut server = Server::start_faulty(data, point);
    let title = format!("killed at {point}");
    let request = server
        .request(Method::POST, "/v1/projects/blog/deployments")
        .header("Cofferdam-Head", head.to_string())
        .body(package::tar(&site(&title)));
    let answer = tokio::spawn(request.send());
    server.wait();
    let answer = answer.await.unwrap();
    let accepted = answer.is_ok_and(|answer| answer.status().as_u16() == 202);

    let server = Server::start_on(data);
    let served = server.serves("blog", "/").await;
    assert_eq!(served.0, 200, "{point}: the last release is served at once");
    let record = in_order(&server, "blog").await.unwrap();
    let before_the_record = ["staging-made"];
    if before_the_record.contains(&point) {
        assert!(!accepted);
        return;
    }
    let (status, code) = (&record["status"], &record["error"]["code"]);
    if record["package"]["blake3"].is_null() {
        assert!(!accepted, "{point}: {record:#}");
        let ended = fails && *code == "step_failed";
        assert!(
            ended || *code == "upload_interrupted",
            "{point}: {record:#}"
        );
    } else if fails {
        assert_eq!(*code, "step_failed", "{point}: {record:#}");
    } else {
        assert_eq!(*status, "succeeded", "{point}: {record:#}");
        assert!(
            server.serves("blog", "/").await.1.contains(&title),
            "{point}"
        );
    }
}

async fn killed_at_each(points: &[&str], head: &Value, fails: bool) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    {
        let server = Server::start_on(&data);
        admit(&server).await;
        server
            .succeed("blog", &json!({}), package::tar(&site("before")))
            .await;
    }
    for point in points {
        assert!(faults::POINTS.contains(point), "{point}");
        killed_at(&data, point, head, fails).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_deployed_or_still_there_wherever_the_server_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    for point in [
        "staging-made",
        "accepted",
        "package-stored",
        "package-recorded",
        "release-published",
    ] {
        let mut server = Server::start_faulty(&data, point);
        let package = package::tar(&site(point));
        let made = server
            .request(Method::POST, "/v1/uploads?project=blog")
            .header("Upload-Complete", "?1")
            .header("Content-Type", "application/x-tar")
            .body(package.clone());
        let made = made.send().await.unwrap();
        assert!(made.status().is_success(), "{made:?}");
        let place = made.headers()["location"].to_str().unwrap().to_owned();
        let upload = place.rsplit('/').next().unwrap();
        let deploy = async |server: &Server| {
            server
                .request(Method::POST, "/v1/projects/blog/deployments")
                .header("Content-Type", "application/json")
                .body(json!({ "upload": upload }).to_string())
                .send()
                .await
        };
        let _ = deploy(&server).await;
        server.wait();

        let server = Server::start_on(&data);
        let record = in_order(&server, "blog").await;
        let is_deployed = record.is_some_and(|record| !record["package"]["blake3"].is_null());
        let left = server.request(Method::HEAD, &place).send().await.unwrap();
        assert_eq!(left.status().as_u16() == 404, is_deployed, "{point}");
        if !is_deployed {
            assert_eq!(left.headers()["upload-complete"], "?1", "{point}");
            let again = deploy(&server).await.unwrap();
            assert_eq!(again.status(), 202, "{point}");
        }
        let record = in_order(&server, "blog").await.unwrap();
        assert_eq!(record["status"], "succeeded", "{point}: {record:#}");
        let id = record["id"].as_str().unwrap();
        let path = format!("/v1/deployments/{id}/package");
        let kept = server.request(Method::GET, &path).send().await.unwrap();
        assert!(kept.bytes().await.unwrap() == package, "{point}");
        let left = server.request(Method::HEAD, &place).send().await.unwrap();
        assert_eq!(left.status(), 404, "{point}");
    }
}

/// The points that every deployment passes, in two halves, those of a failing one, and those with a test of their own.
const FIRST: [&str; 8] = [
    "staging-made",
    "accepted",
    "lease-taken",
    "step-begun",
    "step-ended",
    "step-recorded",
    "package-stored",
    "package-recorded",
];
const SECOND: [&str; 8] = [
    "release-frozen",
    "publish-intended",
    "release-published",
    "services-started",
    "activation-recorded",
    "routes-replaced",
    "end-written",
    "staging-discarded",
];
const FAILING: [&str; 4] = [
    "teardown-intended",
    "staging-discarded",
    "failure-recorded",
    "end-written",
];
const ALONE: [&str; 5] = [
    "tree-durable",
    "resume-recorded",
    "pointer-moved",
    "retention-recorded",
    "project-removed",
];

#[test]
fn every_point_is_killed_at() {
    let tested = [&FIRST[..], &SECOND, &FAILING, &ALONE].concat();
    for point in faults::POINTS {
        assert!(tested.contains(&point), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_any_boundary_before_the_release_comes_back_and_goes_on() {
    killed_at_each(&FIRST, &json!({}), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_any_boundary_of_the_activation_comes_back_and_goes_on() {
    killed_at_each(&SECOND, &json!({}), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_any_boundary_of_a_failure_comes_back_to_the_same_failure() {
    let head = json!({ "pipeline": { "install": [{ "plugin": "fail" }] } });
    killed_at_each(&FAILING, &head, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_goes_on_behind_the_tree_that_was_kept_even_if_resuming_it_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    // Two seconds of an install step are worth a sync.
    let mut server = Server::start_on(&data);
    admit(&server).await;
    let head = json!({ "pipeline": {
        "install": [{ "plugin": "slow", "config": { "lines": 12, "pause_ms": 100 } }],
        "load": { "plugin": "slow", "config": { "lines": 30, "pause_ms": 100 } },
    }});
    let record = server
        .deploy("blog", &head, package::tar(&site("kept")))
        .await;
    let id = record["id"].as_str().unwrap().to_owned();
    step_is(&server, &id, 2, "running").await;
    server.kill();
    let mut server = Server::start_faulty(&data, "resume-recorded");
    server.wait();

    let server = Server::start_on(&data);
    let record = in_order(&server, "blog").await.unwrap();
    assert_eq!(record["status"], "succeeded", "{record:#}");
    let events = server.events(&id, 0).await;
    let resumed = kinds(&events, "resumed");
    // The cut off start had not come to say it.
    assert_eq!(resumed.len(), 1, "{resumed:?}");
    assert_eq!(resumed[0]["from"], "load");
    let install: Vec<_> = kinds(&events, "line")
        .into_iter()
        .filter(|line| line["step"] == "install-1")
        .collect();
    assert_eq!(install.len(), 12, "the install step ran once: {install:?}");
    assert_eq!(record["release"]["files"], 3, "{record:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_cut_short_runs_again_over_a_clean_tree_and_makes_the_same_release() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    admit(&server).await;
    let whole = server
        .succeed("blog", &slow(2), package::tar(&site("same")))
        .await;
    let record = server
        .deploy("blog", &slow(12), package::tar(&site("same")))
        .await;
    let id = record["id"].as_str().unwrap().to_owned();
    step_is(&server, &id, 1, "running").await;
    let seen = wait_for("a line", async || {
        let record = server.get_json(&format!("/v1/deployments/{id}")).await;
        let text = record["events"]["summary"].to_string();
        text.contains("line 2")
            .then(|| record["events"]["last"].clone())
    })
    .await;
    server.kill();

    let server = Server::start_on(&data);
    let record = in_order(&server, "blog").await.unwrap();
    assert_eq!(record["status"], "succeeded", "{record:#}");
    assert_eq!(record["release"]["digest"], whole["release"]["digest"]);
    let events = server.events(&id, 0).await;
    assert!(events.len() as u64 > seen.as_u64().unwrap());
    let resumed = kinds(&events, "resumed");
    assert_eq!(resumed.len(), 1, "{resumed:?}");
    assert_eq!(resumed[0]["from"], "extract");

    // A server killed with the tree on the disk and nothing recorded of it.
    drop(server);
    let mut server = Server::start_faulty(&data, "tree-durable");
    server
        .deploy("blog", &slow(11), package::tar(&site("same")))
        .await;
    server.wait();
    let server = Server::start_on(&data);
    let record = in_order(&server, "blog").await.unwrap();
    assert_eq!(record["release"]["digest"], whole["release"]["digest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_waits_again_in_its_order_and_an_upload_in_flight_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    let running = sleeping(&server, "blog").await;
    let waiting = server
        .deploy("blog", &json!({}), package::tar(&site("waited")))
        .await;
    let upload = crate::queueing::begin_upload(
        &server,
        "shop",
        None,
        1 << 20,
        &package::tar(&site("x"))[..999],
    );
    let cut = newest(&server, "shop", 1).await;
    server.kill();
    drop(upload);

    let server = Server::start_on(&data);
    let cut = server.end_of(&json!({ "id": cut })).await;
    assert_eq!(cut["error"]["code"], "upload_interrupted", "{cut:#}");
    step_is(&server, &running, 1, "running").await;
    let path = format!("/v1/deployments/{}", waiting["id"].as_str().unwrap());
    assert_eq!(server.get_json(&path).await["status"], "queued");
    assert!(client(&server, &["cancel", &running]).status.success());
    let waiting = server.end_of(&waiting).await;
    assert_eq!(waiting["status"], "succeeded", "{waiting:#}");
    assert!(server.serves("blog", "/").await.1.contains("waited"));
    in_order(&server, "blog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_again_and_again_loses_nothing_that_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let begun = Instant::now();
    let mut acknowledged = Vec::new();
    // Not random at all, so that a failure can be looked for: but spread over everything a deployment does.
    let mut chance = 0x9e37_79b9_u64;
    for round in 0..12_u64 {
        let mut server = Server::start_on(&data);
        let uploads: Vec<_> = ["blog", "shop"]
            .into_iter()
            .map(|project| {
                let path = format!("/v1/projects/{project}/deployments");
                let title = format!("{project} {round}");
                let request = server
                    .request(Method::POST, &path)
                    .body(package::tar(&site(&title)));
                tokio::spawn(async move {
                    let answer = request.send().await.ok()?;
                    let accepted = answer.status().as_u16() == 202;
                    let record: Value = answer.json().await.ok()?;
                    accepted.then_some(record)
                })
            })
            .collect();
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        tokio::time::sleep(Duration::from_millis(chance >> 32 & 0xff)).await;
        server.kill();
        for upload in uploads {
            acknowledged.extend(upload.await.unwrap());
        }
        if begun.elapsed() > Duration::from_secs(15) {
            break;
        }
    }
    let server = Server::start_on(&data);
    for project in ["blog", "shop"] {
        in_order(&server, project).await;
    }
    for record in acknowledged {
        let record = server.end_of(&record).await;
        let code = record["error"]["code"].as_str();
        assert!(
            record["status"] == "succeeded" || code == Some("superseded"),
            "{record:#}"
        );
    }
    server
        .succeed("blog", &json!({}), package::tar(&site("the end")))
        .await;
    assert!(server.serves("blog", "/").await.1.contains("the end"));
    let view = server.get_json("/v1/projects/blog").await;
    assert_eq!(view["lease"], Value::Null, "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_whose_server_is_killed_in_a_move_is_where_it_was_or_where_it_was_to_go() {
    const ROUNDS: u64 = 8;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut ids = Vec::new();
    {
        let server = Server::start_on(&data);
        for title in ["one", "two"] {
            let package = package::tar(&site(title));
            let record = server.succeed("blog", &json!({}), package).await;
            ids.push((record["id"].clone(), title));
        }
    }
    let mut active = ids[1].0.clone();
    let mut moved = 0;
    for round in 0..ROUNDS {
        let mut server = Server::start_on(&data);
        let view = server.get_json("/v1/projects/blog").await;
        assert_eq!(view["active"], active, "round {round}");
        let requests: Vec<_> = ids
            .iter()
            .map(|(id, _)| {
                server
                    .request(Method::POST, "/v1/projects/blog/rollback")
                    .body(json!({ "to": id }).to_string())
            })
            .collect();
        let from = active.clone();
        // One after the other, there and back, until the server is gone.
        let moving = tokio::spawn(async move {
            let mut at = from;
            for turn in 0.. {
                let request = requests[turn % 2].try_clone().unwrap();
                match request.send().await {
                    Ok(answer) if answer.status().is_success() => {
                        let Ok(view) = answer.json::<Value>().await else {
                            return (at, turn);
                        };
                        at = view["active"].clone();
                    }
                    _ => return (at, turn),
                }
            }
            unreachable!("it moves until it is stopped")
        });
        tokio::time::sleep(Duration::from_millis(15 + 37 * round % 150)).await;
        server.kill();
        let (acknowledged, turns) = moving.await.unwrap();
        moved += turns;

        let server = Server::start_on(&data);
        let served = server.serves("blog", "/").await.1;
        let view = server.get_json("/v1/projects/blog").await;
        active = view["active"].clone();
        let (_, title) = ids.iter().find(|(id, _)| *id == active).unwrap();
        assert!(served.contains(title), "round {round}: {served}");
        // The move that was under way leads to the one of the two that the last acknowledged did not.
        let history = server.get_json("/v1/projects/blog/history?limit=200").await;
        let newest = &history["history"][0];
        assert_eq!(newest["release"], active, "round {round}");
        assert!(
            active == acknowledged || newest["previous"] == acknowledged,
            "round {round}: {acknowledged} was acknowledged, {newest:#}"
        );
    }
    assert!(moved > 0, "it was killed before anything moved, every time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_whose_route_did_not_follow_holds_with_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut first = Value::Null;
    {
        let server = Server::start_on(&data);
        for title in ["two", "one"] {
            let package = package::tar(&site(title));
            let record = server.succeed("blog", &json!({}), package).await;
            if first.is_null() {
                first = record["id"].clone();
            }
        }
    }
    let mut server = Server::start_faulty(&data, "pointer-moved");
    let moved = server
        .request(Method::POST, "/v1/projects/blog/rollback")
        .body("{}");
    assert!(moved.send().await.is_err());
    server.wait();
    let server = Server::start_on(&data);
    assert!(server.serves("blog", "/").await.1.contains("two"));
    let view = server.get_json("/v1/projects/blog").await;
    assert_eq!(view["active"], first);
    let history = server.get_json("/v1/projects/blog/history").await;
    assert_eq!(history["history"][0]["cause"], "rollback");
    in_order(&server, "blog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_was_cut_off_in_is_taken_away_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let first = {
        let server = Server::start_on(&data);
        let package = package::tar(&site("one"));
        server.succeed("blog", &json!({}), package).await
    };
    std::fs::write(data.join("policy.toml"), "[retention]\nreleases = 1\n").unwrap();
    let mut server = Server::start_faulty(&data, "retention-recorded");
    let second = server
        .deploy("blog", &json!({}), package::tar(&site("two")))
        .await;
    server.wait();

    let server = Server::start_on(&data);
    let kept = second["id"].as_str().unwrap();
    wait_for("the older release to go", async || {
        (server.releases("blog") == [kept]).then_some(())
    })
    .await;
    let path = format!("/v1/deployments/{}/package", first["id"].as_str().unwrap());
    wait_for("its package to go", async || {
        let response = server.request(Method::GET, &path).send().await.unwrap();
        (response.status().as_u16() == 404).then_some(())
    })
    .await;
    assert!(server.serves("blog", "/").await.1.contains("two"));
    let path = format!("/v1/deployments/{kept}/package");
    let response = server.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_whose_removal_was_cut_off_is_gone_with_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    {
        let server = Server::start_on(&data);
        for title in ["one", "two"] {
            server
                .succeed("blog", &json!({}), package::tar(&site(title)))
                .await;
        }
        server
            .succeed("shop", &json!({}), package::tar(&site("stays")))
            .await;
    }
    let mut server = Server::start_faulty(&data, "project-removed");
    let removed = server.request(Method::DELETE, "/v1/projects/blog");
    assert!(removed.send().await.is_err());
    server.wait();

    let server = Server::start_on(&data);
    assert_eq!(server.serves("blog", "/").await.0, 404);
    assert!(server.serves("shop", "/").await.1.contains("stays"));
    in_order(&server, "shop").await;
    assert_eq!(server.names_in("releases"), ["shop"]);
    assert_eq!(server.names_in("events").len(), 1, "the log that is left");
    let again = server.request(Method::DELETE, "/v1/projects/blog");
    assert_eq!(again.send().await.unwrap().status().as_u16(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_release_serves_before_the_rest_is_brought_into_order() {
    const UNFINISHED: usize = 60;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let start = || {
        let begun = Instant::now();
        let server = Server::start_on_with(&data, &["--max-steps", "1"]);
        (server, begun)
    };
    {
        let server = start().0;
        server
            .succeed("live", &json!({}), package::tar(&site("live")))
            .await;
    }
    let (mut server, begun) = start();
    assert_eq!(server.serves("live", "/").await.0, 200);
    let control = begun.elapsed();
    sleeping(&server, "blog").await;
    let package = package::tar(&site("waits"));
    let uploads = (0..UNFINISHED).map(|n| {
        let request = server
            .request(Method::POST, &format!("/v1/projects/p{n}/deployments"))
            .header("Cofferdam-Head", endless().to_string())
            .body(package.clone());
        async move { assert_eq!(request.send().await.unwrap().status().as_u16(), 202) }
    });
    futures::future::join_all(uploads).await;
    server.kill();

    let (server, begun) = start();
    let served = server.serves("live", "/").await;
    let took = begun.elapsed();
    assert!(served.1.contains("live"));
    // An idle machine starts in a fraction of a second; a busy one takes as long for the control.
    assert!(
        took < Duration::from_secs(1) + 2 * control,
        "{took:?} with {UNFINISHED} to recover, {control:?} with none"
    );
    let page = server.get_json("/v1/deployments?limit=200").await;
    let unfinished = page["deployments"].as_array().unwrap().iter();
    let unfinished = unfinished.filter(|record| record["finished_at"].is_null());
    assert_eq!(unfinished.count(), UNFINISHED + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_in_order_lets_steps_end_and_leaves_the_rest_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on_with(&data, &["--grace", "2"]);
    admit(&server).await;
    let sleeping = sleeping(&server, "blog").await;
    let record = server
        .deploy("shop", &slow(8), package::tar(&site("ends")))
        .await;
    let ending = record["id"].as_str().unwrap().to_owned();
    step_is(&server, &ending, 1, "running").await;
    server.terminate();
    server.wait();

    let server = Server::start_on(&data);
    let record = server.end_of(&record).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    let events = server.events(&ending, 0).await;
    // Its install step came to its end, and what it left was kept, however little it was.
    assert_eq!(kinds(&events, "resumed")[0]["from"], "load", "{events:?}");
    step_is(&server, &sleeping, 1, "running").await;
    let events = server
        .get_json(&format!("/v1/deployments/{sleeping}"))
        .await;
    assert!(events["error"].is_null(), "{events:#}");
    assert!(client(&server, &["cancel", &sleeping]).status.success());
    in_order(&server, "blog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_die_is_said_to_be_stuck_and_not_to_be_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_faulty(&directory.path().join("data"), "step-stuck");
    server
        .admit("forever", cofferdam_test_guests::program("sleep_forever"))
        .await;
    let head = json!({ "pipeline": { "extract": { "plugin": "forever" } } });
    let record = server
        .deploy("blog", &head, package::tar(&site("stuck")))
        .await;
    let id = record["id"].as_str().unwrap();
    step_is(&server, id, 0, "running").await;
    for _ in 0..2 {
        let answer = server
            .request(Method::POST, &format!("/v1/deployments/{id}/cancel"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 409);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "step_stuck", "{problem:#}");
    }
    let record = server.end_of(&record).await;
    assert_eq!(record["status"], "failed", "{record:#}");
    assert_eq!(record["error"]["code"], "step_stuck", "{record:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_nobodys_keeps_no_server_from_coming_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start_on(directory.path());
    server
        .succeed("blog", &json!({}), package::tar(&site("blog")))
        .await;
    server.kill();
    for place in ["", "releases", "staging", "events", "cache", "plugins"] {
        std::fs::write(directory.path().join(place).join("stray"), "nobody's").unwrap();
    }
    let server = Server::start_on(directory.path());
    let answer = server.get_json("/v1/deployments?project=blog").await;
    assert_eq!(answer["deployments"][0]["status"], "succeeded");
    assert_eq!(server.serves("blog", "/").await.0, 200);
    for place in ["", "releases", "events", "plugins"] {
        assert!(
            directory.path().join(place).join("stray").exists(),
            "{place}"
        );
    }
}
