//! Leases and their fences, holds, and requests that are sent again.

use cofferdam_ledger::{Change, Error, HoldRow, IdempotencyRow, Kind};
use uuid::Uuid;

use super::{commit, deployment, fresh, project, update};

fn take(project: &str, deployment: Uuid, at: i64) -> Change {
    Change::TakeLease {
        project: project.to_owned(),
        deployment,
        owner: "here/1".to_owned(),
        at,
    }
}

fn free(project: &str, fence: u64) -> Change {
    Change::FreeLease {
        project: project.to_owned(),
        fence,
    }
}

fn require(project: &str, fence: u64) -> Change {
    Change::RequireLease {
        project: project.to_owned(),
        fence,
    }
}

#[tokio::test]
async fn a_lease_has_one_holder_whose_number_is_greater_than_every_earlier_one() {
    let (_dir, ledger) = fresh().await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let fence = commit(&ledger, vec![take("blog", first, 5)])
        .await
        .unwrap()
        .number();
    let error = commit(&ledger, vec![take("blog", second, 6)])
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Leased { deployment, owner, .. } if *deployment == first && owner == "here/1"),
        "{error}"
    );
    let lease = ledger.lease("blog").await.unwrap().unwrap();
    assert_eq!((lease.deployment, lease.fence), (first, fence));
    assert_eq!((lease.acquired_at, lease.renewed_at), (5, 5));
    let renew = Change::RenewLease {
        project: "blog".to_owned(),
        fence,
        at: 9,
    };
    commit(&ledger, vec![renew]).await.unwrap();
    assert_eq!(ledger.leases().await.unwrap()[0].renewed_at, 9);
    commit(&ledger, vec![free("blog", fence)]).await.unwrap();
    assert_eq!(ledger.lease("blog").await.unwrap(), None);
    let later = commit(&ledger, vec![take("blog", second, 7)])
        .await
        .unwrap();
    assert!(later.number() > fence);
}

#[tokio::test]
async fn a_holder_that_lost_its_lease_records_nothing_any_more() {
    let (_dir, ledger) = fresh().await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let changes = vec![project("blog"), deployment(first, "blog")];
    commit(&ledger, changes).await.unwrap();
    let old = commit(&ledger, vec![take("blog", first, 5)])
        .await
        .unwrap()
        .number();
    let held = vec![require("blog", old), update(first, 1, "extracting", false)];
    commit(&ledger, held).await.unwrap();

    let broken = vec![free("blog", old)];
    commit(&ledger, broken).await.unwrap();
    let late = vec![require("blog", old), update(first, 2, "installing", false)];
    let error = commit(&ledger, late).await.unwrap_err();
    assert!(
        matches!(error, Error::Fenced { found: None, .. }),
        "{error}"
    );
    let new = commit(&ledger, vec![take("blog", second, 6)])
        .await
        .unwrap()
        .number();
    let late = vec![update(first, 2, "installing", false), free("blog", old)];
    let error = commit(&ledger, late).await.unwrap_err();
    assert!(
        matches!(error, Error::Fenced { found: Some(found), .. } if found == new),
        "{error}"
    );
    let row = ledger.deployment(first).await.unwrap().unwrap();
    assert_eq!((row.version, row.status.as_str()), (2, "extracting"));
    assert_eq!(
        ledger.lease("blog").await.unwrap().unwrap().deployment,
        second
    );
}

#[tokio::test]
async fn a_hold_has_one_reason_and_ends_once() {
    let (_dir, ledger) = fresh().await;
    let hold = |reason: &str| HoldRow {
        project: "blog".to_owned(),
        reason: reason.to_owned(),
        token: Uuid::nil(),
        created_at: 3,
    };
    for reason in ["audit", "freeze"] {
        commit(&ledger, vec![Change::PutHold(hold(reason))])
            .await
            .unwrap();
        assert_eq!(ledger.hold("blog").await.unwrap(), Some(hold(reason)));
    }
    assert_eq!(ledger.holds().await.unwrap(), [hold("freeze")]);
    let release = || Change::RemoveHold {
        project: "blog".to_owned(),
    };
    let commits = [
        commit(&ledger, vec![release()]).await.unwrap().number(),
        commit(&ledger, vec![release()]).await.unwrap().number(),
    ];
    assert_eq!(ledger.hold("blog").await.unwrap(), None);
    let said = ledger.changes_since(commits[0] - 1, 10).await.unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((said[0].commit, said[0].kind), (commits[0], Kind::Hold));
}

#[tokio::test]
async fn a_key_is_its_tokens_own_and_is_taken_over_only_from_the_deployment_that_was_seen() {
    let (_dir, ledger) = fresh().await;
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let row = |token: Uuid, expires_at: i64| IdempotencyRow {
        token,
        project: "blog".to_owned(),
        key: "k".to_owned(),
        deployment: Uuid::now_v7(),
        head: "blake3:00".to_owned(),
        created_at: 1,
        expires_at,
    };
    let put = |row: &IdempotencyRow, replaces: Option<Uuid>| {
        vec![Change::PutIdempotencyKey {
            row: row.clone(),
            replaces,
        }]
    };
    let first = row(one, 10);
    commit(&ledger, put(&first, None)).await.unwrap();
    commit(&ledger, put(&row(other, 20), None)).await.unwrap();
    let second = row(one, 30);
    for stale in [None, Some(Uuid::now_v7())] {
        let error = commit(&ledger, put(&second, stale)).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Exists {
                    kind: Kind::IdempotencyKey,
                    ..
                }
            ),
            "{error}"
        );
    }
    commit(&ledger, put(&second, Some(first.deployment)))
        .await
        .unwrap();
    let found = ledger.idempotency_key(one, "blog", "k").await.unwrap();
    assert_eq!(found, Some(second));
    commit(&ledger, vec![Change::ForgetIdempotencyKeys { before: 20 }])
        .await
        .unwrap();
    let found = ledger.idempotency_key(other, "blog", "k").await.unwrap();
    assert_eq!(found, None);
    let kept = ledger.idempotency_key(one, "blog", "k").await.unwrap();
    assert!(kept.is_some());
}
