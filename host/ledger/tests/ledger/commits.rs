use std::collections::BTreeSet;

use super::*;
use cofferdam_ledger::Kind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_numbers_are_dense_however_many_commit_at_once() {
    let (_dir, ledger) = fresh().await;
    commit(&ledger, vec![project("blog")]).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            let mut numbers = Vec::new();
            for turn in 0..25 {
                // Some are refused; those must not take a number.
                let project = if (worker + turn) % 5 == 0 {
                    "absent"
                } else {
                    "blog"
                };
                let durability = if turn % 10 == 0 {
                    Durability::Power
                } else {
                    Durability::Process
                };
                let changes = vec![deployment(Uuid::now_v7(), project)];
                match ledger.commit(durability, changes).await {
                    Ok(commit) => numbers.push(commit.number()),
                    Err(Error::NotFound {
                        kind: Kind::Project,
                        ..
                    }) => assert_eq!(project, "absent"),
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(numbers.is_sorted(), "a later commit has a higher number");
            numbers
        });
    }
    let numbers: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
    let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), 160);
    assert_eq!(
        distinct.into_iter().collect::<Vec<_>>(),
        (2..=161).collect::<Vec<_>>()
    );
    assert_eq!(ledger.head().await.unwrap(), 161);
}

#[tokio::test]
async fn a_commit_of_nothing_takes_a_number_and_says_nothing() {
    let (_dir, ledger) = fresh().await;
    assert_eq!(ledger.head().await.unwrap(), 0);
    assert_eq!(
        ledger.commit(Durability::Power, vec![]).await.unwrap(),
        Commit(1)
    );
    assert_eq!(ledger.head().await.unwrap(), 1);
    assert!(ledger.changes_since(0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn when_one_change_of_a_batch_fails_none_is_made() {
    let (_dir, ledger) = fresh().await;
    let id = Uuid::now_v7();
    let error = commit(
        &ledger,
        vec![
            project("blog"),
            deployment(id, "blog"),
            update(id, 1, "extracting", false),
            update(id, 1, "installing", false),
        ],
    )
    .await
    .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Conflict {
                expected: 1,
                found: 2,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("version 2, the change expected version 1"),
        "{error}"
    );
    assert_eq!(ledger.head().await.unwrap(), 0);
    assert_eq!(ledger.project("blog").await.unwrap(), None);
    assert_eq!(ledger.deployment(id).await.unwrap(), None);
    assert!(ledger.changes_since(0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_two_who_saw_the_same_version_one_wins() {
    let (_dir, ledger) = fresh().await;
    let id = Uuid::now_v7();
    commit(&ledger, vec![project("blog"), deployment(id, "blog")])
        .await
        .unwrap();
    let (left, right) = tokio::join!(
        commit(&ledger, vec![update(id, 1, "left", false)]),
        commit(&ledger, vec![update(id, 1, "right", false)]),
    );
    assert!(left.is_ok() != right.is_ok());
    let row = ledger.deployment(id).await.unwrap().unwrap();
    assert_eq!(row.version, 2);
    assert_eq!(row.status, if left.is_ok() { "left" } else { "right" });
    assert!(!row.finished);
    assert_eq!(row.finished_at, None);
}

#[tokio::test]
async fn a_finished_deployment_stays_as_it_ended() {
    let (_dir, ledger) = fresh().await;
    let id = Uuid::now_v7();
    commit(&ledger, vec![project("blog"), deployment(id, "blog")])
        .await
        .unwrap();
    commit(&ledger, vec![update(id, 1, "failed", true)])
        .await
        .unwrap();
    let ended = ledger.deployment(id).await.unwrap().unwrap();
    assert!(ended.finished);
    assert!(ended.finished_at.is_some());
    for expect in [1, 2, 3] {
        for finished in [false, true] {
            let error = commit(&ledger, vec![update(id, expect, "succeeded", finished)])
                .await
                .unwrap_err();
            assert!(
                matches!(&error, Error::Finished { status, .. } if status == "failed"),
                "{error}"
            );
        }
    }
    assert_eq!(ledger.deployment(id).await.unwrap(), Some(ended));
    let again = commit(&ledger, vec![deployment(id, "blog")])
        .await
        .unwrap_err();
    assert!(
        matches!(
            again,
            Error::Exists {
                kind: Kind::Deployment,
                ..
            }
        ),
        "{again}"
    );
    assert!(ledger.unfinished().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_active_release_moves_by_compare_and_set() {
    let (_dir, ledger) = fresh().await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    commit(
        &ledger,
        vec![
            project("blog"),
            deployment(first, "blog"),
            deployment(second, "blog"),
            Change::InsertRelease(release(first, "blog")),
            Change::InsertRelease(release(second, "blog")),
            set_active("blog", Some(first), Some(None)),
        ],
    )
    .await
    .unwrap();
    let error = commit(&ledger, vec![set_active("blog", Some(second), Some(None))])
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::ActiveConflict { expected: None, found, .. } if found == Some(first)),
        "{error}"
    );
    assert!(
        error.to_string().contains("the change expected no release"),
        "{error}"
    );

    commit(
        &ledger,
        vec![set_active("blog", Some(second), Some(Some(first)))],
    )
    .await
    .unwrap();
    let row = ledger.project("blog").await.unwrap().unwrap();
    assert_eq!((row.active, row.version), (Some(second), 3));

    // Unconditionally, and down to nothing.
    commit(&ledger, vec![set_active("blog", Some(first), None)])
        .await
        .unwrap();
    commit(&ledger, vec![set_active("blog", None, Some(Some(first)))])
        .await
        .unwrap();
    let row = ledger.project("blog").await.unwrap().unwrap();
    assert_eq!((row.active, row.version), (None, 5));
}

#[tokio::test]
async fn a_project_serves_only_a_release_of_its_own() {
    let (_dir, ledger) = fresh().await;
    let (blog, shop) = (Uuid::now_v7(), Uuid::now_v7());
    commit(
        &ledger,
        vec![
            project("blog"),
            project("shop"),
            deployment(blog, "blog"),
            deployment(shop, "shop"),
            Change::InsertRelease(release(shop, "shop")),
        ],
    )
    .await
    .unwrap();
    let foreign = commit(&ledger, vec![set_active("blog", Some(shop), None)])
        .await
        .unwrap_err();
    assert!(
        matches!(&foreign, Error::ForeignRelease { owner, .. } if owner == "shop"),
        "{foreign}"
    );
    let unknown = commit(&ledger, vec![set_active("blog", Some(blog), None)])
        .await
        .unwrap_err();
    assert!(
        matches!(
            unknown,
            Error::NotFound {
                kind: Kind::Release,
                ..
            }
        ),
        "{unknown}"
    );
    let nowhere = commit(&ledger, vec![set_active("none", None, None)])
        .await
        .unwrap_err();
    assert!(
        matches!(
            nowhere,
            Error::NotFound {
                kind: Kind::Project,
                ..
            }
        ),
        "{nowhere}"
    );
    let stolen = commit(&ledger, vec![Change::InsertRelease(release(blog, "shop"))])
        .await
        .unwrap_err();
    assert!(matches!(stolen, Error::ForeignRelease { .. }), "{stolen}");
    let orphan = commit(
        &ledger,
        vec![Change::InsertRelease(release(Uuid::now_v7(), "shop"))],
    )
    .await
    .unwrap_err();
    assert!(
        matches!(
            orphan,
            Error::NotFound {
                kind: Kind::Deployment,
                ..
            }
        ),
        "{orphan}"
    );
    let twice = commit(&ledger, vec![Change::InsertRelease(release(shop, "shop"))])
        .await
        .unwrap_err();
    assert!(
        matches!(
            twice,
            Error::Exists {
                kind: Kind::Release,
                ..
            }
        ),
        "{twice}"
    );
}

#[tokio::test]
async fn what_is_absent_or_present_already_is_named() {
    let (_dir, ledger) = fresh().await;
    let id = Uuid::now_v7();
    commit(
        &ledger,
        vec![
            Change::InsertPlugin(plugin("unpack", "1.0.0", "blake3:aa")),
            Change::InsertToken(token(id, "hash")),
        ],
    )
    .await
    .unwrap();
    let refused = [
        (
            Change::InsertPlugin(plugin("unpack", "1.0.0", "blake3:bb")),
            "plugin \"unpack@1.0.0\" exists already",
        ),
        (
            Change::InsertToken(token(Uuid::now_v7(), "hash")),
            "exists already",
        ),
        (
            Change::RemovePlugin {
                name: "unpack".into(),
                version: "2.0.0".into(),
            },
            "there is no plugin \"unpack@2.0.0\"",
        ),
        (Change::RemoveToken { id: Uuid::nil() }, "there is no token"),
        (update(id, 1, "queued", false), "there is no deployment"),
        (deployment(id, "blog"), "there is no project \"blog\""),
    ];
    for (change, words) in refused {
        let error = commit(&ledger, vec![change]).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    commit(
        &ledger,
        vec![
            Change::RemovePlugin {
                name: "unpack".into(),
                version: "1.0.0".into(),
            },
            Change::RemoveToken { id },
        ],
    )
    .await
    .unwrap();
    assert_eq!(ledger.plugin("unpack", "1.0.0").await.unwrap(), None);
    assert_eq!(ledger.token("hash").await.unwrap(), None);
}

#[tokio::test]
async fn a_number_too_large_for_its_column_is_refused() {
    let (_dir, ledger) = fresh().await;
    let id = Uuid::now_v7();
    let mut row = release(id, "blog");
    row.bytes = u64::MAX;
    let changes = vec![
        project("blog"),
        deployment(id, "blog"),
        Change::InsertRelease(row),
    ];
    let error = commit(&ledger, changes).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::OutOfRange {
                what: "bytes",
                value: u64::MAX
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_commit_whose_caller_went_away_is_whole_or_absent() {
    let (_dir, ledger) = fresh().await;
    for round in 0..20 {
        let names: Vec<Change> = (0..20).map(|n| project(&format!("p{round}-{n}"))).collect();
        let pending = ledger.commit(Durability::Process, names);
        // Polled once: it is under way, and then nobody waits for it.
        let _ = tokio::time::timeout(std::time::Duration::ZERO, pending).await;
    }
    let last = ledger.commit(Durability::Process, vec![]).await.unwrap();
    let projects = ledger.projects().await.unwrap();
    assert_eq!(projects.len() as u64, (last.number() - 1) * 20);
}
