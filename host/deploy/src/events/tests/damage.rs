use super::*;

/// A closed log of three lines, and its text.
async fn three_lines(logs: &EventLogs) -> (Uuid, String) {
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    for text in ["one", "zwei ü", "three"] {
        line(&log, text).await;
    }
    log.close().await.unwrap();
    let text = fs::read_to_string(file_of(logs, id)).unwrap();
    (id, text)
}

#[tokio::test]
async fn a_torn_end_is_cut_off_and_numbers_go_on() {
    let (_directory, logs) = logs();
    let (id, text) = three_lines(&logs).await;
    let path = file_of(&logs, id);
    let second = text.match_indices('\n').nth(1).unwrap().0;
    // Every way in which the third line can be torn.
    for end in second + 1..text.len() {
        fs::write(&path, &text.as_bytes()[..end]).unwrap();
        let log = logs.reopen(id).unwrap();
        assert_eq!(log.last(), 2);
        assert!(!log.is_done());
        line(&log, "another third").await;
        done(&log).await;
        log.close().await.unwrap();
        let events = rest(&mut logs.subscribe(id, 0).unwrap()).await;
        assert_eq!(numbers(&events), [1, 2, 3, 4]);
        assert!(events[2].json.contains("another third"));
    }
}

#[tokio::test]
async fn what_the_loss_of_power_left_in_unsynced_blocks_is_cut_off() {
    let (_directory, logs) = logs();
    let (id, text) = three_lines(&logs).await;
    let path = file_of(&logs, id);
    let tails: [&[u8]; 5] = [
        &[0; 5000],
        b"\n",
        b"{}\n",
        b"{\"seq\":9,\"kind\":\"line\"}\n",
        b"\xff\xfe\n{\"seq\":4,\"kind\":\"line\"}\n",
    ];
    for tail in tails {
        fs::write(&path, [text.as_bytes(), tail].concat()).unwrap();
        let log = logs.reopen(id).unwrap();
        assert_eq!(log.last(), 3);
        log.close().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    fs::write(&path, vec![0; 3 << 20]).unwrap();
    let log = logs.reopen(id).unwrap();
    assert_eq!(log.last(), 0);
    line(&log, "from the start").await;
    log.close().await.unwrap();
    assert_eq!(numbers(&rest(&mut logs.replay(id).unwrap()).await), [1]);
}

#[tokio::test]
async fn a_reader_of_a_damaged_log_sees_what_is_before_the_damage_and_then_an_error() {
    let (_directory, logs) = logs();
    let (id, text) = three_lines(&logs).await;
    fs::write(file_of(&logs, id), text.replace("zwei", "\"")).unwrap();
    let mut subscription = logs.subscribe(id, 0).unwrap();
    assert!(matches!(subscription.next().await.unwrap(), Next::Event(event) if event.seq == 1));
    let error = subscription.next().await.unwrap_err();
    assert!(
        matches!(error, EventError::Corrupt { line: 2, .. }),
        "{error}"
    );
    assert_eq!(subscription.next().await.unwrap(), Next::End);
}

#[tokio::test]
async fn a_full_disk_loses_lines_says_so_and_still_tries_the_end() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    std::os::unix::fs::symlink("/dev/full", file_of(&logs, id)).unwrap();
    let log = logs.reopen(id).unwrap();
    line(&log, "one").await;
    let error = log.flush().await.unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(matches!(error, EventError::Write { .. }), "{error}");
    // Said once.
    log.flush().await.unwrap();
    let refused = log.append(EventKind::Line, None, ()).await.unwrap_err();
    assert!(refused.is_full(), "{refused}");
    log.append(EventKind::Error, None, ()).await.unwrap();
    log.flush().await.unwrap_err();
    for _ in 0..2 {
        done(&log).await;
        log.flush().await.unwrap_err();
        assert!(!log.is_done());
    }
    assert_eq!(log.last(), 0);
}
