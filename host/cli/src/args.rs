//! The command line.

mod audit;
mod backup;
mod hold;
mod plugin;
mod policy;
mod release;
mod secret;
mod store;
mod token;
mod webhook;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use cofferdam_deploy::units::{Milliseconds, Size};

use crate::delivery::Limits;
use crate::otlp::Collector;
use crate::plugin::PluginFile;
use crate::project::Project;

pub(crate) use audit::AuditArgs;
pub(crate) use backup::{BACKUP_HELP, BackupArgs, RESTORE_HELP, RestoreArgs};
pub(crate) use hold::{HOLD_HELP, HoldArgs, UNLOCK_HELP, UnlockArgs};
pub(crate) use plugin::{
    PluginAddArgs, PluginCommand, PluginNewArgs, PluginRemoveArgs, PluginShowArgs, PluginTestArgs,
};
pub(crate) use policy::{PolicyCheckArgs, PolicyCommand};
pub(crate) use release::{HistoryArgs, ReleaseArgs, RemoveArgs, RollbackArgs, VerifyArgs};
pub(crate) use secret::{SecretCommand, SecretListArgs, SecretRemoveArgs, SecretSetArgs};
pub(crate) use store::{StoreCheckArgs, StoreCommand, StoreGcArgs, StoreReindexArgs};
pub(crate) use token::{TokenCommand, TokenCreateArgs, TokenListArgs, TokenRevokeArgs};
pub(crate) use webhook::{WebhookArgs, WebhookCommand, WebhookSetArgs};

/// Where `serve` keeps everything, and where clients look for its token.
pub(crate) const DATA: &str = "./cofferdam-data";

/// The API's address when none is given.
pub(crate) const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9300);

/// The ingress's address when none is given.
pub(crate) const INGRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Receive packages over HTTP, run what has to happen to them as sandboxed WebAssembly steps, serve the result.
#[derive(Debug, Parser)]
#[command(
    name = "cofferdam",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  cofferdam up ./site                     serve and deploy a directory, in one go
  cofferdam serve                         a server; its data in ./cofferdam-data
  cofferdam deploy ./site                 send a directory to it
  git archive HEAD | cofferdam deploy --project blog -

Exit codes: 0 done, 1 the deployment failed, 2 usage, 3 refused, 4 the server is out of reach, 130 interrupted. \
Progress and prose go to standard error; standard output has the URL, the id or, with --json, JSON lines."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server: the API that takes packages, and the ingress that serves releases
    Serve(ServeArgs),
    /// Serve, deploy one package, show its URL, and keep serving until ctrl-c
    #[command(after_help = UP_HELP)]
    Up(UpArgs),
    /// Send a package to a server and follow its deployment to the end
    #[command(after_help = DEPLOY_HELP)]
    Deploy(DeployArgs),
    /// Follow a deployment's events, from the first or from after one, to its end
    #[command(after_help = "Exits with 1 when the deployment fails, like deploy does.")]
    Events(EventsArgs),
    /// Print what is recorded of a deployment's log
    Log(OneArgs),
    /// Stop a deployment; returns when nothing of it runs any more
    Cancel(OneArgs),
    /// Refuse the deployments of a project for a while, with a reason
    #[command(after_help = HOLD_HELP)]
    Hold(HoldArgs),
    /// Take the lease of a project from a deployment that does not stop, and say from which
    #[command(after_help = UNLOCK_HELP)]
    Unlock(UnlockArgs),
    /// List deployments, newest first
    List(ListArgs),
    /// Show one deployment
    Show(OneArgs),
    /// List projects and what they serve
    Projects(AllArgs),
    /// Check whether this machine can run packages safely, and say what is missing
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Write everything that a server keeps into one file, while it runs
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// Make a data directory out of a backup
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Write and test plugins; admit, list, show and remove them
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Set the secrets of a project, which its steps ask for by name
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Make, list and revoke the tokens by which others use this server
    #[command(subcommand)]
    Token(TokenCommand),
    /// Ask what a package would be granted
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Look after the packages' store: check, repair, reindex, give back room
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show who did what, newest first
    Audit(AuditArgs),
    /// Serve an earlier release of a project again
    #[command(after_help = release::ROLLBACK_HELP)]
    Rollback(RollbackArgs),
    /// Show what a project has served: who, what, when, from where, and what changed
    History(HistoryArgs),
    /// Keep a deployment's release and package for as long as it is pinned
    Pin(ReleaseArgs),
    /// Take the pin of a deployment away
    Unpin(ReleaseArgs),
    /// Read every byte of what a project serves, restore what is damaged, and show how its services do
    #[command(after_help = "Exits with 1 when a service does not do well.")]
    Verify(VerifyArgs),
    /// Post what becomes of a project's deployments to a URL
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Tear a project down, with its releases, packages, logs, caches and secrets
    Remove(RemoveArgs),
}

const UP_HELP: &str = "\
Examples:
  cofferdam up ./site
  cofferdam up ./site --data ./data --ingress 127.0.0.1:0
  cofferdam up ./app --plugin fill@0.1.0=fill.wasm
  cofferdam up --once ./site              deploy, then stop: does this package work?

Without --data, everything is in a temporary directory that is removed at the end. A default address that is taken \
is replaced by a free one. A [plugins] table in cofferdam.toml is admitted first.

DIR is packed as `cofferdam deploy --help` says.";

const DEPLOY_HELP: &str = "\
Examples:
  cofferdam deploy                        this directory, to http://127.0.0.1:9300
  cofferdam deploy ./site --project blog --message 'spring cleaning'
  cofferdam deploy site.tar.zst --url http://10.0.0.7:9300
  url=$(cofferdam deploy ./site)          prints the URL and nothing else
  id=$(cofferdam deploy -d ./site)        leave when the package is safe; prints the id

DIR is packed here: sorted, without times and owners, so the same files are the same bytes every time. Left out are \
.git, what .gitignore and .cofferdamignore files in it name (the latter wins: !dist/ brings back what a .gitignore \
leaves out) and, at the top, cofferdam.toml and .cofferdamignore. Symlinks are kept when they stay inside; one that \
dangles or leaves the directory, a socket or a pipe is an error.

ARCHIVE (tar, tar.gz, tar.zst, zip) and - (standard input) are sent as they are; a cofferdam.toml inside is not \
read, --config FILE names one.";

/// Where the package is and how it is sent.
#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// A directory, an archive, or - for standard input
    #[arg(value_name = "DIR|ARCHIVE|-", default_value = ".")]
    pub(crate) package: String,
    /// The project to deploy [default: cofferdam.toml's, else the directory's name]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) project: Option<Project>,
    /// A word about this deployment, kept in its record
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Read this instead of the package's own cofferdam.toml
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Admit a local component as a plugin first; can be given more than once
    #[arg(long = "plugin", value_name = "NAME@VERSION=FILE")]
    pub(crate) plugins: Vec<PluginFile>,
    /// Compress a directory with zstd on its way: for slow links. The server then stores it whole, every time
    #[arg(long)]
    pub(crate) compress: bool,
    /// Read every file again, also those whose size and times are what they were at the last deploy
    #[arg(long)]
    pub(crate) reread: bool,
    /// Send what has more bytes than this to an upload that can be resumed [default: 64 MiB]
    #[arg(long, value_name = "BYTES", hide = true)]
    pub(crate) resumable_bytes: Option<u64>,
    /// Give an upload up after so many seconds in vain [default: 60]
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub(crate) patience: Option<u64>,
}

impl PackageArgs {
    /// When a package is sent in which way.
    pub(crate) fn limits(&self) -> Limits {
        let limits = Limits::default();
        Limits {
            resumable_bytes: self.resumable_bytes.unwrap_or(limits.resumable_bytes),
            patience: self.patience.map_or(limits.patience, Duration::from_secs),
        }
    }
}

/// Which server, and by what right.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The server's API
    #[arg(long, value_name = "URL", env = "COFFERDAM_URL", default_value_t = format!("http://{API}"))]
    pub(crate) url: String,
    /// The token to use [default: the admin token in --data, to this machine only]
    #[arg(
        long,
        value_name = "TOKEN",
        env = "COFFERDAM_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// Believe the certificates in this PEM file, for an https URL, instead of the system's roots
    #[arg(long, value_name = "FILE", env = "COFFERDAM_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// The data directory of a server on this machine, for its token
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
}

/// Where a server listens and what it is called.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Where the API listens; port 0 takes a free one [default: 127.0.0.1:9300]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) api: Option<SocketAddr>,
    /// Where releases are served; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) ingress: Option<SocketAddr>,
    /// Let the API listen beyond this machine without TLS, where tokens can be read on their way
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Projects are served at {project}.{domain}
    #[arg(long, value_name = "DOMAIN", default_value = "localhost")]
    pub(crate) domain: String,
    /// Where steps run: in processes of their own, behind the kernel's walls, or on threads of the server
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = Isolation::Worker)]
    pub(crate) isolation: Isolation,
    /// Whether Landlock must confine the steps' processes, or may where the kernel has it
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = LandlockUse::Prefer)]
    pub(crate) landlock: LandlockUse,
    /// The ceilings of everything that is granted [default: policy.toml in the data directory, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// How many steps run at a time, over all projects [default: two for each processor, at least 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=120))]
    pub(crate) max_steps: Option<u16>,
    /// How long running steps may take to end when the server is stopped, in seconds; the next start resumes the rest
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub(crate) grace: u16,
    /// How much stays free on the disk: packages and steps are refused before it is full; 0B for nothing
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) min_free: Size,
    /// How often the room of removed packages is given back at least, beside everything else; 0s for only when asked
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) collect_interval: Milliseconds,
    /// Close a pack at so many bytes [default: 64 MiB]
    #[arg(long, value_name = "BYTES", hide = true)]
    pub(crate) pack_bytes: Option<u64>,
    /// How the server's own log is written to standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Log more; twice for everything. `RUST_LOG` wins
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolation {
    Worker,
    Thread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LandlockUse {
    Require,
    Prefer,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

const DOCTOR_HELP: &str = "\
Checks the kernel's walls around a step by running one in a worker process, the data directory and its disk, and the \
limits of this process, the clock, and whether the server's records and the index of its packages are whole. A server may \
be running over the directory. Exits with 1 when something is broken; a warning is something that works and could be safer.";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The data directory to look at, if it is there
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
    /// Whether Landlock must confine the steps' processes, as `serve` would be told
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = LandlockUse::Prefer)]
    pub(crate) landlock: LandlockUse,
    /// Print each finding as a JSON line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where everything is kept; made if it is not there
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub(crate) data: PathBuf,
    /// The certificate of both listeners, with those that lead to its root, in PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Export traces of requests and deployments to an OpenTelemetry collector (OTLP over HTTP, JSON), like
    /// `http://127.0.0.1:4318`; `OTEL_EXPORTER_OTLP_HEADERS` has what it wants to see
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<Collector>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) package: PackageArgs,
    /// Where everything is kept [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Stop as soon as the deployment has ended
    #[arg(long)]
    pub(crate) once: bool,
    /// Print events and the final record as JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    pub(crate) package: PackageArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Leave as soon as the server has the package; print the deployment's id
    #[arg(short, long, visible_alias = "no-wait", overrides_with = "wait")]
    pub(crate) detach: bool,
    /// Follow the deployment to its end, through the project's queue: the default
    #[arg(long, overrides_with = "detach")]
    pub(crate) wait: bool,
    /// Send it under this key: the same package sent again under it is the same deployment
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Print events and the final record as JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// The deployment: its id, or enough of its beginning or end
    #[arg(value_name = "ID", required_unless_present = "follow")]
    pub(crate) id: Option<String>,
    /// Only events after this number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) after: u64,
    /// Follow all deployments of a project as they come, until ctrl-c
    #[arg(long, value_name = "PROJECT", conflicts_with_all = ["id", "after"])]
    pub(crate) follow: Option<Project>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The deployment: its id, or enough of its beginning or end
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AllArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this project's
    #[arg(short, long, value_name = "NAME")]
    pub(crate) project: Option<Project>,
    /// Only ones with this status (queued, extracting, ..., succeeded, failed, cancelled)
    #[arg(short, long, value_name = "STATUS")]
    pub(crate) status: Option<String>,
    /// At most this many
    #[arg(short, long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

impl Command {
    /// Whether the command does nothing but wait for a server's answers, so that an interrupt can end it anywhere. The
    /// others have something to put in order first, or wait for a person.
    pub(crate) fn only_waits(&self) -> bool {
        matches!(
            self,
            Command::Events(_)
                | Command::Log(_)
                | Command::List(_)
                | Command::Show(_)
                | Command::Projects(_)
                | Command::Audit(_)
                | Command::Rollback(_)
                | Command::History(_)
                | Command::Pin(_)
                | Command::Unpin(_)
                | Command::Verify(_)
                | Command::Webhook(_)
                | Command::Remove(_)
        )
    }

    /// Whether standard output is for a script.
    pub(crate) fn json(&self) -> bool {
        match self {
            Command::Serve(_) => false,
            Command::Up(args) => args.json,
            Command::Deploy(args) => args.json,
            Command::Doctor(args) => args.json,
            Command::Backup(args) => args.json,
            Command::Restore(args) => args.json,
            Command::Events(args) => args.json,
            Command::Log(args) | Command::Show(args) | Command::Cancel(args) => args.json,
            Command::Hold(args) => args.json,
            Command::Unlock(args) => args.json,
            Command::List(args) => args.json,
            Command::Projects(args) => args.json,
            Command::Plugin(command) => command.json(),
            Command::Secret(command) => command.json(),
            Command::Token(command) => command.json(),
            Command::Policy(command) => command.json(),
            Command::Store(command) => command.json(),
            Command::Audit(args) => args.json,
            Command::Rollback(args) => args.json,
            Command::Webhook(command) => command.json(),
            Command::History(args) => args.json,
            Command::Verify(args) => args.json,
            Command::Pin(_) | Command::Unpin(_) | Command::Remove(_) => false,
        }
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, or `:8080` for every interface.
fn address(text: &str) -> Result<SocketAddr, String> {
    let spelt = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None if text.starts_with(':') => format!("0.0.0.0{text}"),
        None => text.to_owned(),
    };
    spelt
        .parse()
        .map_err(|_| "write it as ADDRESS:PORT, like 127.0.0.1:8080".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_can_be_short() {
        assert_eq!(
            address("localhost:0").unwrap(),
            "127.0.0.1:0".parse().unwrap()
        );
        assert_eq!(address(":80").unwrap(), "0.0.0.0:80".parse().unwrap());
        assert_eq!(address("[::1]:1").unwrap(), "[::1]:1".parse().unwrap());
        assert!(address("8080").is_err());
    }
}
