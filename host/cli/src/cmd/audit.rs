//! `cofferdam audit`: who did what.

use serde_json::Value;

use crate::api::rows;
use crate::args::AuditArgs;
use crate::cmd::list::show;
use crate::cmd::{text_at, time_at};
use crate::exit::Failure;

/// How many rows are asked for at once.
const PAGE: u32 = 200;

pub(crate) async fn run(arguments: &AuditArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let mut entries: Vec<Value> = Vec::new();
    let mut before = None;
    let mut left = arguments.limit;
    while left > 0 {
        let mut query = vec![("limit", left.min(PAGE).to_string())];
        if let Some(project) = &arguments.project {
            query.push(("project", project.to_string()));
        }
        if let Some(before) = before {
            query.push(("before", u64::to_string(&before)));
        }
        let page = api.get("/v1/audit", &query).await?;
        before = page.get("next").and_then(Value::as_u64);
        let mut found = rows(page);
        left = left.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        entries.append(&mut found);
        if before.is_none() {
            break;
        }
    }
    show(
        arguments.json,
        &entries,
        &["AT", "WHO", "FROM", "ACTION", "PROJECT", "TARGET", "DETAIL"],
        |entry| {
            vec![
                time_at(entry, "/at"),
                who(entry),
                text_at(entry, "/address"),
                text_at(entry, "/action"),
                text_at(entry, "/project"),
                text_at(entry, "/target"),
                text_at(entry, "/detail"),
            ]
        },
    )
}

/// A token's name, else the end of its id, which tells most; else the server itself.
pub(super) fn who(entry: &Value) -> String {
    match (text_at(entry, "/name"), text_at(entry, "/token")) {
        (name, _) if name != "-" => name,
        (_, token) if token == "-" => "the server".to_owned(),
        (_, token) => {
            let end = token.rsplit('-').next().unwrap_or_default();
            format!("token …{end}")
        }
    }
}
