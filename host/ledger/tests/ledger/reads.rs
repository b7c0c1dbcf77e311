use super::*;
use cofferdam_ledger::{ChangeRow, DeploymentFilter, Kind, MAX_PAGE};

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repeat_newest_first() {
    let (_dir, ledger) = fresh().await;
    commit(&ledger, vec![project("blog"), project("shop")])
        .await
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..57 {
        let id = Uuid::now_v7();
        let name = if n % 3 == 0 { "shop" } else { "blog" };
        let mut changes = vec![deployment(id, name)];
        if n % 2 == 0 {
            changes.push(update(id, 1, "failed", true));
        }
        commit(&ledger, changes).await.unwrap();
        ids.push((id, name, if n % 2 == 0 { "failed" } else { "queued" }));
    }
    for project in [None, Some("blog"), Some("shop"), Some("none")] {
        for status in [None, Some("queued"), Some("failed"), Some("none")] {
            let expected: Vec<Uuid> = ids
                .iter()
                .rev()
                .filter(|(_, name, _)| project.is_none_or(|wanted| wanted == *name))
                .filter(|(_, _, is)| status.is_none_or(|wanted| wanted == *is))
                .map(|(id, _, _)| *id)
                .collect();
            let mut filter = DeploymentFilter {
                project: project.map(str::to_owned),
                status: status.map(str::to_owned),
                limit: 10,
                ..DeploymentFilter::default()
            };
            let mut seen = Vec::new();
            loop {
                let page = ledger.deployments(&filter).await.unwrap();
                assert!(page.len() <= 10);
                let Some(last) = page.last() else { break };
                filter.before = Some(last.id);
                seen.extend(page.iter().map(|row| row.id));
            }
            assert_eq!(seen, expected, "project {project:?}, status {status:?}");
        }
    }
    let waiting: Vec<Uuid> = ledger
        .unfinished()
        .await
        .unwrap()
        .iter()
        .map(|row| row.id)
        .collect();
    let expected: Vec<Uuid> = ids
        .iter()
        .filter(|row| row.2 == "queued")
        .map(|row| row.0)
        .collect();
    assert_eq!(waiting, expected);
}

#[tokio::test]
async fn what_is_recorded_is_read_back() {
    let (_dir, ledger) = fresh().await;
    let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
    let mut key = token(Uuid::now_v7(), "hash");
    key.expires_at = Some(23);
    commit(
        &ledger,
        vec![
            project("blog"),
            deployment(old, "blog"),
            deployment(new, "blog"),
            Change::InsertRelease(release(old, "blog")),
            Change::InsertRelease(release(new, "blog")),
            Change::InsertPlugin(plugin("unpack", "1.0.0", "blake3:aa")),
            Change::InsertPlugin(plugin("unpack", "1.1.0", "blake3:bb")),
            Change::InsertPlugin(plugin("serve", "1.0.0", "blake3:bb")),
            Change::InsertToken(key.clone()),
        ],
    )
    .await
    .unwrap();
    let row = ledger.deployment(old).await.unwrap().unwrap();
    assert_eq!(row.project, "blog");
    assert_eq!(row.status, "queued");
    assert_eq!(row.version, 1);
    assert_eq!(row.created_at, 11);
    assert_eq!(row.body, r#"{"message":"hello"}"#);
    assert_eq!(
        ledger.release(old).await.unwrap(),
        Some(release(old, "blog"))
    );
    assert_eq!(ledger.release(Uuid::nil()).await.unwrap(), None);
    assert_eq!(
        ledger.releases("blog").await.unwrap(),
        vec![release(new, "blog"), release(old, "blog")]
    );
    assert!(ledger.releases("shop").await.unwrap().is_empty());
    let project = ledger.project("blog").await.unwrap().unwrap();
    assert_eq!(
        (project.created_at, project.version, project.active),
        (7, 1, None)
    );
    assert_eq!(ledger.projects().await.unwrap(), vec![project]);
    assert_eq!(
        ledger.plugin("unpack", "1.1.0").await.unwrap(),
        Some(plugin("unpack", "1.1.0", "blake3:bb"))
    );
    assert_eq!(
        ledger.plugin_by_digest("blake3:bb").await.unwrap(),
        Some(plugin("serve", "1.0.0", "blake3:bb"))
    );
    let names = |rows: Vec<PluginRow>| -> Vec<String> {
        rows.iter()
            .map(|row| format!("{}@{}", row.name, row.version))
            .collect()
    };
    assert_eq!(
        names(ledger.plugins(None).await.unwrap()),
        ["serve@1.0.0", "unpack@1.0.0", "unpack@1.1.0"]
    );
    assert_eq!(
        names(ledger.plugins(Some("unpack")).await.unwrap()),
        ["unpack@1.0.0", "unpack@1.1.0"]
    );
    assert_eq!(ledger.token("hash").await.unwrap(), Some(key.clone()));
    assert_eq!(ledger.token("other").await.unwrap(), None);
    assert_eq!(ledger.tokens().await.unwrap(), vec![key]);
}

#[tokio::test]
async fn the_feed_names_what_each_commit_touched_in_order() {
    let (_dir, ledger) = fresh().await;
    let id = Uuid::now_v7();
    commit(&ledger, vec![project("blog"), deployment(id, "blog")])
        .await
        .unwrap();
    // Nothing new about the project, so the feed keeps silent about it.
    commit(
        &ledger,
        vec![project("blog"), update(id, 1, "extracting", false)],
    )
    .await
    .unwrap();
    commit(
        &ledger,
        vec![
            Change::InsertRelease(release(id, "blog")),
            set_active("blog", Some(id), None),
        ],
    )
    .await
    .unwrap();
    let row = |commit, kind, key: &str| ChangeRow {
        commit,
        kind,
        key: key.to_owned(),
    };
    let id = id.to_string();
    let all = vec![
        row(1, Kind::Project, "blog"),
        row(1, Kind::Deployment, &id),
        row(2, Kind::Deployment, &id),
        row(3, Kind::Release, &id),
        row(3, Kind::Project, "blog"),
    ];
    assert_eq!(ledger.changes_since(0, 100).await.unwrap(), all);
    assert_eq!(ledger.changes_since(2, 100).await.unwrap(), all[3..]);
    assert!(ledger.changes_since(3, 100).await.unwrap().is_empty());
    assert!(
        ledger
            .changes_since(u64::MAX, 100)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_page_of_the_feed_never_cuts_a_commit() {
    let (_dir, ledger) = fresh().await;
    commit(&ledger, (0..3).map(|n| project(&format!("a{n}"))).collect())
        .await
        .unwrap();
    commit(&ledger, (0..2).map(|n| project(&format!("b{n}"))).collect())
        .await
        .unwrap();
    let long = MAX_PAGE + 5;
    commit(
        &ledger,
        (0..long).map(|n| project(&format!("c{n:05}"))).collect(),
    )
    .await
    .unwrap();
    let count = |rows: Vec<ChangeRow>| rows.len();
    assert_eq!(count(ledger.changes_since(0, 1).await.unwrap()), 3);
    assert_eq!(count(ledger.changes_since(0, 3).await.unwrap()), 3);
    assert_eq!(count(ledger.changes_since(0, 4).await.unwrap()), 3);
    assert_eq!(count(ledger.changes_since(0, 5).await.unwrap()), 5);
    let last = ledger.changes_since(2, u32::MAX).await.unwrap();
    assert_eq!(last.len(), long as usize);
    assert!(last.iter().map(|row| &row.key).is_sorted());
}

#[tokio::test]
async fn a_secret_is_put_replaced_listed_and_removed() {
    let (_dir, ledger) = fresh().await;
    let first = secret("blog", "TOKEN", b"\x00sealed\xff");
    let other = secret("blog", "A_KEY", b"1");
    let foreign = secret("shop", "TOKEN", b"2");
    commit(
        &ledger,
        [&first, &other, &foreign]
            .map(|row| Change::PutSecret(row.clone()))
            .to_vec(),
    )
    .await
    .unwrap();
    assert_eq!(
        ledger.secrets("blog").await.unwrap(),
        vec![other.clone(), first.clone()]
    );
    let newer = SecretRow {
        sealed: b"sealed anew".to_vec(),
        created_at: 29,
        updated_at: 29,
        ..first.clone()
    };
    commit(&ledger, vec![Change::PutSecret(newer.clone())])
        .await
        .unwrap();
    let kept = SecretRow {
        created_at: first.created_at,
        ..newer
    };
    assert_eq!(ledger.secret("blog", "TOKEN").await.unwrap(), Some(kept));
    assert_eq!(ledger.secret_count().await.unwrap(), 3);

    let remove = Change::RemoveSecret {
        project: "blog".to_owned(),
        name: "TOKEN".to_owned(),
    };
    commit(&ledger, vec![remove.clone()]).await.unwrap();
    assert_eq!(ledger.secret("blog", "TOKEN").await.unwrap(), None);
    assert_eq!(ledger.secret("shop", "TOKEN").await.unwrap(), Some(foreign));
    let again = commit(&ledger, vec![remove]).await.unwrap_err();
    assert!(
        matches!(
            again,
            Error::NotFound {
                kind: Kind::Secret,
                ..
            }
        ),
        "{again}"
    );
    let feed = ledger.changes_since(1, 100).await.unwrap();
    let keys: Vec<_> = feed
        .iter()
        .map(|row| (row.kind, row.key.as_str()))
        .collect();
    assert_eq!(
        keys,
        [(Kind::Secret, "blog/TOKEN"), (Kind::Secret, "blog/TOKEN")]
    );
}
