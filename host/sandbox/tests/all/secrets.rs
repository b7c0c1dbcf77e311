//! Secrets: who gets them, and what is seen of them.

use cofferdam_sandbox::{Outcome, Phase, Redactor, StepEvent, Verdict};
use serde_json::json;

use crate::harness::{Ended, Run};

const SECRET: &str = "k9/Xv+\"p\u{e4}ss\"-7f3Qz81LmX0w~<&>";

async fn told(end: &str) -> Ended {
    let mut run = Run::of("tell_secret").config(json!({ "end": end }));
    run.spec.secrets.insert("CANARY", SECRET);
    run.spec.secrets.insert("UNUSED", "0123456789abcdef");
    assert_eq!(run.spec.context.phase, Phase::Install);
    run.end().await
}

/// Everything that comes out of a run, in one text.
fn all(ended: &Ended) -> String {
    let Outcome {
        verdict, receipt, ..
    } = &ended.outcome;
    let events = serde_json::to_string(&ended.events).unwrap();
    let receipt = serde_json::to_string(receipt).unwrap();
    format!("{events}{receipt}{verdict}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_handed_to_the_guest_and_taken_out_of_all_it_says() {
    let ended = told("success").await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded, "{ended:?}");
    let lines = ended.lines();
    for line in [
        "plain: [redacted]",
        "base64: [redacted]",
        "hex: [redacted]",
        "url: https://example.org/?key=[redacted]&x=1",
        "two writes: [redacted]",
        "bit by bit: [redacted]",
        "both streams: [redacted]",
        "[redacted]",
        "not granted: true",
    ] {
        assert!(lines.contains(&line), "{line} in {lines:#?}");
    }
    // Both streams' plain lines, the second half on standard error, and the two halves on lines of their own.
    let count = |wanted: &str| lines.iter().filter(|line| **line == wanted).count();
    assert_eq!((count("plain: [redacted]"), count("[redacted]")), (2, 3));
    let said = |wanted: StepEvent| assert!(ended.events.contains(&wanted), "{:#?}", ended.events);
    said(StepEvent::Warning {
        text: "[redacted] is about to expire".to_owned(),
    });
    said(StepEvent::Progress {
        done: 1,
        total: Some(2),
        label: "uploading with [redacted]".to_owned(),
    });
    for (name, value) in [
        ("token", json!("[redacted]")),
        (
            "[redacted]",
            json!({ "deep": [{ "[redacted]": "[redacted]" }, "[redacted]"] }),
        ),
        ("from-file", json!({ "key": "[redacted]" })),
    ] {
        said(StepEvent::Output {
            name: name.to_owned(),
            value,
        });
    }
    assert_eq!(ended.outcome.receipt.secrets_read, ["CANARY"]);
    unseen(&ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_and_the_last_words_of_a_failure_do_not_tell_it_either() {
    for end in ["panic", "failure"] {
        let ended = told(end).await;
        assert!(!ended.outcome.verdict.is_success());
        let last = if end == "panic" {
            "cannot use [redacted]: [redacted]"
        } else {
            "the last words are [redacted]"
        };
        assert!(ended.lines().contains(&last), "{:#?}", ended.lines());
        unseen(&ended);
    }
}

/// No piece of the secret that is redacted anywhere is left, in any form that a redactor knows.
fn unseen(ended: &Ended) {
    let text = all(ended);
    let mut secrets = cofferdam_sandbox::Secrets::default();
    secrets.insert("CANARY", SECRET);
    let redactor = Redactor::new(&secrets);
    assert_eq!(redactor.text(text.as_str()), text);
    assert!(!text.contains("7f3Qz81L") && text.contains("[redacted]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_without_secrets_is_refused_them_and_says_what_it_likes() {
    let ended = Run::of("tell_secret").end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 1 });
    assert_eq!(ended.outcome.receipt.secrets_read, Vec::<String>::new());
}
