#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod following;
mod summaries;

use std::{
    future::poll_fn,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;

fn logs() -> (TempDir, EventLogs) {
    let directory = tempfile::tempdir().unwrap();
    let logs = EventLogs::open(directory.path().join("events")).unwrap();
    (directory, logs)
}

async fn line(log: &EventWriter, text: &str) {
    let fields = json!({ "stream": "stdout", "text": text });
    log.append(EventKind::Line, Some("unpack"), fields)
        .await
        .unwrap();
}

async fn done(log: &EventWriter) {
    let fields = json!({ "status": "succeeded" });
    log.append(EventKind::Done, None, fields).await.unwrap();
}

/// Everything up to the end, which must be an end.
async fn rest(subscription: &mut Subscription) -> Vec<Arc<StoredEvent>> {
    let mut events = Vec::new();
    loop {
        match subscription.next().await.unwrap() {
            Next::Event(event) => events.push(event),
            Next::End => return events,
            Next::Resync => panic!("the reader was told that it is too slow"),
        }
    }
}

fn numbers(events: &[Arc<StoredEvent>]) -> Vec<u64> {
    events.iter().map(|event| event.seq).collect()
}

fn file_of(logs: &EventLogs, id: Uuid) -> PathBuf {
    logs.path(id)
}

#[tokio::test]
async fn an_event_is_one_line_with_the_fields_that_all_have_first() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    log.append(EventKind::Phase, None, json!({ "status": "queued" }))
        .await
        .unwrap();
    line(&log, "a \"quoted\" tab\t and \u{1b}[31m").await;
    log.append(EventKind::Resumed, None, ()).await.unwrap();
    log.close().await.unwrap();

    let text = fs::read_to_string(file_of(&logs, id)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    let values: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let at: Vec<&str> = values
        .iter()
        .map(|value| value["at"].as_str().unwrap())
        .collect();
    assert_eq!(
        lines[0],
        format!(
            r#"{{"seq":1,"at":"{}","deployment":"{id}","step":null,"kind":"phase","status":"queued"}}"#,
            at[0]
        )
    );
    assert_eq!(
        lines[1],
        format!(
            r#"{{"seq":2,"at":"{}","deployment":"{id}","step":"unpack","kind":"line","stream":"stdout","text":"a \"quoted\" tab\t and \u001b[31m"}}"#,
            at[1]
        )
    );
    assert_eq!(
        lines[2],
        format!(
            r#"{{"seq":3,"at":"{}","deployment":"{id}","step":null,"kind":"resumed"}}"#,
            at[2]
        )
    );
    for at in &at {
        // 2026-01-02T03:04:05.678Z
        assert_eq!(at.len(), 24, "{at}");
        at.parse::<jiff::Timestamp>().unwrap();
        assert!(at.ends_with('Z') && &at[19..20] == ".", "{at}");
    }
    assert!(at.is_sorted());
}

#[tokio::test]
async fn nothing_follows_the_last_event() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    line(&log, "one").await;
    done(&log).await;
    let refused = log.append(EventKind::Warning, None, ()).await;
    assert!(matches!(refused, Err(EventError::Ended { .. })));
    let refused = log.append(EventKind::Done, None, ()).await;
    assert!(matches!(refused, Err(EventError::Ended { .. })));
    log.sync().await.unwrap();
    assert!(log.is_done());
    assert_eq!(log.last(), 2);
    log.close().await.unwrap();
    log.close().await.unwrap();

    let log = logs.reopen(id).unwrap();
    assert!(log.is_done());
    let refused = log.append(EventKind::Phase, None, ()).await;
    assert!(matches!(refused, Err(EventError::Ended { .. })));
}

#[tokio::test]
async fn what_cannot_be_an_event_is_refused_and_takes_no_number() {
    let (_directory, logs) = logs();
    let log = logs.create(Uuid::now_v7()).unwrap();
    let list = log.append(EventKind::Output, None, [1, 2]).await;
    assert!(matches!(list, Err(EventError::Fields { .. })));
    let large = json!({ "value": "x".repeat(2 << 20) });
    let large = log.append(EventKind::Output, None, large).await;
    assert!(matches!(large, Err(EventError::TooLarge { .. })));
    line(&log, "one").await;
    log.flush().await.unwrap();
    assert_eq!(log.last(), 1);
}

#[tokio::test]
async fn a_log_belongs_to_one_writer_at_a_time() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    assert!(matches!(logs.reopen(id), Err(EventError::NotFound { .. })));
    assert!(matches!(
        logs.subscribe(id, 0),
        Err(EventError::NotFound { .. })
    ));
    assert!(matches!(logs.replay(id), Err(EventError::NotFound { .. })));
    assert!(matches!(logs.summary(id), Err(EventError::NotFound { .. })));
    logs.remove(id).unwrap();

    let log = logs.create(id).unwrap();
    assert!(matches!(logs.create(id), Err(EventError::Busy { .. })));
    assert!(matches!(logs.reopen(id), Err(EventError::Busy { .. })));
    assert!(matches!(logs.remove(id), Err(EventError::Busy { .. })));
    log.close().await.unwrap();
    assert!(matches!(logs.create(id), Err(EventError::Exists { .. })));
    let again = logs.reopen(id).unwrap();
    again.close().await.unwrap();
    logs.remove(id).unwrap();
    assert!(!file_of(&logs, id).exists());
}

#[tokio::test]
async fn who_appends_faster_than_is_written_waits() {
    let (_directory, logs) = logs();
    let log = logs.create(Uuid::now_v7()).unwrap();
    // The task that writes does not get its turn while this never yields.
    let appended = tokio::task::unconstrained(poll_fn(|_| {
        let mut appended = 0_u32;
        let mut cx = Context::from_waker(Waker::noop());
        while pin!(line(&log, "x")).poll(&mut cx).is_ready() {
            appended += 1;
        }
        Poll::Ready(appended)
    }))
    .await;
    assert!((1..=1024).contains(&appended), "{appended}");
    log.flush().await.unwrap();
    assert_eq!(log.last(), u64::from(appended));
    line(&log, "there is room again").await;
}

#[tokio::test]
async fn what_is_over_the_capacity_is_dropped_and_counted_and_the_end_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let logs = EventLogs::with_capacity(directory.path().to_owned(), 20_000).unwrap();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    for n in 0..1000 {
        line(&log, &format!("line {n}")).await;
    }
    log.append(EventKind::Receipt, Some("unpack"), json!({ "wall_ms": 1 }))
        .await
        .unwrap();
    log.sync().await.unwrap();
    let before_the_end = log.last();
    log.append(EventKind::Error, None, json!({ "code": "step_failed" }))
        .await
        .unwrap();
    done(&log).await;
    log.close().await.unwrap();

    let events = rest(&mut logs.replay(id).unwrap()).await;
    assert_eq!(log.last(), before_the_end + 2);
    assert_eq!(
        numbers(&events),
        (1..=events.len() as u64).collect::<Vec<_>>()
    );
    let lines = events.iter().filter(|event| event.kind == "line").count();
    let kinds: Vec<&str> = events[lines..].iter().map(|event| &*event.kind).collect();
    assert_eq!(kinds, ["receipt", "dropped", "error", "done"]);
    let dropped: Value = serde_json::from_str(&events[lines + 1].json).unwrap();
    assert_eq!(dropped["lines"], 1000 - lines as u64);
    assert!(dropped["bytes"].as_u64().unwrap() > 0);
    assert!(fs::metadata(file_of(&logs, id)).unwrap().len() < 21_000);
}
