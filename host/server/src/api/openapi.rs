//! `GET /openapi.json`: the table of routes as an `OpenAPI` 3.1 document.
//!
//! Paths, methods and who may use them come from the table itself, schemas from the types that are answered;
//! so what is registered is in the document, and what is in the document is registered.

use std::sync::LazyLock;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::StatusCode;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Call;
use super::doc::{Body, Content};
use super::problem::{Document, Problem};
use super::routes::{Access, ENDPOINTS, Endpoint, Right};

/// The document, made once.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// What the parameters of paths are.
const PATH_PARAMETERS: [(&str, &str, &str); 6] = [
    (
        "project",
        "a project's name",
        "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    ),
    (
        "id",
        "an id, a UUID",
        "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    ),
    (
        "token",
        "a token's id, a UUID",
        "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    ),
    (
        "upload",
        "an upload's id, a UUID",
        "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    ),
    (
        "name",
        "the name of a plugin or a secret",
        "^[A-Za-z0-9_][A-Za-z0-9_-]{0,127}$",
    ),
    (
        "version",
        "a semantic version",
        "^[0-9]+\\.[0-9]+\\.[0-9]+.{0,64}$",
    ),
];

/// `GET /openapi.json`. Anybody may read what there is; who may use it is another matter.
pub(super) async fn show(_: Call) -> Result<Response, Problem> {
    let content_type = [(http::header::CONTENT_TYPE, "application/json")];
    Ok((StatusCode::OK, content_type, DOCUMENT.clone()).into_response())
}

/// What the document says about who may use a route: the scope that it wants, with the path's parameter.
pub(super) fn scope(endpoint: &Endpoint) -> Option<&'static str> {
    Some(match endpoint.access {
        Access::Open(_) => return None,
        Access::Token(_) => "token",
        Access::Admin(_) => "admin",
        Access::Reader(_) => "read:*",
        Access::Project(Right::Read, _) => "read:{project}",
        Access::Project(Right::Deploy, _) => "deploy:{project}",
        Access::Asked(_) => "deploy:{project}",
        Access::Upload(_) => "deploy:{upload}",
        Access::Deployment(Right::Read, _) => "read:{id}",
        Access::Deployment(Right::Deploy, _) => "deploy:{id}",
    })
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    })
}

/// Makes the document.
pub(super) fn document() -> Value {
    // What is answered has every field that is ever there; what is taken may leave out what has a default. Two
    // generators, and what is taken is written out in place, so that the names of the two never meet.
    let mut answered = settings().for_serialize().into_generator();
    let mut taken = settings()
        .for_deserialize()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator();
    let problem = answered.subschema_for::<Document<'_>>();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in ENDPOINTS {
        let operation = operation(endpoint, &mut answered, &mut taken);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_ascii_lowercase()] = operation;
    }
    let schemas = answered.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cofferdam",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Receives packages, runs what has to happen to them as sandboxed WebAssembly steps, \
                            serves the result. The scopes of an operation's security are what a token needs: \
                            `token` stands for any, `{id}` and `{upload}` for the project of that deployment or upload.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "responses": {
                "Problem": {
                    "description": "What went wrong (RFC 9457), with a stable code",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
        },
    })
}

fn operation(
    endpoint: &Endpoint,
    answered: &mut SchemaGenerator,
    taken: &mut SchemaGenerator,
) -> Value {
    let doc = &endpoint.doc;
    let mut responses = Map::new();
    for success in doc.answers.iter().flatten() {
        let response = responses
            .entry(success.status.to_string())
            .or_insert_with(|| json!({ "description": success.about }));
        match success.content {
            Content::Empty => {}
            Content::Json(schema) => {
                response["content"]["application/json"] = json!({ "schema": schema(answered) });
            }
            Content::Bytes(media_type) => response["content"][media_type] = json!({}),
        }
    }
    responses.insert(
        "default".to_owned(),
        json!({ "$ref": "#/components/responses/Problem" }),
    );
    let security = match scope(endpoint) {
        None => json!([]),
        Some(scope) => json!([{ "bearer": [scope] }]),
    };
    let mut operation = json!({
        "operationId": operation_id(endpoint),
        "summary": doc.summary,
        "security": security,
        "parameters": parameters(endpoint),
        "responses": responses,
    });
    match doc.body {
        None => {}
        Some(Body::Json(schema)) => {
            operation["requestBody"] =
                json!({ "content": { "application/json": { "schema": schema(taken) } } });
        }
        Some(Body::Bytes(media_types)) => {
            let content = media_types
                .iter()
                .map(|&media_type| (media_type.to_owned(), json!({})));
            let content: Map<String, Value> = content.collect();
            operation["requestBody"] = json!({ "content": content });
        }
    }
    operation
}

/// `getProjectsDeployments`: the method and the words of the path.
fn operation_id(endpoint: &Endpoint) -> String {
    let mut id = endpoint.method.as_str().to_ascii_lowercase();
    let words = endpoint.path.split(['/', '.', '{', '}']);
    for word in words.filter(|word| !word.is_empty() && *word != "v1") {
        let (first, rest) = word.split_at(1);
        id.push_str(&first.to_ascii_uppercase());
        id.push_str(rest);
    }
    id
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in path_parameters(endpoint.path) {
        let known = PATH_PARAMETERS.iter().find(|(known, _, _)| *known == name);
        let (_, about, pattern) = known.unwrap_or(&("", "a name", "^.+$"));
        parameters.push(json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": about,
            "schema": { "type": "string", "pattern": pattern },
        }));
    }
    for parameter in endpoint.doc.parameters.iter().flatten() {
        parameters.push(json!({
            "name": parameter.name,
            "in": parameter.place,
            "required": false,
            "description": parameter.about,
            "schema": { "type": "string" },
        }));
    }
    parameters
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_says_what_it_does_and_how_it_succeeds() {
        for endpoint in ENDPOINTS {
            let name = format!("{} {}", endpoint.method, endpoint.path);
            assert!(
                !endpoint.doc.summary.is_empty(),
                "{name} has no summary: .doc(Doc::of(..))"
            );
            let answers = endpoint.doc.answers.iter().flatten().count();
            assert!(answers > 0, "{name} never succeeds: .gives(..)");
            for parameter in path_parameters(endpoint.path) {
                let known = PATH_PARAMETERS
                    .iter()
                    .any(|(known, _, _)| *known == parameter);
                assert!(known, "{name}: {parameter} is not described");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_no_operation_shares_its_id() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap_or_default();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        let mut ids: Vec<_> = ENDPOINTS.iter().map(operation_id).collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
