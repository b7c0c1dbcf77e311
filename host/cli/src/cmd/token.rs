//! `cofferdam token`: make, list and revoke.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::api::{Api, rows};
use crate::args::{TokenCommand, TokenCreateArgs, TokenListArgs, TokenRevokeArgs};
use crate::cmd::list::show;
use crate::cmd::{print, text_at, time_at};
use crate::exit::Failure;

/// The tokens of a server.
const TOKENS: &str = "/v1/tokens";

pub(crate) async fn run(command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(arguments) => create(arguments).await,
        TokenCommand::List(arguments) => list(arguments).await,
        TokenCommand::Revoke(arguments) => revoke(arguments).await,
    }
}

async fn create(arguments: &TokenCreateArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let mut new = json!({ "scopes": arguments.scopes });
    if let Some(name) = &arguments.name {
        new["name"] = json!(name);
    }
    if let Some(seconds) = arguments.expires.0 {
        new["expires_in_s"] = json!(seconds);
    }
    let made = api.post_json(TOKENS, &new).await?;
    if arguments.json {
        return print(&format!("{made}\n"));
    }
    let until = match made.get("expires_at") {
        None | Some(Value::Null) => "until it is revoked".to_owned(),
        Some(_) => format!("until {}", time_at(&made, "/expires_at")),
    };
    let _ = writeln!(
        std::io::stderr(),
        "token {} for {}, {until}; it is not shown again:",
        text_at(&made, "/id"),
        scopes(&made)
    );
    // The token alone goes where a script reads it.
    let token = made.get("token").and_then(Value::as_str);
    let token = token.ok_or_else(|| {
        Failure::Unreachable(format!("{} made a token and did not answer it", api.url()))
    })?;
    print(&format!("{token}\n"))
}

async fn list(arguments: &TokenListArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let tokens = rows(api.get(TOKENS, &[]).await?);
    show(
        arguments.json,
        &tokens,
        &["ID", "NAME", "SCOPES", "MADE", "GOOD UNTIL"],
        |token| {
            let until = time_at(token, "/expires_at");
            let expired = token.get("expired").and_then(Value::as_bool) == Some(true);
            vec![
                text_at(token, "/id"),
                text_at(token, "/name"),
                scopes(token),
                time_at(token, "/created_at"),
                match (until.as_str(), expired) {
                    ("-", _) => "for ever".to_owned(),
                    (until, true) => format!("{until} (over)"),
                    (until, false) => until.to_owned(),
                },
            ]
        },
    )
}

async fn revoke(arguments: &TokenRevokeArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let id = resolve(&api, &arguments.which).await?;
    api.delete(&format!("{TOKENS}/{id}")).await?;
    print(&format!("{id}\n"))
}

/// The one token that a person means.
async fn resolve(api: &Api, given: &str) -> Result<String, Failure> {
    let tokens = rows(api.get(TOKENS, &[]).await?);
    let matching = tokens.iter().filter_map(|token| {
        let id = token.get("id")?.as_str()?;
        let named = token.get("name").and_then(Value::as_str) == Some(given);
        (named || id.starts_with(given) || id.ends_with(given)).then_some(id)
    });
    let mut matching = matching.filter(|_| !given.is_empty());
    match (matching.next(), matching.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (None, _) => Err(Failure::Refused {
            code: Some("not_found".to_owned()),
            message: format!("no token is called {given:?}, or has an id like it"),
        }),
        (Some(one), Some(other)) => Err(Failure::Usage(format!(
            "{given} could be {one} or {other}: give more of the id"
        ))),
    }
}

fn scopes(token: &Value) -> String {
    let scopes = token.get("scopes").and_then(Value::as_array);
    let scopes = scopes.into_iter().flatten().filter_map(Value::as_str);
    crate::ui::text::escaped(&scopes.collect::<Vec<_>>().join(" "))
}
