use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

use super::*;

/// Set for the process that is to be killed: the ledger it writes to.
const VICTIM: &str = "COFFERDAM_LEDGER_TEST_VICTIM";

/// Runs one statement on the file, behind the ledger's back.
pub(crate) async fn meddle(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn everything_is_there_after_it_was_closed_and_opened_again() {
    let (dir, ledger) = fresh().await;
    let path = dir.path().join("ledger.db");
    let id = Uuid::now_v7();
    commit(&ledger, vec![project("blog"), deployment(id, "blog")])
        .await
        .unwrap();
    let row = ledger.deployment(id).await.unwrap();
    ledger.close().await;
    assert!(
        !dir.path().join("ledger.db-wal").exists(),
        "the log was not checkpointed"
    );

    assert!(matches!(commit(&ledger, vec![]).await, Err(Error::Closed)));
    assert!(matches!(ledger.head().await, Err(Error::Closed)));
    ledger.close().await;

    let ledger = Ledger::open(&path).await.unwrap();
    assert_eq!(ledger.head().await.unwrap(), 1);
    assert_eq!(ledger.deployment(id).await.unwrap(), row);
    assert_eq!(commit(&ledger, vec![]).await.unwrap(), Commit(2));
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let (dir, ledger) = fresh().await;
    let path = dir.path().join("ledger.db");
    ledger.close().await;
    meddle(&path, "UPDATE format SET version = 9999").await;
    let before = std::fs::read(&path).unwrap();
    let error = Ledger::open(&path).await.unwrap_err();
    assert!(
        matches!(error, Error::TooNew { found: 9999, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("run the newer host"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("foreign.db");
    meddle(&foreign, "CREATE TABLE songs (title TEXT)").await;
    let text = dir.path().join("text.db");
    std::fs::write(&text, "a shopping list\n".repeat(100)).unwrap();
    for path in [foreign, text] {
        let before = std::fs::read(&path).unwrap();
        let error = Ledger::open(&path).await.unwrap_err();
        assert!(matches!(error, Error::NotALedger { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    let nowhere = Ledger::open(&dir.path().join("absent/ledger.db"))
        .await
        .unwrap_err();
    assert!(matches!(nowhere, Error::Database(_)), "{nowhere}");
}

#[tokio::test]
async fn a_migration_that_was_tampered_with_is_refused() {
    let (dir, ledger) = fresh().await;
    let path = dir.path().join("ledger.db");
    ledger.close().await;
    meddle(&path, "UPDATE _sqlx_migrations SET checksum = x'00'").await;
    let error = Ledger::open(&path).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_commit_that_the_database_refused_is_followed_by_one_that_it_takes() {
    let (dir, ledger) = fresh().await;
    let path = dir.path().join("ledger.db");
    meddle(
        &path,
        "CREATE TRIGGER full BEFORE INSERT ON projects BEGIN SELECT RAISE(FAIL, 'no'); END",
    )
    .await;
    let error = commit(&ledger, vec![project("blog")]).await.unwrap_err();
    assert!(matches!(error, Error::Database(_)), "{error}");
    meddle(&path, "DROP TRIGGER full").await;
    assert_eq!(
        commit(&ledger, vec![project("blog")]).await.unwrap(),
        Commit(1)
    );
}

/// The test, and the process it kills: the same binary again, told by its environment.
#[tokio::test]
async fn after_kill_nine_every_acknowledged_commit_is_there() {
    if let Some(path) = std::env::var_os(VICTIM) {
        commit_until_killed(Path::new(&path)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let mut acknowledged: Vec<(u64, Uuid)> = Vec::new();
    for round in 0..12 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "restart::after_kill_nine_every_acknowledged_commit_is_there",
            ])
            .arg("--nocapture")
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut wanted = 3 + round * 7 % 20;
        while wanted > 0 {
            let line = output.next().expect("the victim ended by itself").unwrap();
            acknowledged.extend(parse(&line));
            wanted -= usize::from(line.starts_with("ACK "));
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        // What it had still acknowledged before it died counts too; a torn last line was not.
        for line in output.map_while(Result::ok) {
            acknowledged.extend(parse(&line));
        }

        let ledger = Ledger::open(&path).await.unwrap();
        for (number, id) in &acknowledged {
            let row = ledger.deployment(*id).await.unwrap();
            let row = row.unwrap_or_else(|| panic!("commit {number} is gone"));
            assert_eq!(row.version, 2, "commit {number} is there in part");
        }
        let head = ledger.head().await.unwrap();
        assert!(acknowledged.iter().all(|(number, _)| *number <= head));
        let mut after = 0;
        loop {
            let page = ledger.changes_since(after, 100).await.unwrap();
            let Some(last) = page.last() else { break };
            for row in &page {
                assert!(
                    row.commit == after || row.commit == after + 1,
                    "a gap before {}",
                    row.commit
                );
                after = row.commit;
            }
            assert_eq!(after, last.commit);
        }
        assert_eq!(after, head);
        ledger.close().await;
    }
    assert!(acknowledged.len() >= 100, "{}", acknowledged.len());
}

/// Reads "ACK number id end".
fn parse(line: &str) -> Option<(u64, Uuid)> {
    let mut words = line.strip_prefix("ACK ")?.split(' ');
    let number = words.next()?.parse().ok()?;
    let id = words.next()?.parse().ok()?;
    (words.next() == Some("end")).then_some((number, id))
}

async fn commit_until_killed(path: &Path) -> ! {
    let ledger = Ledger::open(path).await.unwrap();
    for turn in 0_u64.. {
        let id = Uuid::now_v7();
        let durability = if turn.is_multiple_of(4) {
            Durability::Power
        } else {
            Durability::Process
        };
        let changes = vec![
            project("blog"),
            deployment(id, "blog"),
            update(id, 1, "extracting", false),
        ];
        let commit = ledger.commit(durability, changes).await.unwrap();
        let mut out = std::io::stdout().lock();
        // The first line starts where the test runner's own words end.
        writeln!(out, "\nACK {commit} {id} end").unwrap();
        out.flush().unwrap();
    }
    unreachable!("the victim is killed");
}
