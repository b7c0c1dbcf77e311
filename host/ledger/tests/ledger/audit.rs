//! The audit log.

use cofferdam_ledger::{AuditFilter, Beside, Change, MAX_AUDIT_ROWS, NewAudit};
use uuid::Uuid;

use crate::restart::meddle;
use crate::{commit, fresh};

fn entry(action: &str, project: Option<&str>) -> NewAudit {
    NewAudit {
        at: 5,
        token: Some(Uuid::nil()),
        token_name: Some("ci".to_owned()),
        address: Some("127.0.0.1".to_owned()),
        action: action.to_owned(),
        project: project.map(str::to_owned),
        target: None,
        detail: Some("x".to_owned()),
    }
}

#[tokio::test]
async fn the_audit_log_is_paged_newest_first_and_by_project() {
    let (_dir, ledger) = fresh().await;
    for at in 0..5 {
        let project = if at % 2 == 0 { "even" } else { "odd" };
        let row = Change::from(Beside::Audit(entry(&format!("act.{at}"), Some(project))));
        commit(&ledger, vec![row]).await.unwrap();
    }
    let page = |project: Option<&str>, before| AuditFilter {
        project: project.map(str::to_owned),
        before,
        limit: 2,
    };
    let first = ledger.audit(&page(None, None)).await.unwrap();
    assert_eq!(
        first.iter().map(|row| row.number).collect::<Vec<_>>(),
        [5, 4]
    );
    assert_eq!(first[0].entry, entry("act.4", Some("even")));
    let second = ledger.audit(&page(None, Some(4))).await.unwrap();
    assert_eq!(
        second.iter().map(|row| row.number).collect::<Vec<_>>(),
        [3, 2]
    );
    let odd = ledger.audit(&page(Some("odd"), None)).await.unwrap();
    assert_eq!(odd.iter().map(|row| row.number).collect::<Vec<_>>(), [4, 2]);
    // It is no part of the feed.
    assert!(ledger.changes_since(0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_audit_log_is_bounded_and_keeps_the_newest() {
    let (dir, ledger) = fresh().await;
    let path = dir.path().join("ledger.db");
    assert_eq!(MAX_AUDIT_ROWS, 100_000);
    meddle(
        &path,
        "INSERT INTO audit (number, at, action) VALUES (1, 0, 'old'), (2, 0, 'old'), (100000, 0, 'old')",
    )
    .await;
    commit(&ledger, vec![Beside::Audit(entry("new", None)).into()])
        .await
        .unwrap();
    let all = AuditFilter {
        limit: 10,
        ..AuditFilter::default()
    };
    let numbers: Vec<u64> = ledger
        .audit(&all)
        .await
        .unwrap()
        .iter()
        .map(|row| row.number)
        .collect();
    assert_eq!(numbers, [MAX_AUDIT_ROWS + 1, MAX_AUDIT_ROWS, 2]);
}
