//! `cofferdam plugin`: admit components, list them.

use serde_json::Value;

use crate::api::rows;
use crate::args::{PluginAddArgs, PluginCommand};
use crate::cmd::list::show;
use crate::cmd::{print, text_at};
use crate::deployment::admit;
use crate::exit::Failure;

pub(crate) async fn run(command: &PluginCommand) -> Result<(), Failure> {
    match command {
        PluginCommand::Add(arguments) => add(arguments).await,
        PluginCommand::List(arguments) => {
            let api = arguments.client.api()?;
            let plugins = rows(api.get("/v1/plugins", &[]).await?);
            let header = ["NAME", "VERSION", "PHASES", "DIGEST", "DESCRIPTION"];
            show(arguments.json, &plugins, &header, |plugin| {
                vec![
                    text_at(plugin, "/name"),
                    text_at(plugin, "/version"),
                    phases(plugin),
                    text_at(plugin, "/digest"),
                    text_at(plugin, "/description"),
                ]
            })
        }
    }
}

async fn add(arguments: &PluginAddArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let view = admit(&api, &arguments.name, &arguments.file).await?;
    if arguments.json {
        return print(&format!("{view}\n"));
    }
    print(&format!(
        "{} {}\n",
        arguments.name,
        text_at(&view, "/digest")
    ))
}

fn phases(plugin: &Value) -> String {
    let phases = plugin.get("phases").and_then(Value::as_array);
    let names: Vec<&str> = phases
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        "any".to_owned()
    } else {
        crate::ui::text::escaped(&names.join(","))
    }
}
