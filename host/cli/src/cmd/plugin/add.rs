//! `cofferdam plugin add`.

use crate::args::PluginAddArgs;
use crate::cmd::{print, text_at};
use crate::deployment::admit;
use crate::exit::Failure;

pub(crate) async fn run(arguments: &PluginAddArgs) -> Result<(), Failure> {
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
