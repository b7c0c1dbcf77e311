//! What steps say.

use crate::harness::Run;
use cofferdam_sandbox::{OutputStream, StepEvent, Verdict};
use serde_json::json;

#[tokio::test]
async fn lines_of_both_streams_arrive_in_the_order_in_which_they_were_printed() {
    let ended = Run::of("both_streams").end().await;
    let expected: Vec<String> = (0..20)
        .flat_map(|number| [format!("out {number}"), format!("err {number}")])
        .collect();
    assert_eq!(ended.lines(), expected);
    assert_eq!(ended.lines_of(OutputStream::Stderr).len(), 20);
}

#[tokio::test]
async fn what_is_not_utf8_is_replaced_and_a_split_character_is_not() {
    let ended = Run::of("invalid_utf8").end().await;
    assert_eq!(
        ended.lines(),
        ["caf\u{fffd}", "\u{2603}", "\u{1b}[31mred\u{1b}[0m"]
    );
}

#[tokio::test]
async fn a_flood_keeps_its_first_and_last_lines_and_counts_the_rest() {
    let ended = Run::of("flood")
        .config(json!({ "lines": 50_000 }))
        .limits(|limits| limits.output_bytes = 100_000)
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
    let lines = ended.lines();
    assert_eq!(lines[0], "line 0");
    assert_eq!(*lines.last().unwrap(), "line 49999");
    assert!(lines.len() > 1000 && lines.len() < 2000, "{}", lines.len());
    let dropped: Vec<_> = ended
        .events
        .iter()
        .enumerate()
        .filter(|(_, event)| matches!(event, StepEvent::Dropped { .. }))
        .collect();
    let [(at, StepEvent::Dropped { lines: missing, .. })] = dropped[..] else {
        panic!("{dropped:?}")
    };
    assert_eq!(*missing + lines.len() as u64, 50_000);
    assert_eq!(
        lines[at],
        format!("line {}", at as u64 + missing),
        "it stands where the lines are missing"
    );
    let receipt = &ended.outcome.receipt;
    assert_eq!(
        (receipt.lines, receipt.dropped_lines),
        (lines.len() as u64, *missing)
    );
}

#[tokio::test]
async fn an_endless_line_is_cut_and_the_next_one_is_whole() {
    let ended = Run::of("endless_line")
        .config(json!({ "bytes": 64 << 20 }))
        .limits(|limits| limits.line_bytes = 1000)
        .end()
        .await;
    let [first, second] = &ended.events[..] else {
        panic!("{} events", ended.events.len())
    };
    let cut = StepEvent::Line {
        stream: OutputStream::Stdout,
        text: "a".repeat(1000),
        truncated: true,
    };
    assert_eq!(*first, cut);
    let next = StepEvent::Line {
        stream: OutputStream::Stdout,
        text: "the next line".into(),
        truncated: false,
    };
    assert_eq!(*second, next);
    assert!(ended.outcome.receipt.output_bytes > 64 << 20);
}

#[tokio::test]
async fn a_slow_reader_loses_no_line() {
    let mut started = Run::of("flood").config(json!({ "lines": 3000 })).start();
    let mut number = 0;
    while let Some(event) = started.step.next_event().await {
        let StepEvent::Line { text, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(text, format!("line {number}"));
        number += 1;
        if number % 500 == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    assert_eq!(number, 3000);
}

#[tokio::test]
async fn reports_are_typed_merged_and_bounded() {
    let ended = Run::of("report")
        .config(json!({ "reports": 5000 }))
        .end()
        .await;
    assert_eq!(
        ended.outcome.verdict,
        Verdict::Succeeded,
        "{:?}",
        ended.lines()
    );
    let progress: Vec<u64> = ended
        .events
        .iter()
        .filter_map(|event| match event {
            StepEvent::Progress { done, total, label } => {
                assert_eq!((*total, label.as_str()), (Some(5000), "counting"));
                Some(*done)
            }
            _ => None,
        })
        .collect();
    assert_eq!(progress.first(), Some(&1));
    assert_eq!(
        progress.last(),
        Some(&5000),
        "the last report always arrives"
    );
    assert!(progress.len() < 100, "{}", progress.len());
    assert!(ended.events.contains(&StepEvent::Warning {
        text: "this deserves a look".into()
    }));
    let service = json!({ "name": "web", "kind": "static", "root": "." });
    assert!(ended.events.contains(&StepEvent::Output {
        name: "service".into(),
        value: service
    }));
    assert_eq!(
        ended.lines(),
        [
            "blog 0190a7c0-0000-7000-8000-000000000000 install-1",
            "executable true",
            "directory true",
            "outside true",
            "secret false"
        ]
    );
}

#[tokio::test]
async fn too_many_outputs_fail_inside_the_guest() {
    let ended = Run::of("report")
        .config(json!({ "outputs": 9 }))
        .limits(|limits| limits.outputs = 8)
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 1 });
    let outputs = ended
        .events
        .iter()
        .filter(|event| matches!(event, StepEvent::Output { .. }))
        .count();
    assert_eq!(outputs, 8);
}

#[tokio::test]
async fn a_granted_secret_is_handed_out_and_appears_in_no_debug_output() {
    let mut run = Run::of("report");
    run.spec.secrets.insert("token", "hunter2");
    assert!(!format!("{:?}", run.spec).contains("hunter2"));
    assert!(
        !serde_json::to_string(&run.spec)
            .unwrap()
            .contains("hunter2")
    );
    let ended = run.end().await;
    assert!(
        ended.lines().contains(&"secret true"),
        "{:?}",
        ended.lines()
    );
}

#[tokio::test]
async fn outputs_in_a_file_count_when_the_step_succeeded() {
    let ended = Run::of("outputs_file").end().await;
    assert_eq!(
        ended.events,
        [StepEvent::Output {
            name: "answer".into(),
            value: json!(42)
        }]
    );
    let ended = Run::of("outputs_file")
        .config(json!({ "code": 1 }))
        .end()
        .await;
    assert_eq!(ended.events, []);
}

#[tokio::test]
async fn a_bad_line_of_outputs_is_a_warning_and_the_others_count() {
    let text = "{\"name\":\"a\",\"value\":1}\nnonsense\n\n{\"name\":\"b\",\"value\":null}\n";
    let ended = Run::of("outputs_file")
        .config(json!({ "text": text }))
        .end()
        .await;
    let [
        StepEvent::Output { .. },
        StepEvent::Warning { text },
        StepEvent::Output { name, .. },
    ] = &ended.events[..]
    else {
        panic!("{:?}", ended.events)
    };
    assert!(
        text.starts_with("line 2 of /tmp/outputs.jsonl is left out"),
        "{text}"
    );
    assert_eq!(name, "b");
}
