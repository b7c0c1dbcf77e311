//! The `cofferdam` command: run a server, deploy to one, look at what it did.
//!
//! The program talks to a server over HTTP alone, also to the one that `up` runs in this very process. `plugin test`
//! needs none: it runs the sandbox itself. `store` works on the files of a server that does not run.
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command line |
//! | [`cmd`] | one module for each command |
//! | [`deployment`] | admit, send, follow: what `deploy` and `up` share |
//! | [`manifest`] | `cofferdam.toml`, and the head it becomes |
//! | [`pack`] | a directory as a deterministic tar stream |
//! | [`package`] | a directory, an archive or standard input as one bounded stream |
//! | [`fetch`] | a plugin's bytes, from a file, a URL or a registry |
//! | [`api`] | the HTTP client: JSON, the streaming upload, event streams that survive their connection |
//! | [`event`] | what the events say |
//! | [`ui`] | what a person sees of them |
//! | [`otlp`] | traces for OpenTelemetry |
//! | [`secret`] | a secret's value, from where it is read |
//! | [`exit`] | how a command ends, and what to do about it |
//! | [`tls`] | TLS as a client |
//! | [`signal`] | ctrl-c, the first and the second |
//!
//! Exit codes: 0 done; 1 the deployment failed; 2 usage; 3 refused; 4 the server is out of reach; 130
//! interrupted.

mod api;
mod args;
mod cmd;
mod delivery;
mod deployment;
mod event;
mod exit;
mod fetch;
mod manifest;
mod otlp;
mod pack;
mod package;
mod plugin;
mod project;
mod secret;
mod signal;
mod tls;
mod ui;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use args::{Cli, Command};
use exit::Failure;

/// The argument that makes this program a worker of the server that started it. Nobody else gives it.
const WORKER: &str = "worker-of-a-server";

/// How long threads that are still at work may hold up the end of the program. One may sit in a read of
/// standard input for ever.
const LINGER: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    // A worker, before anything is opened or started: its first argument is its whole command line.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == WORKER)
    {
        return cofferdam_sandbox::worker::main();
    }
    tls::install_provider();
    // Usage errors, --help and --version end here, with clap's exit codes (2, 0, 0).
    let command = Cli::parse().command;
    let ended = match runtime() {
        Ok(runtime) => {
            let ended = runtime.block_on(run(&command));
            runtime.shutdown_timeout(LINGER);
            ended
        }
        Err(failure) => Err(failure),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, command.json());
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(command: &Command) -> Result<(), Failure> {
    if !command.only_waits() {
        return Box::pin(obey(command)).await;
    }
    let interrupt = signal::Interrupt::listen()?;
    tokio::select! {
        ended = Box::pin(obey(command)) => ended,
        () = interrupt.raised(1) => Err(Failure::Interrupted(
            "interrupted; what the server was asked for, it may have done".to_owned(),
        )),
    }
}

async fn obey(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => cmd::serve::run(arguments).await,
        Command::Up(arguments) => Box::pin(cmd::up::run(arguments)).await,
        Command::Deploy(arguments) => Box::pin(cmd::deploy::run(arguments)).await,
        Command::Events(arguments) => cmd::events::events(arguments).await,
        Command::Log(arguments) => cmd::events::log(arguments).await,
        Command::Cancel(arguments) => cmd::cancel::run(arguments).await,
        Command::Hold(arguments) => cmd::hold::hold(arguments).await,
        Command::Unlock(arguments) => cmd::hold::unlock(arguments).await,
        Command::List(arguments) => cmd::list::deployments(arguments).await,
        Command::Show(arguments) => cmd::show::run(arguments).await,
        Command::Projects(arguments) => cmd::list::projects(arguments).await,
        Command::Doctor(arguments) => cmd::doctor::run(arguments).await,
        Command::Backup(arguments) => cmd::backup::backup(arguments).await,
        Command::Restore(arguments) => cmd::backup::restore(arguments).await,
        Command::Plugin(command) => cmd::plugin::run(command).await,
        Command::Secret(command) => cmd::secret::run(command).await,
        Command::Token(command) => cmd::token::run(command).await,
        Command::Policy(command) => cmd::policy::run(command).await,
        Command::Store(command) => cmd::store::run(command).await,
        Command::Audit(arguments) => cmd::audit::run(arguments).await,
        Command::Webhook(command) => cmd::webhook::run(command).await,
        Command::Rollback(arguments) => cmd::release::rollback(arguments).await,
        Command::History(arguments) => cmd::release::history(arguments).await,
        Command::Pin(arguments) => cmd::release::pin(arguments).await,
        Command::Unpin(arguments) => cmd::release::unpin(arguments).await,
        Command::Verify(arguments) => cmd::release::verify(arguments).await,
        Command::Remove(arguments) => cmd::release::remove(arguments).await,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Machine(error.into()))
}

/// Says why on standard error, and with `--json` on standard output too.
fn report(failure: &Failure, json: bool) {
    if json {
        let _ = writeln!(std::io::stdout(), "{}", failure.to_json());
    }
    // The person has just been shown everything about a deployment that failed.
    if let Failure::Deployment { .. } = failure {
        return;
    }
    let mut message = format!(
        "cofferdam: {}",
        ui::text::escaped_lines(&failure.to_string())
    );
    if let Failure::Refused {
        code: Some(code), ..
    } = failure
    {
        message.push_str(&format!(" ({})", ui::text::escaped(code)));
    }
    if let Some(advice) = failure.advice() {
        message.push_str(&format!("\nwhat to do: {advice}"));
    }
    let _ = writeln!(std::io::stderr(), "{message}");
}
