//! Who did what.

use serde_json::Value;

use crate::harness::{shared, site};

#[tokio::test]
async fn what_changes_something_is_written_down_with_who_and_from_where_and_reading_is_not() {
    let server = shared();
    let id = server.deploy("audited", site()).await;
    server.ended(&id).await;
    let secret = "/v1/projects/audited/secrets/TOKEN";
    let set = server.request("PUT", secret).body("a value that is long");
    assert_eq!(set.send().await.unwrap().status(), 201);
    server.get("/v1/projects/audited/secrets").await;
    let removed = server.request("DELETE", secret).send().await.unwrap();
    assert_eq!(removed.status(), 204);
    // What is refused was not done.
    let missing = server.request("DELETE", secret).send().await.unwrap();
    assert_eq!(missing.status(), 404);

    let page = server.get("/v1/audit?project=audited").await;
    let rows = page["audit"].as_array().unwrap();
    let told: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| {
            (
                row["action"].as_str().unwrap(),
                row["target"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("secret.remove", "TOKEN"),
            ("secret.set", "TOKEN"),
            ("deployment.begin", id.as_str()),
        ]
    );
    for row in rows {
        assert_eq!(row["address"], "127.0.0.1", "{row}");
        assert!(row["token"].is_string(), "{row}");
    }
    assert!(!page.to_string().contains("a value"));

    let first = server.get("/v1/audit?project=audited&limit=2").await;
    let before = first["next"].as_u64().unwrap();
    let second = server
        .get(&format!(
            "/v1/audit?project=audited&limit=2&before={before}"
        ))
        .await;
    assert_eq!(second["audit"].as_array().unwrap().len(), 1);
    assert_eq!(second["next"], Value::Null);
}
