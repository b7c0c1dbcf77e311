use std::time::Duration;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_a_reader_joins_it_sees_every_event_once_and_in_order() {
    const LINES: u64 = 10_000;
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    let mut readers = tokio::task::JoinSet::new();
    for n in 1..=LINES {
        line(&log, &format!("line {n} {}", "x".repeat((n % 97) as usize))).await;
        if n % 1000 == 1 {
            // Some want everything, some only what is to come, some the end of it.
            for after in [0, n / 2, n, n + 500] {
                let mut subscription = logs.subscribe(id, after).unwrap();
                // Some give up waiting all the time, and ask again.
                let impatient = after % 2 == 0;
                readers.spawn(async move {
                    let mut expected = after + 1;
                    loop {
                        let next = subscription.next();
                        let next = if impatient {
                            match tokio::time::timeout(Duration::from_micros(50), next).await {
                                Ok(next) => next,
                                Err(_) => continue,
                            }
                        } else {
                            next.await
                        };
                        match next.unwrap() {
                            Next::Event(event) => {
                                assert_eq!(event.seq, expected);
                                let start = format!("{{\"seq\":{expected},");
                                assert!(event.json.starts_with(&start), "{}", event.json);
                                expected += 1;
                            }
                            // As the server has it: the client comes back with its last number. This
                            // test's readers are slow enough for that, now and then.
                            Next::Resync => return (expected - 1, false),
                            Next::End => return (expected - 1, true),
                        }
                    }
                });
            }
        }
    }
    done(&log).await;
    log.close().await.unwrap();
    for (mut seen, ended) in readers.join_all().await {
        if !ended {
            let events = rest(&mut logs.subscribe(id, seen).unwrap()).await;
            assert_eq!(numbers(&events), (seen + 1..=LINES + 1).collect::<Vec<_>>());
            seen = LINES + 1;
        }
        assert_eq!(seen, LINES + 1);
    }
}

#[tokio::test]
async fn an_event_that_a_reader_sees_is_in_the_file() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    let mut subscription = logs.subscribe(id, 0).unwrap();
    for n in 0..50 {
        line(&log, &format!("line {n}")).await;
        let Next::Event(event) = subscription.next().await.unwrap() else {
            panic!("the log has not ended");
        };
        let text = fs::read_to_string(file_of(&logs, id)).unwrap();
        assert_eq!(text.lines().last(), Some(&*event.json));
    }
}

#[tokio::test]
async fn a_live_event_comes_at_once() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    let mut subscription = logs.subscribe(id, 0).unwrap();
    let waiting = tokio::spawn(async move { subscription.next().await.unwrap() });
    line(&log, "hello").await;
    // Nobody flushes.
    let next = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(matches!(next.unwrap().unwrap(), Next::Event(event) if event.seq == 1));
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_so_and_reads_on_after_its_last_event() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    let mut subscription = logs.subscribe(id, 0).unwrap();
    line(&log, "seen").await;
    assert!(matches!(subscription.next().await.unwrap(), Next::Event(event) if event.seq == 1));
    line(&log, "seen live").await;
    assert!(matches!(subscription.next().await.unwrap(), Next::Event(event) if event.seq == 2));
    let text = "x".repeat(64 * 1024);
    for _ in 0..100 {
        line(&log, &text).await;
    }
    log.flush().await.unwrap();
    assert_eq!(subscription.next().await.unwrap(), Next::Resync);
    assert_eq!(subscription.next().await.unwrap(), Next::End);
    assert_eq!(subscription.next().await.unwrap(), Next::End);

    let mut again = logs.subscribe(id, 2).unwrap();
    done(&log).await;
    let events = rest(&mut again).await;
    assert_eq!(numbers(&events), (3..=103).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_of_a_file_is_never_too_slow() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    let text = "x".repeat(64 * 1024);
    line(&log, &text).await;
    let mut subscription = logs.subscribe(id, 0).unwrap();
    for _ in 0..200 {
        line(&log, &text).await;
    }
    done(&log).await;
    log.flush().await.unwrap();
    assert_eq!(rest(&mut subscription).await.len(), 202);
}

#[tokio::test]
async fn a_replay_ends_with_what_was_recorded_when_it_began() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    assert!(rest(&mut logs.replay(id).unwrap()).await.is_empty());
    for n in 0..1000 {
        line(&log, &format!("{n}")).await;
    }
    log.flush().await.unwrap();
    let mut replay = logs.replay(id).unwrap();
    line(&log, "later").await;
    log.flush().await.unwrap();
    let events = rest(&mut replay).await;
    assert_eq!(numbers(&events), (1..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_whose_writer_went_away_ends_for_its_readers() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    let mut subscription = logs.subscribe(id, 0).unwrap();
    let clone = log.clone();
    line(&log, "one").await;
    drop(log);
    line(&clone, "two").await;
    drop(clone);
    assert_eq!(numbers(&rest(&mut subscription).await), [1, 2]);
    // Joined after the end, with and without something left to see.
    assert_eq!(
        numbers(&rest(&mut logs.subscribe(id, 1).unwrap()).await),
        [2]
    );
    assert!(rest(&mut logs.subscribe(id, 2).unwrap()).await.is_empty());
    assert!(rest(&mut logs.subscribe(id, 9).unwrap()).await.is_empty());
}

#[tokio::test]
async fn a_reader_that_has_the_last_event_already_gets_the_end() {
    let (_directory, logs) = logs();
    let id = Uuid::now_v7();
    let log = logs.create(id).unwrap();
    line(&log, "one").await;
    done(&log).await;
    log.flush().await.unwrap();
    assert!(rest(&mut logs.subscribe(id, 2).unwrap()).await.is_empty());
    assert_eq!(
        numbers(&rest(&mut logs.subscribe(id, 1).unwrap()).await),
        [2]
    );
}
