//! `cofferdam plugin`, one module for each of its commands.

mod add;
mod list;

use crate::args::PluginCommand;
use crate::exit::Failure;

pub(crate) async fn run(command: &PluginCommand) -> Result<(), Failure> {
    match command {
        PluginCommand::Add(arguments) => add::run(arguments).await,
        PluginCommand::List(arguments) => list::run(arguments).await,
    }
}
