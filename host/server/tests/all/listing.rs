//! Lists: pages, filters, and what is wrong with a query.

use serde_json::{Value, json};

use crate::harness::{shared, site};

#[tokio::test]
async fn deployments_come_newest_first_and_page_by_page() {
    let server = shared();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = server.deploy("pages", site()).await;
        server.ended(&id).await;
        ids.insert(0, id);
    }
    let mut found = Vec::new();
    let mut before = String::new();
    loop {
        let path = format!("/v1/deployments?project=pages&limit=2{before}");
        let page = server.get(&path).await;
        let records = page["deployments"].as_array().unwrap();
        found.extend(
            records
                .iter()
                .map(|record| record["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        before = format!("&before={next}");
    }
    assert_eq!(found, ids);
    let none = server
        .get("/v1/deployments?project=pages&status=failed")
        .await;
    assert_eq!(none, json!({ "deployments": [], "next": null }));
    let all = server
        .get("/v1/deployments?status=succeeded&project=pages")
        .await;
    assert_eq!(all["deployments"].as_array().unwrap().len(), 3);

    let project = server.get("/v1/projects/pages").await;
    assert_eq!(project["name"], "pages");
    let projects = server.get("/v1/projects").await;
    let names: Vec<_> = projects["projects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert!(names.contains(&&json!("pages")));
}

#[tokio::test]
async fn a_query_that_means_nothing_is_refused() {
    let server = shared();
    for query in [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "status=done",
        "project=..",
        "before=x",
        "projct=a",
        "limit=1&limit=2",
    ] {
        let answer = server
            .request("GET", &format!("/v1/deployments?{query}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{query}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "request_invalid", "{query}");
    }
}

#[tokio::test]
async fn a_component_that_is_none_is_not_admitted() {
    let server = shared();
    let request = server
        .request("PUT", "/v1/plugins/mine/1.0.0")
        .body("not wasm");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 422);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "plugin_incompatible");
    for path in [
        "/v1/plugins/mine/one",
        "/v1/plugins/-x/1.0.0",
        "/v1/plugins/..%2fx/1.0.0",
    ] {
        let answer = server.request("PUT", path).body("x").send().await.unwrap();
        assert_eq!(answer.status(), 400, "{path}");
    }
    let absent = server
        .request("GET", "/v1/plugins/mine/1.0.0")
        .send()
        .await
        .unwrap();
    assert_eq!(absent.status(), 404);
}
