//! `cofferdam cancel`: stop a deployment, and know that it has stopped.

use crate::args::OneArgs;
use crate::cmd::{print, text_at};
use crate::exit::Failure;

pub(crate) async fn run(arguments: &OneArgs) -> Result<(), Failure> {
    let api = arguments.client.api()?;
    let id = api.resolve(&arguments.id).await?;
    let record = api.post(&format!("/v1/deployments/{id}/cancel")).await?;
    if arguments.json {
        return print(&format!("{record}\n"));
    }
    print(&format!("cancelled  {}\n", text_at(&record, "/id")))
}
