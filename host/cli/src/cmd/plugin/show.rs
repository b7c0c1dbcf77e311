//! `cofferdam plugin show`.

use serde_json::Value;

use crate::api::{Api, rows};
use crate::args::PluginShowArgs;
use crate::cmd::print;
use crate::exit::Failure;
use crate::plugin::PluginName;

use super::page::page;

pub(crate) async fn run(arguments: &PluginShowArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let view = find(&api, &arguments.plugin).await?;
    if arguments.json {
        return print(&format!("{view}\n"));
    }
    print(&page(&view))
}

/// The plugin that is named: by name and version, by a name that has one version, or by a digest.
async fn find(api: &Api, given: &str) -> Result<Value, Failure> {
    if let Ok(PluginName { name, version }) = given.parse() {
        return api.get(&format!("/v1/plugins/{name}/{version}"), &[]).await;
    }
    let member = if given.starts_with("blake3:") {
        "digest"
    } else {
        "name"
    };
    let all = rows(api.get("/v1/plugins", &[]).await?);
    let mut found: Vec<Value> = all
        .into_iter()
        .filter(|plugin| plugin.get(member).and_then(Value::as_str) == Some(given))
        .collect();
    match (found.pop(), found.is_empty(), member) {
        (None, ..) => Err(Failure::Refused {
            code: Some("not_found".to_owned()),
            message: format!(
                "no plugin is admitted as {given}: `cofferdam plugin list` shows them"
            ),
        }),
        (Some(plugin), true, _) | (Some(plugin), _, "digest") => Ok(plugin),
        (Some(last), false, _) => {
            found.push(last);
            let versions: Vec<&str> = found
                .iter()
                .filter_map(|plugin| plugin.get("version")?.as_str())
                .collect();
            Err(Failure::Usage(format!(
                "{given} is admitted in the versions {}: name one, like {given}@{}",
                versions.join(", "),
                versions.last().unwrap_or(&"1.0.0")
            )))
        }
    }
}
