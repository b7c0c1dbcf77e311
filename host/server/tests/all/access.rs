//! Who may ask what, and what those are told who may not.

use serde_json::Value;

use crate::harness::{shared, site};

/// Every route that wants a token.
const GUARDED: [(&str, &str); 28] = [
    ("POST", "/v1/projects/blog/deployments"),
    ("PUT", "/v1/projects/blog/deployments"),
    ("GET", "/v1/deployments"),
    (
        "GET",
        "/v1/deployments/01890000-0000-7000-8000-000000000000",
    ),
    (
        "GET",
        "/v1/deployments/01890000-0000-7000-8000-000000000000/events",
    ),
    (
        "GET",
        "/v1/deployments/01890000-0000-7000-8000-000000000000/log",
    ),
    (
        "GET",
        "/v1/deployments/01890000-0000-7000-8000-000000000000/package",
    ),
    ("GET", "/v1/projects"),
    ("GET", "/v1/projects/blog"),
    ("GET", "/v1/projects/blog/secrets"),
    ("PUT", "/v1/projects/blog/secrets/TOKEN"),
    ("DELETE", "/v1/projects/blog/secrets/TOKEN"),
    ("GET", "/v1/plugins"),
    ("GET", "/v1/plugins/unpack/1.0.0"),
    ("PUT", "/v1/plugins/unpack/1.0.0"),
    ("DELETE", "/v1/plugins/unpack/1.0.0"),
    ("GET", "/v1/audit"),
    ("DELETE", "/v1/projects/blog"),
    ("GET", "/v1/projects/blog/history"),
    ("POST", "/v1/projects/blog/rollback"),
    ("POST", "/v1/projects/blog/verify"),
    ("GET", "/v1/projects/blog/events"),
    ("GET", "/v1/projects/blog/webhook"),
    ("PUT", "/v1/projects/blog/webhook"),
    ("DELETE", "/v1/projects/blog/webhook"),
    (
        "PUT",
        "/v1/deployments/01890000-0000-7000-8000-000000000000/pin",
    ),
    (
        "DELETE",
        "/v1/deployments/01890000-0000-7000-8000-000000000000/pin",
    ),
    (
        "DELETE",
        "/v1/deployments/01890000-0000-7000-8000-000000000000/package",
    ),
];

#[tokio::test]
async fn every_route_but_the_probes_wants_a_token() {
    let server = shared();
    for (method, path) in GUARDED {
        for path in [
            path.to_owned(),
            format!("{path}?token={}&access_token={0}", server.token),
        ] {
            let answer = server.anonymous(method, &path).send().await.unwrap();
            assert_eq!(answer.status(), 401, "{method} {path}");
            let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
            assert!(challenge.starts_with("Bearer "), "{challenge}");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["code"], "unauthorized");
        }
        let wrong = server
            .anonymous(method, path)
            .bearer_auth("cofferdam_wrong")
            .send()
            .await
            .unwrap();
        assert_eq!(wrong.status(), 401, "{method} {path}");
        assert!(
            wrong.headers()["www-authenticate"]
                .to_str()
                .unwrap()
                .contains("invalid_token")
        );
    }
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(
            server
                .anonymous("GET", probe)
                .send()
                .await
                .unwrap()
                .status(),
            200,
            "{probe}"
        );
    }
}

#[tokio::test]
async fn what_is_no_route_is_404_and_another_method_405() {
    let server = shared();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/deployment",
        "/v1/deployments/",
        "//healthz",
        "/v2/x",
    ] {
        let answer = server.request("GET", path).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(
            (&problem["code"], &problem["status"]),
            (&"not_found".into(), &404.into()),
            "{path}"
        );
    }
    for (method, path, allow) in [
        (
            "DELETE",
            "/v1/projects/blog/deployments",
            &["POST", "PUT"][..],
        ),
        ("GET", "/v1/projects/blog/deployments", &["POST", "PUT"]),
        ("POST", "/v1/deployments", &["GET", "HEAD"]),
        ("POST", "/healthz", &["GET", "HEAD"]),
        (
            "POST",
            "/v1/plugins/unpack/1.0.0",
            &["DELETE", "GET", "HEAD", "PUT"],
        ),
    ] {
        let answer = server.request(method, path).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{method} {path}");
        let mut named: Vec<_> = answer.headers()["allow"]
            .to_str()
            .unwrap()
            .split(',')
            .collect();
        named.sort_unstable();
        assert_eq!(named, allow, "{method} {path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "method_not_allowed");
    }
}

#[tokio::test]
async fn head_is_answered_like_get_without_a_body() {
    let server = shared();
    let answer = server.request("HEAD", "/v1/projects").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.bytes().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_before_anything_is_done_with_it() {
    let server = shared();
    let long = "a".repeat(300);
    for name in [
        "-rf",
        "a-",
        "A",
        "a.b",
        "..%2f..%2fetc",
        "%2Fetc",
        "a%00b",
        "a%0d%0ab",
        "a%1b",
        "%c3%a4",
        "a%20b",
        "%252e",
        long.as_str(),
    ] {
        let path = format!("/v1/projects/{name}/deployments");
        let answer = server
            .request("PUT", &path)
            .body(site())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{name}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "head_invalid", "{name}");
        let shown = server
            .request("GET", &format!("/v1/projects/{name}"))
            .send()
            .await
            .unwrap();
        assert_eq!(shown.status(), 404, "{name}");
    }
    // Clients of this library tidy a path up before they send it; a raw one does not.
    for (path, status) in [
        ("/v1/projects/../deployments", 400),
        ("/v1/projects/../../etc/deployments", 404),
        ("/v1/projects/%2e%2e/deployments", 400),
        ("/v1/projects/./deployments", 400),
        ("/v1/projects//deployments", 400),
        ("/v1/projects/%ff%fe/deployments", 400),
    ] {
        let headers = "Content-Length: 1\r\nConnection: close\r\n";
        let mut raw = server.begin(&format!("POST {path}"), headers).await;
        raw.send(b"x").await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{path}");
        assert!(["head_invalid", "not_found", "request_invalid"].contains(&answer.code().as_str()));
    }
    let projects = server.get("/v1/projects").await;
    for project in projects["projects"].as_array().unwrap() {
        let name = project["name"].as_str().unwrap();
        assert!(
            name.len() <= 63 && !name.contains(['/', '.', '%']),
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_id_that_is_none_does_not_exist() {
    let server = shared();
    for id in [
        "x",
        "..%2f",
        "01890000-0000-7000-8000-000000000000",
        "0189000000007000800000000000000",
    ] {
        for rest in ["", "/events", "/log", "/package"] {
            let path = format!("/v1/deployments/{id}{rest}");
            let answer = server.request("GET", &path).send().await.unwrap();
            assert_eq!(answer.status(), 404, "{path}");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["code"], "not_found", "{path}");
        }
    }
}

#[tokio::test]
async fn every_answer_carries_its_request_id() {
    let server = shared();
    let one = server.anonymous("GET", "/healthz").send().await.unwrap();
    let other = server.request("GET", "/nowhere").send().await.unwrap();
    let id = other.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_ne!(one.headers()["x-request-id"], id.as_str());
    let problem: Value = other.json().await.unwrap();
    assert_eq!(problem["request"], id.as_str());
}
