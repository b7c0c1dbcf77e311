//! `cofferdam rollback`, `history`, `pin`, `unpin`, `verify` and `remove`: what becomes of releases.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};

use super::audit::who;
use crate::api::rows;
use crate::args::{HistoryArgs, ReleaseArgs, RemoveArgs, RollbackArgs, VerifyArgs};
use crate::cmd::list::show;
use crate::cmd::{print, text_at, time_at};
use crate::exit::Failure;
use crate::ui::text::{bytes, duration, escaped};

/// How many moves are asked for at once.
const PAGE: u32 = 200;

pub(crate) async fn rollback(arguments: &RollbackArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let mut wanted = Map::new();
    if let Some(to) = &arguments.to {
        wanted.insert("to".to_owned(), json!(api.resolve(to).await?));
    }
    if let Some(message) = &arguments.message {
        wanted.insert("message".to_owned(), json!(message));
    }
    let path = format!("/v1/projects/{}/rollback", arguments.project);
    let project = api
        .post_json_patiently(&path, &Value::Object(wanted))
        .await?;
    if arguments.json {
        return print(&format!("{project}\n"));
    }
    let line = match text_at(&project, "/release/url").as_str() {
        "-" => text_at(&project, "/active"),
        url => url.to_owned(),
    };
    print(&format!("{line}\n"))
}

pub(crate) async fn history(arguments: &HistoryArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let path = format!("/v1/projects/{}/history", arguments.project);
    let mut history: Vec<Value> = Vec::new();
    let mut before = None;
    let mut left = arguments.limit;
    while left > 0 {
        let mut query = vec![("limit", left.min(PAGE).to_string())];
        if let Some(before) = before {
            query.push(("before", u64::to_string(&before)));
        }
        let page = api.get(&path, &query).await?;
        before = page.get("next").and_then(Value::as_u64);
        let mut found = rows(page);
        left = left.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        history.append(&mut found);
        if before.is_none() {
            break;
        }
    }
    if arguments.json {
        let lines: String = history.iter().map(|entry| format!("{entry}\n")).collect();
        return print(&lines);
    }
    let mut out = String::new();
    for entry in &history {
        page(&mut out, entry, arguments.files);
    }
    print(&out)
}

/// One move, for people.
fn page(out: &mut String, entry: &Value, files: bool) {
    let flag = |name: &str| entry.get(name).and_then(Value::as_bool) == Some(true);
    let marks: Vec<&str> = [
        flag("active").then_some("served now"),
        flag("pinned").then_some("pinned"),
        (!flag("kept")).then_some("not kept any more"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let marks = match marks.join(", ") {
        marks if marks.is_empty() => marks,
        marks => format!("  ({marks})"),
    };
    out.push_str(&format!(
        "{}  {}  {}{marks}\n",
        time_at(entry, "/at"),
        text_at(entry, "/cause"),
        text_at(entry, "/release"),
    ));
    let mut line = |name: &str, value: &str| {
        if value != "-" && !value.is_empty() {
            out.push_str(&format!("  {name:<8} {value}\n"));
        }
    };
    let by = entry.get("by").cloned().unwrap_or_default();
    let from = match text_at(&by, "/address").as_str() {
        "-" => String::new(),
        address => format!(" from {address}"),
    };
    line("by", &format!("{}{from}", who(&by)));
    line("message", &text_at(entry, "/message"));
    line("before", &text_at(entry, "/previous"));
    line("digest", &text_at(entry, "/digest"));
    let steps = entry.get("steps").and_then(Value::as_array);
    let steps: Vec<String> = steps
        .into_iter()
        .flatten()
        .map(|step| {
            let took = step.get("ms").and_then(Value::as_u64);
            let took =
                took.map_or_else(|| "-".to_owned(), |ms| duration(Duration::from_millis(ms)));
            format!("{} {took}", text_at(step, "/name"))
        })
        .collect();
    line("steps", &steps.join(", "));
    if let Some(changes) = entry.get("changes").filter(|changes| !changes.is_null()) {
        let tally = |name: &str| {
            let number = |key: &str| {
                let pointer = format!("/{name}/{key}");
                changes
                    .pointer(&pointer)
                    .and_then(Value::as_u64)
                    .unwrap_or(0)
            };
            format!("{} {name} ({})", number("files"), bytes(number("bytes")))
        };
        let summary = [tally("added"), tally("changed"), tally("removed")].join(", ");
        line("files", &summary);
        if files {
            let named = changes.get("files").and_then(Value::as_array);
            for file in named.into_iter().flatten() {
                line("", &changed(file));
            }
        }
    }
    out.push('\n');
}

/// One file that changed: `+ path (12 B)`, `~ path (12 B, was 10 B)`, `- path (10 B)`.
fn changed(file: &Value) -> String {
    let size = |name: &str| file.get(name).and_then(Value::as_u64).map(bytes);
    let path = file.get("path").and_then(Value::as_str).map(escaped);
    let path = path.unwrap_or_default();
    match (size("before"), size("after")) {
        (None, Some(after)) => format!("+ {path} ({after})"),
        (Some(before), None) => format!("- {path} ({before})"),
        (Some(before), Some(after)) => format!("~ {path} ({after}, was {before})"),
        (None, None) => path,
    }
}

pub(crate) async fn pin(arguments: &ReleaseArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let id = api.resolve(&arguments.id).await?;
    let path = format!("/v1/deployments/{id}/pin");
    api.put(&path, HeaderMap::new(), Vec::new()).await?;
    print(&format!("{id}\n"))
}

pub(crate) async fn unpin(arguments: &ReleaseArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let id = api.resolve(&arguments.id).await?;
    api.delete(&format!("/v1/deployments/{id}/pin")).await?;
    print(&format!("{id}\n"))
}

pub(crate) async fn verify(arguments: &VerifyArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let path = format!("/v1/projects/{}/verify", arguments.project);
    let services = rows(api.post_json_patiently(&path, &json!({})).await?);
    show(
        arguments.json,
        &services,
        &["SERVICE", "RELEASE", "ROLE", "STATE", "SINCE", "WHY"],
        |service| {
            vec![
                text_at(service, "/name"),
                text_at(service, "/release"),
                text_at(service, "/role"),
                text_at(service, "/state"),
                time_at(service, "/since"),
                text_at(service, "/detail"),
            ]
        },
    )?;
    let ill = services.iter().filter(|service| {
        let state = service.get("state").and_then(Value::as_str);
        matches!(state, Some("unhealthy" | "missing"))
    });
    match ill.count() {
        0 => Ok(()),
        count => Err(Failure::Machine(anyhow::anyhow!(
            "{count} of the services of {} do not do well",
            arguments.project
        ))),
    }
}

pub(crate) async fn remove(arguments: &RemoveArgs) -> Result<(), Failure> {
    if arguments.project != arguments.confirm {
        return Err(Failure::Usage(format!(
            "--confirm says {}, and the project is {}: nothing was removed",
            arguments.confirm, arguments.project
        )));
    }
    let api = arguments.client.api()?;
    api.delete(&format!("/v1/projects/{}", arguments.project))
        .await
}
