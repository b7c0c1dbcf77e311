//! Secrets over HTTP: they go in, and never come out.

use serde_json::{Value, json};

use crate::harness::shared;

#[tokio::test]
async fn a_secret_goes_in_is_listed_by_name_and_goes_away() {
    let server = shared();
    let path = "/v1/projects/not-deployed-yet/secrets";
    assert_eq!(server.get(path).await, json!({ "secrets": [] }));

    let put = async |name: &str, value: &'static [u8]| {
        let request = server.request("PUT", &format!("{path}/{name}")).body(value);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let (status, first) = put("NPM_TOKEN", b"\xffan-npm-token\n").await;
    assert_eq!(status, 201, "{first}");
    assert_eq!(
        (&first["name"], &first["redacted"]),
        (&json!("NPM_TOKEN"), &json!(true))
    );
    let (status, second) = put("NPM_TOKEN", b"1234567").await;
    assert_eq!(status, 200);
    assert_eq!(second["redacted"], false);
    assert_eq!(second["created_at"], first["created_at"]);
    put("a-key", b"another value").await;

    let list = server.get(path).await;
    assert_eq!(
        list["secrets"],
        json!([
            { "name": "NPM_TOKEN", "created_at": first["created_at"], "updated_at": second["updated_at"] },
            list["secrets"][1],
        ])
    );
    assert_eq!(list["secrets"][1]["name"], "a-key");

    // No other route and no other method shows more.
    for method in ["GET", "POST"] {
        let answer = server.request(method, &format!("{path}/NPM_TOKEN"));
        assert_eq!(answer.send().await.unwrap().status(), 405, "{method}");
    }
    for status in [204, 404] {
        let answer = server.request("DELETE", &format!("{path}/a-key"));
        assert_eq!(answer.send().await.unwrap().status(), status);
    }
    let left = server.get(path).await;
    assert_eq!(left["secrets"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_refused_in_words() {
    let server = shared();
    let long = "x".repeat(129);
    for (name, value, status, code) in [
        ("1ST", vec![b'x'], 400, "request_invalid"),
        (long.as_str(), vec![b'x'], 400, "request_invalid"),
        ("a%2Fb", vec![b'x'], 400, "request_invalid"),
        ("EMPTY", vec![], 400, "request_invalid"),
        (
            "LARGE",
            vec![b'x'; (64 << 10) + 1],
            413,
            "package_too_large",
        ),
    ] {
        let path = format!("/v1/projects/blog/secrets/{name}");
        let answer = server
            .request("PUT", &path)
            .body(value)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), status, "{name}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{problem}");
    }
    let path = "/v1/projects/No_Project/secrets/A";
    let answer = server.request("PUT", path).body("x").send().await.unwrap();
    assert_eq!(answer.status(), 400);
}
