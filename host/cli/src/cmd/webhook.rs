//! `cofferdam webhook`: where a project's news go.

use reqwest::header::HeaderMap;
use serde_json::json;

use crate::args::{WebhookArgs, WebhookCommand, WebhookSetArgs};
use crate::cmd::{print, text_at, time_at};
use crate::exit::Failure;
use crate::project::Project;

pub(crate) async fn run(command: &WebhookCommand) -> Result<(), Failure> {
    match command {
        WebhookCommand::Set(arguments) => set(arguments).await,
        WebhookCommand::Show(arguments) => show(arguments).await,
        WebhookCommand::Remove(arguments) => remove(arguments).await,
    }
}

async fn set(arguments: &WebhookSetArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let body = json!({ "url": arguments.target }).to_string().into_bytes();
    let webhook = api
        .put(&path(&arguments.project), HeaderMap::new(), body)
        .await?;
    if arguments.json {
        return print(&format!("{webhook}\n"));
    }
    print(&format!("{}\n", text_at(&webhook, "/secret")))
}

async fn show(arguments: &WebhookArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let webhook = api.get(&path(&arguments.project), &[]).await?;
    if arguments.json {
        return print(&format!("{webhook}\n"));
    }
    let mut out = format!(
        "url      {}\nset      {}\nwaiting  {}\n",
        text_at(&webhook, "/url"),
        time_at(&webhook, "/updated_at"),
        text_at(&webhook, "/waiting"),
    );
    let error = text_at(&webhook, "/last_error");
    if error != "-" {
        out.push_str(&format!("error    {error}\n"));
    }
    print(&out)
}

async fn remove(arguments: &WebhookArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    api.delete(&path(&arguments.project)).await
}

fn path(project: &Project) -> String {
    format!("/v1/projects/{project}/webhook")
}
