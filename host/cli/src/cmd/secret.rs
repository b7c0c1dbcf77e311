//! `cofferdam secret`: set, list and remove. Values go one way.

use std::io::Write as _;

use reqwest::header::HeaderMap;

use crate::api::rows;
use crate::args::{SecretCommand, SecretListArgs, SecretRemoveArgs, SecretSetArgs};
use crate::cmd::list::show;
use crate::cmd::{print, text_at, time_at};
use crate::exit::Failure;
use crate::project::Project;
use crate::secret::{self, SecretName};

pub(crate) async fn run(command: &SecretCommand) -> Result<(), Failure> {
    match command {
        SecretCommand::Set(arguments) => set(arguments).await,
        SecretCommand::List(arguments) => list(arguments).await,
        SecretCommand::Remove(arguments) => remove(arguments).await,
    }
}

async fn set(arguments: &SecretSetArgs) -> Result<(), Failure> {
    let SecretSetArgs {
        project,
        name,
        file,
        exact,
        client,
        json,
    } = arguments;
    let api = client.api()?;
    let mut value = match file {
        Some(file) => secret::from_file(file)?,
        None => secret::from_stdin(name, *exact)?,
    };
    if value.is_empty() {
        return Err(Failure::Usage(format!(
            "the value of {name} is empty: give it on standard input or with --file"
        )));
    }
    let stored = api
        .put(
            &path(project, name),
            HeaderMap::new(),
            std::mem::take(&mut *value),
        )
        .await?;
    if stored.get("redacted").and_then(serde_json::Value::as_bool) == Some(false) {
        let _ = writeln!(
            std::io::stderr(),
            "warning: {name} has no line of 8 bytes or more, so it cannot be told from ordinary text: where a step \
             prints it, it will be seen"
        );
    }
    if *json {
        return print(&format!("{stored}\n"));
    }
    print(&format!("{name}\n"))
}

async fn list(arguments: &SecretListArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let path = format!("/v1/projects/{}/secrets", arguments.project);
    let secrets = rows(api.get(&path, &[]).await?);
    show(
        arguments.json,
        &secrets,
        &["NAME", "SET", "FIRST SET"],
        |secret| {
            vec![
                text_at(secret, "/name"),
                time_at(secret, "/updated_at"),
                time_at(secret, "/created_at"),
            ]
        },
    )
}

async fn remove(arguments: &SecretRemoveArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    api.delete(&path(&arguments.project, &arguments.name)).await
}

fn path(project: &Project, name: &SecretName) -> String {
    format!("/v1/projects/{project}/secrets/{name}")
}
