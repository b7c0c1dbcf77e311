//! The document of the API against the server that it describes, its figures, and its request ids.

use serde_json::{Value, json};

use crate::harness::{TestServer, shared, site};

/// The schema of an answer with this status and media type, with the document around it so that references lead
/// somewhere; nothing when the document says nothing about its body.
fn schema(document: &Value, operation: &Value, status: u16, media_type: &str) -> Option<Value> {
    let responses = &operation["responses"];
    let response = match &responses[status.to_string()] {
        Value::Null => &document["components"]["responses"]["Problem"],
        response => response,
    };
    let schema = response["content"][media_type].get("schema")?;
    let mut whole = document.clone();
    whole.as_object_mut().unwrap().extend(match schema {
        Value::Object(schema) => schema.clone(),
        other => panic!("{other}"),
    });
    Some(whole)
}

/// Sends a request and holds the answer against the document. The status, and the body if it was JSON.
async fn drive(
    server: &TestServer,
    document: &Value,
    (method, template): (&str, &str),
    path: &str,
    body: impl Into<reqwest::Body>,
) -> (u16, Value) {
    let operation = &document["paths"][template][method.to_lowercase()];
    assert!(
        operation.is_object(),
        "{method} {template} is not in the document"
    );
    let answer = server
        .request(method, path)
        .body(body)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    let media_type = answer
        .headers()
        .get("content-type")
        .map(|value| value.to_str().unwrap().to_owned());
    let media_type = media_type.as_deref().unwrap_or_default();
    let name = format!("{method} {path}: {status} {media_type}");
    let described = operation["responses"].get(status.to_string());
    assert!(
        described.is_some() || status >= 400,
        "{name} is not described"
    );
    let bytes = answer.bytes().await.unwrap();
    if bytes.is_empty() {
        return (status, Value::Null);
    }
    let plain = media_type.split(';').next().unwrap();
    if let Some(response) = described {
        let content = &response["content"];
        let known = content.get(plain).or(content.get("*/*"));
        assert!(known.is_some(), "{name}: the media type is not described");
    }
    if plain != "application/json" && !plain.ends_with("+json") {
        return (status, Value::Null);
    }
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    if let Some(schema) = schema(document, operation, status, plain) {
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(&body)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}\n{body:#}");
    }
    (status, body)
}

#[tokio::test]
async fn what_the_server_answers_is_what_its_document_says() {
    let server = shared();
    let document = server.get("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let id = server.deploy("described", site()).await;
    server.ended(&id).await;
    // A failed one too: its record has an error.
    let failed = server
        .request("PUT", "/v1/projects/described/deployments")
        .body("no archive")
        .send()
        .await
        .unwrap();
    let failed: Value = failed.json().await.unwrap();
    let failed = failed["deployment"]
        .as_str()
        .or(failed["id"].as_str())
        .unwrap()
        .to_owned();
    server.ended(&failed).await;

    let deployments = "/v1/projects/{project}/deployments";
    let secret = "/v1/projects/{project}/secrets/{name}";
    let plugin = "/v1/plugins/{name}/{version}";
    let one = "/v1/deployments/{id}";
    let expected: Vec<(&str, &str, String, Vec<u8>, u16)> = vec![
        (
            "PUT",
            deployments,
            "/v1/projects/described/deployments".into(),
            site(),
            202,
        ),
        (
            "GET",
            "/v1/deployments",
            "/v1/deployments?project=described".into(),
            vec![],
            200,
        ),
        ("GET", one, format!("/v1/deployments/{id}"), vec![], 200),
        ("GET", one, format!("/v1/deployments/{failed}"), vec![], 200),
        (
            "GET",
            "/v1/deployments/{id}/events",
            format!("/v1/deployments/{id}/events"),
            vec![],
            200,
        ),
        (
            "GET",
            "/v1/deployments/{id}/log",
            format!("/v1/deployments/{id}/log"),
            vec![],
            200,
        ),
        (
            "GET",
            "/v1/deployments/{id}/log",
            format!("/v1/deployments/{id}/log?format=jsonl"),
            vec![],
            200,
        ),
        (
            "GET",
            "/v1/deployments/{id}/package",
            format!("/v1/deployments/{id}/package"),
            vec![],
            200,
        ),
        (
            "POST",
            "/v1/projects/{project}/check",
            "/v1/projects/described/check".into(),
            b"{}".to_vec(),
            200,
        ),
        ("GET", "/v1/projects", "/v1/projects".into(), vec![], 200),
        (
            "GET",
            "/v1/projects/{project}",
            "/v1/projects/described".into(),
            vec![],
            200,
        ),
        (
            "PUT",
            secret,
            "/v1/projects/described/secrets/TOKEN".into(),
            b"a long secret".to_vec(),
            201,
        ),
        (
            "PUT",
            secret,
            "/v1/projects/described/secrets/TOKEN".into(),
            b"another secret".to_vec(),
            200,
        ),
        (
            "GET",
            "/v1/projects/{project}/secrets",
            "/v1/projects/described/secrets".into(),
            vec![],
            200,
        ),
        (
            "DELETE",
            secret,
            "/v1/projects/described/secrets/TOKEN".into(),
            vec![],
            204,
        ),
        ("GET", "/v1/plugins", "/v1/plugins".into(), vec![], 200),
        (
            "PUT",
            plugin,
            "/v1/plugins/described/1.0.0".into(),
            cofferdam_test_guests::SUCCEED.to_vec(),
            201,
        ),
        (
            "GET",
            plugin,
            "/v1/plugins/described/1.0.0".into(),
            vec![],
            200,
        ),
        (
            "DELETE",
            plugin,
            "/v1/plugins/described/1.0.0".into(),
            vec![],
            204,
        ),
        (
            "POST",
            "/v1/tokens",
            "/v1/tokens".into(),
            br#"{"scopes":["read:*"],"expires_in_s":60}"#.to_vec(),
            201,
        ),
        ("GET", "/v1/tokens", "/v1/tokens".into(), vec![], 200),
        ("GET", "/v1/audit", "/v1/audit".into(), vec![], 200),
        ("GET", "/healthz", "/healthz".into(), vec![], 200),
        ("GET", "/readyz", "/readyz".into(), vec![], 200),
        ("GET", "/metrics", "/metrics".into(), vec![], 200),
        ("GET", "/openapi.json", "/openapi.json".into(), vec![], 200),
    ];
    for (method, template, path, body, status) in expected {
        let (found, answer) = drive(&server, &document, (method, template), &path, body).await;
        assert_eq!(found, status, "{method} {path}: {answer}");
    }
    // Everything else of the document is asked for what is not there: problems are described too.
    let nobody = "01890000-0000-7000-8000-000000000000";
    for (template, methods) in document["paths"].as_object().unwrap() {
        let path = template
            .replace("{project}", "nobody")
            .replace("{name}", "nobody")
            .replace("{version}", "1.0.0")
            .replace("{id}", nobody)
            .replace("{token}", nobody)
            .replace("{upload}", nobody);
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            drive(&server, &document, (&method, template), &path, "").await;
        }
    }
}

#[tokio::test]
async fn figures_are_what_prometheus_reads_and_name_no_project() {
    let server = shared();
    let id = server.deploy("figured", site()).await;
    server.ended(&id).await;
    let answer = server.request("GET", "/metrics").send().await.unwrap();
    let text = answer.text().await.unwrap();
    let value = |name: &str| -> f64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is missing in\n{text}"))
            .parse()
            .unwrap()
    };
    assert!(value("cofferdam_deployments{status=\"succeeded\"}") >= 1.0);
    assert!(value("cofferdam_deployment_seconds_count{status=\"succeeded\"}") >= 1.0);
    assert!(value("cofferdam_step_seconds_count{phase=\"extract\",status=\"succeeded\"}") >= 1.0);
    assert!(value("cofferdam_events_total") > 5.0);
    assert!(value("cofferdam_received_bytes_total") >= 1024.0);
    assert!(value("cofferdam_store_pack_bytes") > 0.0);
    assert!(value("cofferdam_store_blobs") >= 1.0);
    assert!(value("cofferdam_connections{listener=\"api\"}") >= 1.0);
    value("cofferdam_uploads");
    value("cofferdam_event_streams");
    let route = "{route=\"/v1/projects/{project}/deployments\",method=\"PUT\",status=\"202\"}";
    assert!(value(&format!("cofferdam_api_requests_total{route}")) >= 1.0);
    assert!(!text.contains("figured"), "{text}");
    for line in text.lines() {
        let described = line.starts_with("# HELP ") || line.starts_with("# TYPE ");
        let figure = line
            .rsplit_once(' ')
            .is_some_and(|(_, value)| value.parse::<f64>().is_ok());
        assert!(described || figure, "{line}");
    }
}

#[tokio::test]
async fn a_request_keeps_the_id_that_its_client_gave_it() {
    let server = shared();
    let ask = async |id: &str| {
        let request = server
            .request("GET", "/v1/projects/nobody")
            .header("X-Request-Id", id);
        let answer = request.send().await.unwrap();
        let echoed = answer.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["request"], json!(echoed));
        echoed
    };
    assert_eq!(ask("trace-1.2_3").await, "trace-1.2_3");
    for bad in ["two words", "<script>", &"x".repeat(65)] {
        assert_ne!(ask(bad).await, bad);
    }
}
