//! `cofferdam list` and `cofferdam projects`.

use serde_json::Value;

use crate::api::rows;
use crate::args::{AllArgs, ListArgs};
use crate::cmd::{print, table, text_at, time_at};
use crate::exit::Failure;

pub(crate) async fn deployments(arguments: &ListArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let mut query = vec![("limit", arguments.limit.to_string())];
    if let Some(project) = &arguments.project {
        query.push(("project", project.to_string()));
    }
    if let Some(status) = &arguments.status {
        query.push(("status", status.clone()));
    }
    let records = rows(api.get("/v1/deployments", &query).await?);
    show(
        arguments.json,
        &records,
        &["ID", "PROJECT", "STATUS", "CREATED", "RESULT"],
        |record| {
            vec![
                text_at(record, "/id"),
                text_at(record, "/project"),
                text_at(record, "/status"),
                time_at(record, "/created_at"),
                result(record),
            ]
        },
    )
}

pub(crate) async fn projects(arguments: &AllArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let projects = rows(api.get("/v1/projects", &[]).await?);
    show(
        arguments.json,
        &projects,
        &["PROJECT", "ACTIVE", "URL", "LATEST", "HOLD"],
        |project| {
            vec![
                text_at(project, "/name"),
                text_at(project, "/active"),
                text_at(project, "/release/url"),
                text_at(project, "/latest/status"),
                text_at(project, "/hold/reason"),
            ]
        },
    )
}

/// JSON lines, or a table.
pub(super) fn show(
    json: bool,
    rows: &[Value],
    header: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) -> Result<(), Failure> {
    if json {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        return print(&lines);
    }
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    print(&table(header, &rows))
}

fn result(record: &Value) -> String {
    match text_at(record, "/error/code").as_str() {
        "-" => text_at(record, "/release/url"),
        code => match text_at(record, "/error/step").as_str() {
            "-" => code.to_owned(),
            step => format!("{code} in {step}"),
        },
    }
}
