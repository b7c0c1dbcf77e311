//! Tokens: made, used within their scopes, revoked while they are in use; and every route with every scope.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::harness::{Raw, TestServer, shared, site};
use crate::uploads::create;

/// How long what a revoked token has under way may go on, on a busy machine; on an idle one it takes milliseconds.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Makes a token with these scopes: its id and itself.
async fn make(server: &TestServer, scopes: &[&str], expires_in_s: Option<u64>) -> (String, String) {
    let new = json!({ "scopes": scopes, "expires_in_s": expires_in_s, "name": "test" });
    let answer = server
        .request("POST", "/v1/tokens")
        .body(new.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let made: Value = answer.json().await.unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

async fn revoke(server: &TestServer, id: &str) -> u16 {
    let path = format!("/v1/tokens/{id}");
    let answer = server.request("DELETE", &path).send().await.unwrap();
    answer.status().as_u16()
}

async fn status(server: &TestServer, token: &str, method: &str, path: &str) -> u16 {
    let request = server.anonymous(method, path).bearer_auth(token);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_token_opens_its_project_and_nothing_beside_it() {
    let server = shared();
    for project in ["app", "app2"] {
        let id = server.deploy(project, site()).await;
        server.ended(&id).await;
    }
    let (id, token) = make(&server, &["deploy:app"], Some(3600)).await;
    let get = async |path: &str| status(&server, &token, "GET", path).await;
    assert_eq!(get("/v1/projects/app").await, 200);
    assert_eq!(get("/v1/projects/app2").await, 404);
    assert_eq!(get("/v1/projects/ap").await, 404);
    assert_eq!(get("/v1/tokens").await, 403);
    assert_eq!(get("/metrics").await, 403);
    let listed = server
        .anonymous("GET", "/v1/projects")
        .bearer_auth(&token)
        .send()
        .await
        .unwrap();
    let listed: Value = listed.json().await.unwrap();
    let names: Vec<_> = listed["projects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["app"]);

    let all = server.get("/v1/tokens").await;
    let mine = all["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["id"] == id.as_str());
    let mine = mine.unwrap();
    assert_eq!(mine["scopes"], json!(["deploy:app"]));
    assert_eq!(mine["name"], "test");
    assert!(!all.to_string().contains(&token) && mine.get("token").is_none());

    assert_eq!(revoke(&server, &id).await, 204);
    assert_eq!(revoke(&server, &id).await, 404);
    assert_eq!(get("/v1/projects/app").await, 401);
}

#[tokio::test]
async fn a_token_that_cannot_be_is_refused_with_the_reason() {
    let server = shared();
    for new in [
        json!({ "scopes": [] }),
        json!({ "scopes": ["root"] }),
        json!({ "scopes": ["deploy:../x"] }),
        json!({ "scopes": ["read:*"], "expires_in_s": 0 }),
        json!({ "scopes": ["read:*"], "name": "-x" }),
        json!({ "scopes": ["read:*"], "name": "x".repeat(300) }),
        json!({ "scopes": ["read:*"], "until": "tomorrow" }),
        json!("admin"),
    ] {
        let request = server.request("POST", "/v1/tokens").body(new.to_string());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{new}");
        let problem: Value = answer.json().await.unwrap();
        let code = problem["code"].as_str().unwrap();
        assert!(
            ["request_invalid", "head_invalid"].contains(&code),
            "{new}: {problem}"
        );
    }
}

/// A request with this token, of which only the head is sent.
async fn begin(server: &TestServer, token: &str, line: &str, headers: &str) -> Raw {
    let mut raw = server.connect().await;
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
    );
    raw.send(head.as_bytes()).await;
    raw
}

#[tokio::test]
async fn what_a_token_has_under_way_ends_when_it_is_revoked() {
    let server = shared();
    let (id, token) = make(&server, &["deploy:revoked"], None).await;
    let mut upload = begin(
        &server,
        &token,
        "PUT /v1/projects/revoked/deployments",
        "Content-Length: 100000\r\n",
    )
    .await;
    upload.send(&site()[..600]).await;
    let page = server
        .eventually("/v1/deployments?project=revoked", |page| {
            page["deployments"][0]["id"].is_string()
        })
        .await;
    let deployment = page["deployments"][0]["id"].as_str().unwrap();
    let line = format!("GET /v1/deployments/{deployment}/events");
    let mut listener = begin(&server, &token, &line, "").await;
    listener.read_until("\"seq\":1").await;

    assert_eq!(revoke(&server, &id).await, 204);
    let since = Instant::now();
    // The stream of events breaks off: its end is not the end of the deployment.
    let mut rest = Vec::new();
    let broken = tokio::time::timeout(Duration::from_secs(20), listener.0.read_to_end(&mut rest));
    let _ = broken.await.expect("the stream goes on");
    let took = since.elapsed();
    assert!(took < AT_ONCE, "the stream went on for {took:?}");
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(
        !rest.contains("event: done") && !rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
    // The upload is answered, and its deployment fails.
    let answer = upload.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "unauthorized")
    );
    let took = since.elapsed();
    assert!(took < 2 * AT_ONCE, "the upload went on for {took:?}");
    let record = server.ended(deployment).await;
    assert_eq!(record["error"]["code"], "upload_interrupted");
}

#[tokio::test]
async fn a_token_that_expires_ends_what_it_has_under_way() {
    let server = shared();
    let id = server.deploy("expired", site()).await;
    let (_, token) = make(&server, &["deploy:expired"], Some(2)).await;
    server.ended(&id).await;
    let mut upload = begin(
        &server,
        &token,
        "PUT /v1/projects/expired/deployments",
        "Content-Length: 100000\r\n",
    )
    .await;
    upload.send(&site()[..600]).await;
    let answer = upload.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "unauthorized")
    );
}

#[tokio::test]
async fn one_token_has_so_many_uploads_at_a_time_and_then_has_to_wait() {
    let server = shared();
    let (_, token) = make(&server, &["deploy:*"], None).await;
    let line = |at: usize| format!("PUT /v1/projects/many{at}/deployments");
    let mut uploads = Vec::new();
    for at in 0..16 {
        let headers = "Content-Length: 100000\r\n";
        uploads.push(begin(&server, &token, &line(at), headers).await);
    }
    // They are under way once the server has looked at each of them.
    for (at, upload) in uploads.iter_mut().enumerate() {
        upload.send(&site()[..600]).await;
        let page = format!("/v1/deployments?project=many{at}");
        server
            .eventually(&page, |page| page["deployments"][0]["id"].is_string())
            .await;
    }
    let mut refused = begin(&server, &token, &line(16), "Content-Length: 100000\r\n").await;
    let answer = refused.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "too_many_requests")
    );
    assert!(answer.head.contains("retry-after: "), "{answer:?}");
    // Others are not held up, and neither are the small requests of this one.
    let (_, other) = make(&server, &["deploy:many17"], None).await;
    let path = "/v1/projects/many17/deployments";
    let request = server
        .anonymous("PUT", path)
        .bearer_auth(&other)
        .body(site());
    assert_eq!(request.send().await.unwrap().status(), 202);
    assert_eq!(status(&server, &token, "GET", "/v1/projects").await, 200);
    // One that ends makes room.
    drop(uploads.pop());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let request = server.anonymous("PUT", "/v1/projects/many18/deployments");
        let body = vec![0; 100_000];
        let answer = request.bearer_auth(&token).body(body).send().await.unwrap();
        if answer.status() != 429 {
            break;
        }
        assert!(Instant::now() < deadline, "there is no room again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The scopes that the walk below tries.
const SCOPES: [&[&str]; 8] = [
    &["read:walked"],
    &["read:walked2"],
    &["read:*"],
    &["deploy:walked"],
    &["deploy:walked2"],
    &["deploy:*"],
    &["read:walked", "deploy:walked2"],
    &["admin"],
];

/// What a rule of the document comes to for a token with these scopes, for the project `walked`.
fn expected(rule: &str, scopes: &[&str]) -> &'static str {
    let has = |scope: &str| scopes.contains(&scope);
    let admin = has("admin");
    let reads_all = admin || has("read:*") || has("deploy:*");
    let deploys = admin || has("deploy:*") || has("deploy:walked");
    let reads = reads_all || deploys || has("read:walked");
    match rule {
        "token" => "allowed",
        "admin" if admin => "allowed",
        "read:*" if reads_all => "allowed",
        "admin" | "read:*" => "forbidden",
        "read:{project}" | "read:{id}" if reads => "allowed",
        "deploy:{project}" | "deploy:{id}" | "deploy:{upload}" if deploys => "allowed",
        "deploy:{project}" | "deploy:{id}" | "deploy:{upload}" if reads => "forbidden",
        "read:{project}" | "read:{id}" | "deploy:{project}" | "deploy:{id}" | "deploy:{upload}" => {
            "hidden"
        }
        other => panic!("the document has a rule that this test does not know: {other}"),
    }
}

/// Every operation of the document: method, path, rule; those that take something away last.
async fn operations(server: &TestServer) -> Vec<(String, String, Option<String>)> {
    let document = server.get("/openapi.json").await;
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let security = operation["security"]
                .as_array()
                .unwrap_or_else(|| panic!("{method} {path} has no rule"));
            let rule = security
                .first()
                .map(|one| one["bearer"][0].as_str().unwrap().to_owned());
            operations.push((method.to_uppercase(), path.clone(), rule));
        }
    }
    operations.sort_by_key(|(method, path, _)| {
        (
            method == "DELETE",
            path.ends_with("{project}"),
            path.clone(),
        )
    });
    operations
}

#[tokio::test]
async fn every_route_of_the_document_keeps_its_rule_for_every_scope() {
    let server = TestServer::start(|_| {});
    let id = server.deploy("walked", site()).await;
    server.ended(&id).await;
    let mut tokens = Vec::new();
    for scopes in SCOPES {
        tokens.push((scopes, make(&server, scopes, None).await.1));
    }
    let mut walked = 0;
    for (method, path, rule) in operations(&server).await {
        let nobody = "01890000-0000-7000-8000-000000000000";
        // Which project it is about is in the path, or asked for.
        let by_query = rule
            .as_deref()
            .is_some_and(|rule| rule.contains("{project}"))
            && !path.contains("{project}");
        let query = if by_query { "?project=walked" } else { "" };
        let concrete = format!("{path}{query}")
            .replace("{project}", "walked")
            .replace("{id}", &id)
            .replace("{token}", nobody)
            .replace("{name}", "walk")
            .replace("{version}", "1.0.0");
        // An empty body is refused by whatever wants one, after the token was judged.
        let ask = async |token: Option<&str>| {
            let mut concrete = concrete.clone();
            if concrete.contains("{upload}") {
                // Each a new one: what is asked may take it away.
                let place = create(&server, "walked", None).await;
                let upload = place.rsplit('/').next().unwrap();
                concrete = concrete.replace("{upload}", upload);
            }
            assert!(
                !concrete.contains('{'),
                "a parameter of {path} is not known to this test"
            );
            let request = server.anonymous(&method, &concrete);
            let request = match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            let answer = request
                .timeout(Duration::from_secs(60))
                .send()
                .await
                .unwrap();
            answer.status().as_u16()
        };
        let Some(rule) = rule else {
            assert_eq!(ask(None).await, 200, "{method} {path}");
            continue;
        };
        assert_eq!(ask(None).await, 401, "{method} {path} without a token");
        assert_eq!(ask(Some("cofferdam_wrong")).await, 401, "{method} {path}");
        for (scopes, token) in &tokens {
            let found = ask(Some(token)).await;
            let name = format!("{method} {path} with {scopes:?}: {found}");
            match expected(&rule, scopes) {
                "forbidden" => assert_eq!(found, 403, "{name}"),
                "hidden" => assert_eq!(found, 404, "{name}"),
                _ => assert!(![401, 403].contains(&found), "{name}"),
            }
            // What is there is seen by whoever may see it.
            if method == "GET"
                && rule.starts_with("read:{")
                && expected(&rule, scopes) == "allowed"
                && !path.contains("{name}")
            {
                assert_ne!(found, 404, "{name}");
            }
        }
        walked += 1;
    }
    assert!(walked > 20, "{walked}");
}

#[tokio::test]
async fn every_route_refuses_names_that_are_none() {
    let server = shared();
    let long = "a".repeat(300);
    let bad = [
        "-rf",
        "..",
        "%2e%2e",
        "..%2f..%2fetc",
        "%2Fetc",
        "a%00b",
        "a%0d%0ab",
        "a%1b",
        "%c3%a4",
        "a%20b",
        "%252e%252e",
        "%ff%fe",
        "a%7f",
        &long,
    ];
    for (method, path, rule) in operations(&server).await {
        if rule.is_none() || !path.contains('{') {
            continue;
        }
        let parameters = path.matches('{').count();
        for name in bad {
            // One parameter after the other is wrong, with the others right.
            for wrong in 0..parameters {
                let mut at = 0;
                let parts = path.split('/').map(|part| {
                    if !part.starts_with('{') {
                        return part;
                    }
                    at += 1;
                    match part {
                        _ if at - 1 == wrong => name,
                        "{project}" => "names",
                        "{version}" => "1.0.0",
                        "{name}" => "name",
                        _ => "01890000-0000-7000-8000-000000000000",
                    }
                });
                let concrete = parts.collect::<Vec<_>>().join("/");
                // A client that tidies paths up would send another one.
                let mut raw = server
                    .begin(
                        &format!("{method} {concrete}"),
                        "Content-Length: 0\r\nConnection: close\r\n",
                    )
                    .await;
                let answer = raw.answer().await;
                let shown = &concrete[..concrete.len().min(80)];
                assert!(
                    [400, 404].contains(&answer.status),
                    "{method} {shown}: {answer:?}"
                );
                assert!(
                    answer.head.contains("application/problem+json"),
                    "{method} {shown}"
                );
            }
        }
    }
    let names = server.get("/v1/projects").await.to_string();
    assert!(!names.contains("..") && !names.contains('%'), "{names}");
}
