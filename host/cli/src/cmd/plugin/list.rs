//! `cofferdam plugin list`.

use serde_json::Value;

use crate::api::rows;
use crate::args::AllArgs;
use crate::cmd::list::show;
use crate::cmd::text_at;
use crate::exit::Failure;

pub(crate) async fn run(arguments: &AllArgs) -> Result<(), Failure> {
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
