use super::*;

async fn log_of(logs: &EventLogs, lines: u64) -> (Uuid, EventWriter) {
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    for n in 1..=lines {
        line(&log, &format!("line {n}")).await;
    }
    log.flush().await.unwrap();
    (id, log)
}

fn seqs(summary: &Summary) -> Vec<u64> {
    summary
        .entries
        .iter()
        .filter_map(|entry| entry["seq"].as_u64())
        .collect()
}

#[tokio::test]
async fn a_short_log_is_its_own_summary() {
    let (_directory, logs) = logs();
    for lines in [0, 1, 20, 21, 199] {
        let (id, _log) = log_of(&logs, lines).await;
        let summary = logs.summary(id).unwrap();
        assert_eq!(seqs(&summary), (1..=lines).collect::<Vec<_>>());
        assert_eq!(summary.entries.len() as u64, lines);
    }
}

#[tokio::test]
async fn of_a_long_log_the_first_and_the_last_entries_stand_around_one_marker() {
    let (_directory, logs) = logs();
    for lines in [200, 201, 5000] {
        let (id, log) = log_of(&logs, lines).await;
        let live = logs.summary(id).unwrap();
        assert_eq!(live.entries.len(), 200);
        assert_eq!(live.entries[20], json!({ "omitted": lines - 199 }));
        let expected: Vec<u64> = (1..=20).chain(lines - 178..=lines).collect();
        assert_eq!(seqs(&live), expected);
        // From the file, and across a reopening, it is the same.
        log.close().await.unwrap();
        assert_eq!(logs.summary(id).unwrap(), live);
        let log = logs.reopen(id).unwrap();
        assert_eq!(logs.summary(id).unwrap(), live);
        log.close().await.unwrap();
        let text = serde_json::to_string(&live).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), live);
    }
}

#[tokio::test]
async fn a_large_event_is_shortened_in_the_summary_and_whole_in_the_log() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    let text = "ü".repeat(10_000);
    line(&log, &text).await;
    let value = json!({ "name": "service", "value": { "list": vec![7; 5000] } });
    log.append(EventKind::Output, None, value).await.unwrap();
    log.flush().await.unwrap();
    let summary = logs.summary(id).unwrap();
    assert_eq!(seqs(&summary), [1, 2]);
    assert_eq!(summary.entries[0]["text"], "ü".repeat(256));
    assert_eq!(summary.entries[0]["shortened"], true);
    assert_eq!(summary.entries[1]["name"], "service");
    assert_eq!(summary.entries[1]["value"], Value::Null);
    let events = rest(&mut logs.replay(id).unwrap()).await;
    let whole: Value = serde_json::from_str(&events[0].json).unwrap();
    assert_eq!(whole["text"], text);
}
