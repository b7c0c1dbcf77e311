//! `cofferdam hold` and `cofferdam unlock`: who may deploy to a project.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::args::{HoldArgs, UnlockArgs};
use crate::cmd::{print, text_at};
use crate::exit::Failure;
use crate::ui::text::duration;

pub(crate) async fn hold(arguments: &HoldArgs) -> Result<(), Failure> {
    let HoldArgs {
        project,
        reason,
        client,
        json,
        ..
    } = arguments;
    let api = client.api()?;
    let path = format!("/v1/projects/{project}/hold");
    let Some(reason) = reason else {
        api.delete(&path).await?;
        return if *json {
            Ok(())
        } else {
            print(&format!("{project} takes deployments\n"))
        };
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = json!({ "reason": reason }).to_string().into_bytes();
    let hold = api.put(&path, headers, body).await?;
    if *json {
        return print(&format!("{hold}\n"));
    }
    print(&format!(
        "{project} takes no deployments: {}\n`cofferdam hold {project} --release` ends that\n",
        text_at(&hold, "/reason")
    ))
}

pub(crate) async fn unlock(arguments: &UnlockArgs) -> Result<(), Failure> {
    let project = &arguments.project;
    let api = arguments.client.api()?;
    let answer = api
        .delete_json(&format!("/v1/projects/{project}/lease"))
        .await?;
    if arguments.json {
        return print(&format!("{answer}\n"));
    }
    let Some(broken) = answer.get("broken").filter(|broken| !broken.is_null()) else {
        return print(&format!("nobody has the lease of {project}\n"));
    };
    let age = broken.get("age_ms").and_then(Value::as_u64);
    print(&format!(
        "broke the lease of deployment {}, which {} had held for {}; it has ended as {}\n",
        text_at(broken, "/lease/deployment"),
        text_at(broken, "/lease/owner"),
        age.map_or_else(
            || "-".to_owned(),
            |age| duration(Duration::from_millis(age))
        ),
        text_at(broken, "/record/status"),
    ))
}
