//! `cofferdam plugin add`.

use crate::args::PluginAddArgs;
use crate::cmd::{print, text_at};
use crate::deployment::admit;
use crate::exit::Failure;

use super::page::words;

pub(crate) async fn run(arguments: &PluginAddArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let signature = arguments.signature.as_deref();
    let fetched = arguments
        .source
        .fetch(arguments.digest.as_ref(), signature)
        .await?;
    let view = admit(&api, &arguments.name, fetched).await?;
    if arguments.json {
        return print(&format!("{view}\n"));
    }
    let mut text = format!("{} {}\n", arguments.name, text_at(&view, "/digest"));
    text.push_str(&format!("wants: {}\n", words(&view)));
    if view.get("signed_by").is_some() {
        text.push_str(&format!("signed by: {}\n", text_at(&view, "/signed_by")));
    }
    print(&text)
}
