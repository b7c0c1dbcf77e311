//! Every way in which a step can fail, and the code it gets.

use std::collections::BTreeSet;

use cofferdam_sandbox::worker::DEFAULT_SPARE_WORKERS;
use serde_json::{Value, json};

use crate::isolating::children;
use crate::package::{self, site};
use crate::server::{Server, assert_dense, wait_for};

/// One way to fail: the program, its config, its limits, and the code that it must end with.
struct Way {
    program: &'static str,
    config: Value,
    limits: Value,
    code: &'static str,
}

fn way(program: &'static str, config: Value, limits: Value, code: &'static str) -> Way {
    Way {
        program,
        config,
        limits,
        code,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_has_its_own_code_and_leaves_nothing_but_its_record() {
    let server = Server::start();
    server
        .succeed("blog", &json!({}), package::tar(&site("before")))
        .await;
    let ways = [
        way("fail", json!({ "code": 3 }), json!({}), "step_failed"),
        way("panic", json!(null), json!({}), "step_trapped"),
        way("overflow_stack", json!(null), json!({}), "step_trapped"),
        way(
            "loop_forever",
            json!(null),
            json!({ "wall_ms": 300 }),
            "step_timeout",
        ),
        way(
            "loop_forever",
            json!(null),
            json!({ "cpu_ms": 200 }),
            "step_cpu_exceeded",
        ),
        way(
            "sleep_forever",
            json!(null),
            json!({ "wall_ms": 300 }),
            "step_timeout",
        ),
        way(
            "print_forever",
            json!(null),
            json!({ "wall_ms": 300 }),
            "step_timeout",
        ),
        way(
            "overstay",
            json!({ "how": "poll", "after_ms": 60_000 }),
            json!({ "wall_ms": 300 }),
            "step_timeout",
        ),
        way(
            "overstay",
            json!({ "how": "write" }),
            json!({ "wall_ms": 300 }),
            "step_timeout",
        ),
        way(
            "overstay",
            json!({ "how": "write" }),
            json!({ "cpu_ms": 200 }),
            "step_cpu_exceeded",
        ),
        way(
            "exhaust",
            json!({ "how": "progress" }),
            json!({ "wall_ms": 300 }),
            "step_timeout",
        ),
        way(
            "exhaust",
            json!({ "how": "random" }),
            json!({}),
            "step_trapped",
        ),
        way(
            "exhaust",
            json!({ "how": "one large call" }),
            json!({}),
            "step_trapped",
        ),
        way(
            "exhaust",
            json!({ "how": "pollables" }),
            json!({}),
            "step_trapped",
        ),
        way(
            "exhaust",
            json!({ "how": "listings" }),
            json!({}),
            "step_failed",
        ),
        way(
            "exhaust",
            json!({ "how": "environment" }),
            json!({ "memory_bytes": 8 << 20 }),
            "step_memory_exceeded",
        ),
        way(
            "hog_memory",
            json!(null),
            json!({ "memory_bytes": 32 << 20 }),
            "step_memory_exceeded",
        ),
    ];
    let bytes = ["stream", "append", "write", "set-size", "sparse"]
        .map(|how| (how, json!({ "disk_bytes": 1 << 20 })));
    let files =
        ["files", "directories", "symlinks", "links"].map(|how| (how, json!({ "files": 100 })));
    let disk = bytes.into_iter().chain(files).map(|(how, limits)| {
        way(
            "hog_disk",
            json!({ "how": how }),
            limits,
            "step_disk_exceeded",
        )
    });
    let mut admitted = BTreeSet::new();
    for way in ways.into_iter().chain(disk) {
        let Way {
            program,
            config,
            limits,
            code,
        } = way;
        let plugin = program.replace('_', "-");
        if admitted.insert(plugin.clone()) {
            server
                .admit(&plugin, cofferdam_test_guests::program(program))
                .await;
        }
        let step = json!({ "plugin": plugin, "config": config, "request": { "limits": limits } });
        let head = json!({ "pipeline": { "install": [step] } });
        let record = server
            .fail("blog", &head, package::tar(&site("never")))
            .await;

        let error = &record["error"];
        assert_eq!(error["code"], code, "{program}: {record:#}");
        assert_eq!(error["step"], "install-1", "{program}");
        let step = &record["steps"][1];
        assert_eq!(step["status"], "failed", "{program}: {step}");
        assert!(step["receipt"].is_object(), "{program}: {step}");
        assert_eq!(record["steps"][2]["status"], "pending", "{program}");
        assert!(record["release"].is_null(), "{program}");
        let events = server.events(record["id"].as_str().unwrap(), 0).await;
        assert_dense(&events, 1);
        assert_eq!(
            events.len() as u64,
            record["events"]["last"].as_u64().unwrap(),
            "{program}"
        );
        assert_eq!(
            server.names_in("staging"),
            Vec::<String>::new(),
            "{program}"
        );
        assert_eq!(server.releases("blog").len(), 1, "{program}");
        assert!(
            server.serves("blog", "/").await.1.contains("before"),
            "{program}"
        );
        if program == "fail" {
            assert_eq!(
                error["lines"],
                json!(["about to fail", "this did not work"])
            );
        }
        if program == "panic" {
            assert!(
                error["message"].as_str().unwrap().contains("wasm"),
                "{error}"
            );
        }
    }
    // Nothing runs any more but the workers that wait for the next step.
    wait_for("the processes of the steps to be gone", async || {
        (children(server.process()).len() <= DEFAULT_SPARE_WORKERS).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_cut_counted_and_survived() {
    let server = Server::start();
    server
        .admit("flood", cofferdam_test_guests::program("flood"))
        .await;
    let lines = 50_000_u64;
    let step = json!({
        "plugin": "flood",
        "config": { "lines": lines, "bytes": 60 },
        "request": { "limits": { "output_bytes": 100_000 } },
    });
    let head = json!({ "pipeline": { "install": [step] } });
    let record = server
        .succeed("flood", &head, package::tar(&site("flood")))
        .await;

    let events = server.events(record["id"].as_str().unwrap(), 0).await;
    assert_dense(&events, 1);
    let printed: Vec<_> = events
        .iter()
        .filter(|event| event["kind"] == "line" && event["step"] == "install-1")
        .collect();
    let dropped: u64 = events
        .iter()
        .filter(|event| event["kind"] == "dropped")
        .map(|event| event["lines"].as_u64().unwrap())
        .sum();
    assert!(dropped > 0);
    assert_eq!(printed.len() as u64 + dropped, lines);
    assert_eq!(record["events"]["dropped"], dropped);
    assert_eq!(record["steps"][1]["receipt"]["dropped_lines"], dropped);
    // The first and the last lines are kept.
    let first = printed.first().unwrap()["text"].as_str().unwrap();
    let last = printed.last().unwrap()["text"].as_str().unwrap();
    assert!(first.contains('0') || first.contains('1'), "{first}");
    assert!(
        last.contains(&(lines - 1).to_string()) || last.contains(&lines.to_string()),
        "{last}"
    );
}
