#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::json;

use super::{QUEUED, Transcript, begin, broke, end, far, sending, sent};
use crate::api::upload::Progress;
use crate::event::Event;
use crate::ui::Outcome;
use crate::ui::text::Paint;

fn lines(events: &[(&str, serde_json::Value)]) -> String {
    let mut transcript = Transcript::new(Paint::none()).with_outputs();
    let mut out = String::new();
    for (kind, data) in events {
        transcript.event(&Event::read(kind, &data.to_string()), &mut out);
    }
    out
}

/// So many bytes are sent.
fn at(sent: u64) -> Progress {
    Progress {
        at: sent,
        sent,
        ..Progress::default()
    }
}

#[test]
fn what_was_sent_is_what_all_attempts_took_and_what_was_spared_is_said_beside_it() {
    let mut out = String::new();
    let progress = Progress {
        at: 2 << 20,
        sent: 5 << 20,
        spared: 9 << 20,
        breaks: 1,
        ..Progress::default()
    };
    let paint = Paint::none();
    broke(&mut out, paint, &progress);
    sending(&mut out, &progress, Some(4 << 20), Duration::from_secs(2));
    sent(&mut out, paint, &progress, Duration::from_secs(2));
    assert_eq!(
        out,
        "\
broken     after 2.0 MiB, resuming
sending    2.0 MiB of 4.0 MiB, 2.5 MiB/s
sent       5.0 MiB in 2.0 s, 2.5 MiB/s, 9.0 MiB spared
"
    );
}

#[test]
fn a_deployment_reads_like_this() {
    let mut out = String::new();
    let paint = Paint::none();
    begin(&mut out, paint, "hello", Some(12), Some(49_152));
    sent(&mut out, paint, &at(49_152), Duration::from_millis(12));
    out.push_str(&lines(&[
        ("phase", json!({"status": "queued", "project": "hello"})),
        ("phase", json!({"step": "extract", "status": "extracting", "plugin": "unpack@0.1.0"})),
        ("line", json!({"step": "extract", "stream": "stdout", "text": "wrote 12 files"})),
        ("receipt", json!({
            "step": "extract", "status": "succeeded", "wall_ms": 8, "waited_ms": 3, "cpu_ms": 7,
            "peak_memory_bytes": 3_250_586, "bytes_written": 41_165, "files_created": 14, "lines": 1,
        })),
        ("phase", json!({"step": "install-1", "status": "installing", "plugin": "precompress@0.1.0"})),
        ("progress", json!({"step": "install-1", "done": 1, "total": 12, "label": "compressing"})),
        ("line", json!({"step": "install-1", "stream": "stderr", "text": "\u{1b}[31mred\u{7}", "truncated": true})),
        ("warning", json!({"step": "install-1", "text": "2 files are not text"})),
        ("output", json!({"step": "install-1", "name": "saved", "value": {"bytes": 9}})),
        ("dropped", json!({"step": "install-1", "lines": 1200, "bytes": 65_536})),
        ("receipt", json!({"step": "install-1", "wall_ms": 3_450, "waited_ms": 900, "lines": 2, "dropped_lines": 1200})),
        ("novelty", json!({"step": "install-1"})),
        ("phase", json!({"status": "activating"})),
        ("done", json!({"status": "succeeded"})),
    ]));
    let record = json!({
        "status": "succeeded",
        "release": {"files": 12, "bytes": 41_165, "url": "http://hello.localhost:8080/"},
    });
    end(
        &mut out,
        paint,
        &Outcome::of("id", record),
        Some(Duration::from_millis(214)),
    );
    assert_eq!(
        out,
        "\
deploying  hello: 12 files, 48.0 KiB
sent       48.0 KiB in 12 ms
extract    unpack@0.1.0
           | wrote 12 files
extract    8 ms, 3.1 MiB memory, 40.2 KiB written in 14 entries, 1 line
install-1  precompress@0.1.0
           | \\x1b[31mred\\x07 [cut]
           | warning: 2 files are not text
           | saved = {\"bytes\":9}
           | 1200 lines (64.0 KiB) over the step's output limit are not kept
install-1  3.4 s, 900 ms waiting for the package, 2 lines, 1200 dropped
succeeded  12 files, 40.2 KiB, in 214 ms
"
    );
}

#[test]
fn a_failure_says_why_shows_the_last_lines_and_what_to_do() {
    let mut out = lines(&[
        (
            "phase",
            json!({"step": "install-1", "plugin": "fill@0.1.0"}),
        ),
        (
            "line",
            json!({"step": "install-1", "text": "no index.html"}),
        ),
        (
            "receipt",
            json!({"step": "install-1", "status": "failed", "wall_ms": 2}),
        ),
        (
            "error",
            json!({"step": "install-1", "code": "step_failed", "message": "exit 3"}),
        ),
        ("done", json!({"status": "failed"})),
    ]);
    let record = json!({
        "status": "failed",
        "error": {
            "code": "step_failed", "message": "the plugin exited with code 3\nsee its lines",
            "step": "install-1", "lines": ["no index.html", "\u{202e}giving up"],
        },
    });
    end(
        &mut out,
        Paint::none(),
        &Outcome::of("0196", record),
        Some(Duration::from_millis(80)),
    );
    assert_eq!(
        out,
        "\
install-1  fill@0.1.0
           | no index.html
install-1  failed after 2 ms
failed     step_failed in install-1 after 80 ms
           the plugin exited with code 3
           see its lines
last lines
           | no index.html
           | \\u{202e}giving up
what to do the lines above are the plugin's own; `cofferdam log 0196` has all of them
"
    );
}

#[test]
fn steps_that_run_at_once_are_told_apart() {
    let out = lines(&[
        ("line", json!({"step": "install-1", "text": "a"})),
        ("line", json!({"step": "install-2", "text": "b"})),
        ("line", json!({"step": "install-1", "text": "c"})),
        ("line", json!({"step": "install-1", "text": "d"})),
    ]);
    assert_eq!(
        out,
        "install-1\n           | a\ninstall-2\n           | b\ninstall-1\n           | c\n           | d\n"
    );
}

#[test]
fn what_has_a_clock_is_what_runs() {
    let mut transcript = Transcript::new(Paint::none());
    let mut running = |kind: &str, data: serde_json::Value| {
        transcript.event(&Event::read(kind, &data.to_string()), &mut String::new());
        let names = transcript.running().map(|running| running.step.clone());
        names.collect::<Vec<String>>().join(",")
    };
    assert_eq!(running("phase", json!({"status": "queued"})), "queued");
    assert_eq!(running("phase", json!({"step": "extract"})), "extract");
    assert_eq!(running("receipt", json!({"step": "extract"})), "");
    assert_eq!(
        running("phase", json!({"status": "activating"})),
        "activating"
    );
    assert_eq!(running("done", json!({"status": "succeeded"})), "");
}

#[test]
fn progress_counts_what_its_label_says() {
    assert_eq!(far(3, Some(10), "images"), "3 of 10 images");
    assert_eq!(far(3, None, ""), "3");
    assert_eq!(
        far(2048, Some(4096), "bytes, a.css"),
        "2.0 KiB of 4.0 KiB, a.css"
    );
    assert_eq!(far(2048, None, "bytes"), "2.0 KiB");
    assert_eq!(far(1, None, "bytesize\u{1b}"), "1 bytesize\\x1b");
}

#[test]
fn a_long_wait_in_the_queue_is_said_once() {
    let mut transcript = Transcript::new(Paint::none());
    let mut out = String::new();
    transcript.event(&Event::read("phase", r#"{"status":"queued"}"#), &mut out);
    transcript.waiting(&mut out);
    assert_eq!(out, "");
    let stage = transcript.stage.as_mut().unwrap();
    stage.since = stage.since.checked_sub(QUEUED).unwrap();
    transcript.waiting(&mut out);
    transcript.waiting(&mut out);
    assert_eq!(
        out,
        "queued     behind another deployment of this project\n"
    );
}

#[test]
fn an_upload_without_a_terminal_says_how_far_it_is() {
    let mut out = String::new();
    let total = Some(4 << 30);
    sending(&mut out, &at(1 << 30), total, Duration::from_secs(16));
    sending(&mut out, &at(1 << 20), None, Duration::ZERO);
    assert_eq!(
        out,
        "sending    1.0 GiB of 4.0 GiB, 64.0 MiB/s\nsending    1.0 MiB\n"
    );
}

#[test]
fn a_step_that_waits_is_not_shown_as_running_and_a_restart_is_said() {
    let shown = lines(&[
        (
            "phase",
            json!({"step": "extract", "status": "queued", "places": 1}),
        ),
        (
            "phase",
            json!({"step": "extract", "status": "extracting", "plugin": "unpack@0.1.0"}),
        ),
        ("resumed", json!({"status": "queued", "from": "extract"})),
        (
            "phase",
            json!({"step": "extract", "status": "extracting", "plugin": "unpack@0.1.0"}),
        ),
    ]);
    assert_eq!(
        shown,
        "\
extract    unpack@0.1.0
resumed    from extract, after a restart of the server
extract    unpack@0.1.0
"
    );
}
