//! How a release takes the place of another: ready first, nothing lost in between, and back if it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::package::{self, Entry};
use crate::server::{Server, wait_for};

/// How often the flips under load change the release.
const FLIPS: usize = 200;

fn component() -> Vec<Entry> {
    vec![Entry {
        path: "app.wasm".to_owned(),
        bytes: cofferdam_test_guests::program("service").to_vec(),
    }]
}

/// A head that serves the component with this gate and these variables.
fn gated(ready: &Value, env: &Value) -> Value {
    let service = json!({
        "name": "web", "kind": "component", "path": "app.wasm",
        "request": { "env": env }, "ready": ready,
    });
    let load = json!({ "plugin": "serve", "config": { "services": [service] } });
    json!({ "pipeline": { "load": load } })
}

/// A head that serves the component and does not say how it is asked.
fn ungated() -> Value {
    let service = json!({ "name": "web", "kind": "component", "path": "app.wasm" });
    json!({ "pipeline": { "load": { "plugin": "serve", "config": { "services": [service] } } } })
}

/// A gate that asks often and gives up soon.
fn gate(within_ms: u64) -> Value {
    json!({ "path": "/health", "interval_ms": 20, "timeout_ms": 5000, "within_ms": within_ms, "watch_ms": 0 })
}

fn millis_from_now(millis: u64) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    (now + u128::from(millis)).to_string()
}

async fn services(server: &Server, project: &str) -> Vec<Value> {
    let view = server.get_json(&format!("/v1/projects/{project}")).await;
    view["services"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_takes_traffic_when_it_says_that_it_is_ready_and_not_before() {
    let server = Server::start();
    let head = gated(
        &gate(60_000),
        &json!({ "HEALTHY_FROM": millis_from_now(4000) }),
    );
    let record = server
        .deploy("api", &head, package::tar(&component()))
        .await;
    wait_for("the service to be prepared", async || {
        let project = server.get_json("/v1/projects/api").await;
        let green = project["services"][0]["role"] == "green";
        (green && server.serves("api", "/hello").await.0 == 404).then_some(())
    })
    .await;
    let record = server.end_of(&record).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    assert_eq!(server.serves("api", "/health").await.0, 200);
    let rows = services(&server, "api").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (&rows[0]["role"], &rows[0]["state"]),
        (&json!("active"), &json!("healthy"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_wants_its_status_in_its_time_and_for_as_long_as_it_says() {
    const HEALTHY: Duration = Duration::from_secs(2);
    let server = Server::start();
    let gated = |ready: &Value| {
        let mut gate = gate(60_000);
        gate.as_object_mut()
            .unwrap()
            .extend(ready.as_object().unwrap().clone());
        gated(&gate, &json!({}))
    };
    // Whatever status it names is the right one, and no other is.
    let head = gated(&json!({ "path": "/", "status": 404 }));
    server
        .succeed("api", &head, package::tar(&component()))
        .await;
    let head = gated(&json!({ "path": "/hello", "status": 204, "within_ms": 300 }));
    let failed = server.fail("api", &head, package::tar(&component())).await;
    let message = failed["error"]["message"].to_string();
    assert!(
        message.contains("200") && message.contains("204"),
        "{message}"
    );
    // An answer that does not come in time is none.
    let head = gated(&json!({ "path": "/sleep", "timeout_ms": 137, "within_ms": 400 }));
    let failed = server.fail("api", &head, package::tar(&component())).await;
    assert_eq!(failed["error"]["code"], "not_ready", "{failed:#}");
    let message = failed["error"]["message"].to_string();
    assert!(message.contains("137"), "{message}");
    // One good answer is not enough.
    let begun = Instant::now();
    let head = gated(&json!({ "healthy_ms": HEALTHY.as_millis() }));
    server
        .succeed("api", &head, package::tar(&component()))
        .await;
    assert!(begun.elapsed() >= HEALTHY, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_never_gets_ready_never_takes_traffic() {
    let server = Server::start();
    let ready = gated(&gate(10_000), &json!({}));
    server
        .succeed("api", &ready, package::tar(&component()))
        .await;
    let never = json!({ "HEALTHY_FROM": millis_from_now(3_600_000) });
    for strategy in ["blue-green", "recreate"] {
        let mut head = gated(&gate(300), &never);
        head["strategy"] = json!(strategy);
        let failed = server.fail("api", &head, package::tar(&component())).await;
        assert_eq!(failed["error"]["code"], "not_ready", "{failed:#}");
        let message = failed["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("web") && message.contains("500") && message.contains("200"),
            "{message}"
        );
        // What served before serves, also where it had to make room.
        assert_eq!(server.serves("api", "/health").await.0, 200, "{strategy}");
        assert_eq!(server.releases("api").len(), 1, "{strategy}");
        assert_eq!(services(&server, "api").await.len(), 1, "{strategy}");
    }
    // Several services get ready all or none.
    let service = |name: &str, env: &Value| {
        json!({
            "name": name, "kind": "component", "path": "app.wasm",
            "request": { "env": env }, "ready": gate(300),
        })
    };
    let both = [service("web", &json!({})), service("other", &never)];
    let load = json!({ "plugin": "serve", "config": { "services": both } });
    let head = json!({ "pipeline": { "load": load } });
    let failed = server.fail("api", &head, package::tar(&component())).await;
    assert_eq!(failed["error"]["code"], "not_ready", "{failed:#}");
    assert_eq!(server.serves("other.api", "/hello").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_makes_no_sense_is_refused_before_the_package() {
    let server = Server::start();
    for (ready, key) in [
        (json!({ "path": "health" }), "path"),
        (json!({ "interval_ms": 1 }), "interval_ms"),
        (json!({ "intervall_ms": 100 }), "intervall_ms"),
    ] {
        let head = gated(&ready, &json!({}));
        let response = server
            .request(reqwest::Method::POST, "/v1/projects/api/deployments")
            .header("Cofferdam-Head", head.to_string())
            .body(package::tar(&component()))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), 422, "{ready}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "config_invalid", "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(key),
            "{problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recreate_keeps_the_route_and_says_when_to_come_back() {
    let server = Server::start();
    server
        .succeed(
            "api",
            &gated(&gate(10_000), &json!({})),
            package::tar(&component()),
        )
        .await;
    let mut head = gated(
        &gate(60_000),
        &json!({ "HEALTHY_FROM": millis_from_now(4000) }),
    );
    head["strategy"] = json!("recreate");
    let record = server
        .deploy("api", &head, package::tar(&component()))
        .await;
    let retry = wait_for("the route to answer 503", async || {
        let response = reqwest::Client::new()
            .get(format!("http://{}/hello", server.ingress))
            .header("Host", "api.localhost")
            .send()
            .await
            .unwrap();
        (response.status().as_u16() == 503)
            .then(|| response.headers().get("retry-after").cloned())
            .flatten()
    })
    .await;
    assert!(retry.to_str().unwrap().parse::<u32>().is_ok());
    let record = server.end_of(&record).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    assert_eq!(server.serves("api", "/hello").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_soon_after_the_swap_gives_way_to_the_one_before() {
    let server = Server::start();
    let good = server
        .succeed(
            "api",
            &gated(&gate(10_000), &json!({})),
            package::tar(&component()),
        )
        .await;
    let mut ready = gate(10_000);
    ready["watch_ms"] = json!(60_000);
    let soon = || json!({ "HEALTHY_UNTIL": millis_from_now(4000) });
    // Asked not to, the host leaves it there.
    let mut head = gated(&ready, &soon());
    head["auto_revert"] = json!(false);
    let kept = server
        .succeed("api", &head, package::tar(&component()))
        .await;
    wait_for("the service to fail", async || {
        (services(&server, "api").await[0]["state"] == "unhealthy").then_some(())
    })
    .await;
    let project = server.get_json("/v1/projects/api").await;
    assert_eq!(project["active"], kept["id"]);
    assert_eq!(
        server
            .roll_back("api", &json!({ "to": good["id"] }))
            .await
            .0,
        200
    );

    let bad = server
        .succeed("api", &gated(&ready, &soon()), package::tar(&component()))
        .await;
    wait_for("the release before to come back", async || {
        let project = server.get_json("/v1/projects/api").await;
        (project["active"] == good["id"]).then_some(())
    })
    .await;
    assert_eq!(server.serves("api", "/health").await.0, 200);
    let history = server.get_json("/v1/projects/api/history").await;
    let newest = &history["history"][0];
    assert_eq!(newest["cause"], "revert", "{newest:#}");
    assert_eq!(newest["previous"], bad["id"]);
    assert!(newest["by"]["token"].is_null(), "{newest:#}");
    assert!(newest["message"].as_str().unwrap().contains("probes"));
    let audit = server.get_json("/v1/audit?project=api").await;
    assert_eq!(audit["audit"][0]["action"], "project.revert");
    // The deployment stays what it was: it succeeded.
    let path = format!("/v1/deployments/{}", bad["id"].as_str().unwrap());
    assert_eq!(server.get_json(&path).await["status"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_its_first_requests_gives_way_without_a_gate_too() {
    let server = Server::start();
    let page = Entry {
        path: "index.html".to_owned(),
        bytes: b"files".to_vec(),
    };
    let good = server
        .succeed("api", &json!({}), package::tar(&[page]))
        .await;
    server
        .succeed("api", &ungated(), package::tar(&component()))
        .await;
    for _ in 0..12 {
        server.serves("api", "/panic").await;
    }
    wait_for("the release before to come back", async || {
        let project = server.get_json("/v1/projects/api").await;
        (project["active"] == good["id"]).then_some(())
    })
    .await;
    assert_eq!(server.serves("api", "/").await.1, "files");
    let history = server.get_json("/v1/projects/api/history").await;
    let newest = &history["history"][0];
    assert_eq!(newest["cause"], "revert", "{newest:#}");
    assert!(newest["message"].as_str().unwrap().contains("requests"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_may_be_gone_back_to_is_kept_for_as_long_as_the_new_one_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, "[retention]\nreleases = 1\n").unwrap();
    let server = Server::start_with(&["--policy", &policy.display().to_string()]);
    let mut ready = gate(10_000);
    ready["watch_ms"] = json!(60_000);
    let good = server
        .succeed(
            "api",
            &gated(&ready, &json!({})),
            package::tar(&component()),
        )
        .await;
    let until = json!({ "HEALTHY_UNTIL": millis_from_now(4000) });
    let bad = server
        .succeed("api", &gated(&ready, &until), package::tar(&component()))
        .await;
    wait_for("the release before to come back", async || {
        let project = server.get_json("/v1/projects/api").await;
        (project["active"] == good["id"]).then_some(())
    })
    .await;
    assert_eq!(server.serves("api", "/health").await.0, 200);
    // Whatever the rules say of it: the one that failed is the newer one.
    wait_for("the one that failed to go", async || {
        (server.releases("api") == [good["id"].as_str().unwrap()]).then_some(())
    })
    .await;
    assert_ne!(good["id"], bad["id"]);

    // One that does not fail is alone when its time is over.
    ready["watch_ms"] = json!(500);
    let newest = server
        .succeed(
            "api",
            &gated(&ready, &json!({})),
            package::tar(&component()),
        )
        .await;
    wait_for("the older one to go", async || {
        (server.releases("api") == [newest["id"].as_str().unwrap()]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_a_kill_cut_off_goes_on_with_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    let good = server
        .succeed(
            "api",
            &gated(&gate(10_000), &json!({})),
            package::tar(&component()),
        )
        .await;
    let mut ready = gate(10_000);
    ready["watch_ms"] = json!(120_000);
    let until = json!({ "HEALTHY_UNTIL": millis_from_now(4000) });
    server
        .succeed("api", &gated(&ready, &until), package::tar(&component()))
        .await;
    server.kill();
    let server = Server::start_on(&data);
    wait_for("the release before to come back", async || {
        let project = server.get_json("/v1/projects/api").await;
        (project["active"] == good["id"]).then_some(())
    })
    .await;
    let history = server.get_json("/v1/projects/api/history").await;
    assert_eq!(history["history"][0]["cause"], "revert", "{history:#}");
    assert_eq!(server.serves("api", "/health").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_most_requests_is_unhealthy_and_what_is_no_news_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    server
        .succeed("api", &ungated(), package::tar(&component()))
        .await;
    let before = services(&server, "api").await;
    assert_eq!(before[0]["state"], "healthy");
    // Looked at again and again, also by the next start: nothing changed, so nothing is written.
    for _ in 0..2 {
        assert_eq!(server.client(&["verify", "api"]).0, 0);
        assert_eq!(services(&server, "api").await, before);
        server.kill();
        server = Server::start_on(&data);
    }
    let ask = async |path: &str, times: usize| {
        for _ in 0..times {
            server.serves("api", path).await;
        }
        server.client(&["verify", "api"]);
        services(&server, "api").await[0].clone()
    };
    let few = ask("/panic", 5).await;
    assert_eq!(few, before[0], "too few to tell");
    let bad = ask("/panic", 10).await;
    assert_eq!(bad["state"], "unhealthy", "{bad}");
    assert!(
        bad["detail"].as_str().unwrap().contains("requests"),
        "{bad}"
    );
    assert_eq!(ask("/panic", 1).await, bad, "no news");
    let good = ask("/hello", 40).await;
    assert_eq!(good["state"], "healthy", "{good}");
}

#[tokio::test(flavor = "multi_thread")]
async fn recreate_takes_nothing_away_for_a_release_that_cannot_even_be_prepared() {
    let server = Arc::new(Server::start());
    let head = gated(&gate(10_000), &json!({}));
    server
        .succeed("api", &head, package::tar(&component()))
        .await;
    let (asked, stop) = (server.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let asking = tokio::spawn(async move {
        let mut answers = 0;
        while !stopped.load(Ordering::Relaxed) {
            assert_eq!(asked.serves("api", "/hello").await.0, 200);
            answers += 1;
        }
        answers
    });
    let mut head = gated(&gate(10_000), &json!({}));
    head["strategy"] = json!("recreate");
    let no_service = Entry {
        path: "app.wasm".to_owned(),
        bytes: cofferdam_test_guests::program("succeed").to_vec(),
    };
    let failed = server.fail("api", &head, package::tar(&[no_service])).await;
    assert_eq!(failed["error"]["code"], "not_ready", "{failed:#}");
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_cancelled_while_its_services_get_ready_and_what_served_serves() {
    let server = Server::start();
    let good = server
        .succeed(
            "api",
            &gated(&gate(10_000), &json!({})),
            package::tar(&component()),
        )
        .await;
    for strategy in ["blue-green", "recreate"] {
        let never = json!({ "HEALTHY_FROM": millis_from_now(3_600_000) });
        let mut head = gated(&gate(120_000), &never);
        head["strategy"] = json!(strategy);
        let record = server
            .deploy("api", &head, package::tar(&component()))
            .await;
        let path = format!("/v1/deployments/{}", record["id"].as_str().unwrap());
        wait_for("the services to be prepared", async || {
            let view = server.get_json("/v1/projects/api").await;
            let rows = view["services"].as_array().unwrap();
            rows.iter().any(|row| row["role"] == "green").then_some(())
        })
        .await;
        let answer = server
            .request(reqwest::Method::POST, &format!("{path}/cancel"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{strategy}");
        let record = server.get_json(&path).await;
        assert_eq!(record["status"], "cancelled", "{strategy}: {record:#}");
        assert_eq!(server.serves("api", "/health").await.0, 200, "{strategy}");
        let view = server.get_json("/v1/projects/api").await;
        assert_eq!(view["active"], good["id"], "{strategy}");
        assert_eq!(view["services"].as_array().unwrap().len(), 1, "{view:#}");
        assert_eq!(server.releases("api").len(), 1, "{strategy}");
        assert!(server.names_in("staging").is_empty(), "{strategy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_begun_before_the_swap_is_answered_by_what_it_began_with() {
    let server = Arc::new(Server::start());
    let head = gated(&gate(10_000), &json!({}));
    server
        .succeed("api", &head, package::tar(&component()))
        .await;
    let slow = server.clone();
    let slow = tokio::spawn(async move { slow.serves("api", "/slow").await });
    let page = Entry {
        path: "index.html".to_owned(),
        bytes: b"files now".to_vec(),
    };
    server
        .succeed("api", &json!({}), package::tar(&[page]))
        .await;
    assert_eq!(server.serves("api", "/").await.1, "files now");
    assert_eq!(
        slow.await.unwrap(),
        (200, "slowly, but wholly\n".to_owned())
    );
    wait_for("the old service to be reaped", async || {
        (services(&server, "api").await.len() == 1).then_some(())
    })
    .await;
}

/// What the clients of a load saw.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    of_each: [AtomicU64; 2],
}

/// A keep-alive client that asks for the page again and again, and takes nothing but whole pages of one release.
async fn ask(server: Arc<Server>, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    let stream = TcpStream::connect(server.ingress).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    let mut turn = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        // One that is held in memory, one that is read from the disk in pieces.
        let path = ["/small.txt", "/large.txt"][turn % 2];
        turn += 1;
        let request = format!("GET {path} HTTP/1.1\r\nHost: flip.localhost\r\n\r\n");
        stream
            .get_mut()
            .write_all(request.as_bytes())
            .await
            .unwrap();
        let mut length = None;
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("HTTP/1.1 200 "), "{line:?}");
        loop {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
            let header = line.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>().unwrap());
            }
        }
        let mut body = vec![0; length.unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let first = body[0];
        assert!(
            body.iter().all(|byte| *byte == first),
            "a page of two releases"
        );
        seen.of_each[usize::from(first == b'b')].fetch_add(1, Ordering::Relaxed);
        seen.answers.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_flips_under_load_lose_no_request_and_mix_no_answer() {
    let server = Arc::new(Server::start());
    let mut ids = Vec::new();
    for letter in [b'a', b'b'] {
        let page = |path: &str, size: usize| Entry {
            path: path.to_owned(),
            bytes: vec![letter; size],
        };
        // Of different lengths, so that a head of one with the body of the other cannot pass.
        let more = usize::from(letter) * 100;
        let entries = [
            page("small.txt", 2000 + more),
            page("large.txt", 300_000 + more),
            page("index.html", 10),
        ];
        let record = server
            .succeed("flip", &json!({}), package::tar(&entries))
            .await;
        ids.push(record["id"].clone());
    }
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let clients: Vec<_> = (0..2 * cores)
        .map(|_| tokio::spawn(ask(server.clone(), seen.clone(), stop.clone())))
        .collect();
    let begun = Instant::now();
    for flip in 0..FLIPS {
        let (status, answer) = server
            .roll_back("flip", &json!({ "to": ids[flip % 2] }))
            .await;
        assert_eq!(status, 200, "flip {flip}: {answer}");
    }
    let took = begun.elapsed();
    // Both releases were seen by somebody, or nothing was flipped.
    wait_for("answers of both releases", async || {
        let each = seen
            .of_each
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        each.iter().all(|count| *count > 0).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let answers = seen.answers.load(Ordering::Relaxed);
    println!("{FLIPS} flips in {took:?}, {answers} answers meanwhile");
    assert!(answers > FLIPS as u64);
    assert!(took < Duration::from_secs(120), "{took:?}");
    let history = server.get_json("/v1/projects/flip/history?limit=200").await;
    let rollbacks = history["history"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["cause"] == "rollback")
        .count();
    assert_eq!(rollbacks, 200);
}
