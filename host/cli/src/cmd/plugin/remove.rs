//! `cofferdam plugin remove`.

use serde_json::json;

use crate::args::PluginRemoveArgs;
use crate::cmd::print;
use crate::exit::Failure;

pub(crate) async fn run(arguments: &PluginRemoveArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let name = &arguments.name;
    api.delete(&format!("/v1/plugins/{}/{}", name.name, name.version))
        .await?;
    if arguments.json {
        let removed = json!({ "kind": "removed", "name": name.name, "version": name.version });
        return print(&format!("{removed}\n"));
    }
    print(&format!("{name} is removed\n"))
}
