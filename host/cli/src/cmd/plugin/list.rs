//! `cofferdam plugin list`.

use crate::api::rows;
use crate::args::AllArgs;
use crate::cmd::list::show;
use crate::cmd::text_at;
use crate::exit::Failure;

use super::page::{phases, words};

pub(crate) async fn run(arguments: &AllArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let plugins = rows(api.get("/v1/plugins", &[]).await?);
    let header = [
        "NAME",
        "VERSION",
        "PHASES",
        "WANTS",
        "DIGEST",
        "DESCRIPTION",
    ];
    show(arguments.json, &plugins, &header, |plugin| {
        vec![
            text_at(plugin, "/name"),
            text_at(plugin, "/version"),
            phases(plugin),
            words(plugin),
            text_at(plugin, "/digest"),
            text_at(plugin, "/description"),
        ]
    })
}
