//! `cofferdam plugin`, one module for each of its commands.

mod add;
mod list;
mod new;
mod page;
mod remove;
mod show;
mod test;

use crate::args::PluginCommand;
use crate::exit::Failure;

pub(crate) use new::CrateName;
pub(crate) use page::words;

pub(crate) async fn run(command: &PluginCommand) -> Result<(), Failure> {
    match command {
        PluginCommand::New(arguments) => new::run(arguments),
        PluginCommand::Test(arguments) => Box::pin(test::run(arguments)).await,
        PluginCommand::Add(arguments) => add::run(arguments).await,
        PluginCommand::List(arguments) => list::run(arguments).await,
        PluginCommand::Show(arguments) => show::run(arguments).await,
        PluginCommand::Remove(arguments) => remove::run(arguments).await,
    }
}
