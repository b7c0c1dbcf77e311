//! `cofferdam serve`, and what `up` shares with it: a running server with its token at hand.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cofferdam_deploy::Policy;
use cofferdam_sandbox::worker::{Isolation, Landlock, WorkerOptions};
use cofferdam_server::{Server, ServerOptions, TlsFiles, TraceFigures};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::Subscriber;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, registry};

use crate::api::Api;
use crate::args::{self, API, INGRESS, LandlockUse, ListenArgs, LogFormat, ServeArgs};
use crate::exit::Failure;
use crate::otlp::{self, Spans};
use crate::signal::Interrupt;

/// The policy in a data directory.
const POLICY: &str = "policy.toml";

/// The server's own log when nothing asks for more: what it does, and nothing of each request.
const SERVE_LOG: &str = "info";

/// A log that speaks up only when something is wrong, for commands that show something else.
pub(crate) const QUIET_LOG: &str = "warn";

pub(crate) async fn run(arguments: &ServeArgs) -> Result<(), Failure> {
    let (spans, export, figures) = match &arguments.otlp {
        Some(collector) => {
            let (spans, export, figures) = otlp::start(collector)?;
            (Some(spans), Some(export), Some(figures))
        }
        None => (None, None, None),
    };
    log(&arguments.listen, SERVE_LOG, spans)?;
    let ended = serve(arguments, figures).await;
    if let Some(export) = export {
        export.finish().await;
    }
    ended
}

async fn serve(arguments: &ServeArgs, traces: Option<Arc<TraceFigures>>) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let data = arguments.data.clone();
    let api = arguments.listen.api.unwrap_or(API);
    let ingress = arguments.listen.ingress.unwrap_or(INGRESS);
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(cert), Some(key)) => Some(TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
        }),
        _ => None,
    };
    let mut running = Running::start(data, api, ingress, tls, traces, &arguments.listen).await?;
    running.announce("");
    let reason = tokio::select! {
        ended = &mut running.server => return running_ended(ended),
        () = interrupt.raised(1) => "stopping: requests and steps may finish; ctrl-c again stops at once\n",
    };
    say(reason);
    running.stop(&interrupt).await
}

/// A server in this process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) api: SocketAddr,
    pub(crate) ingress: SocketAddr,
    scheme: &'static str,
    pub(crate) data: PathBuf,
    policy: Option<PathBuf>,
    pub(crate) server: JoinHandle<Result<(), cofferdam_server::Error>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Running {
    /// Binds and runs a server.
    ///
    /// # Errors
    ///
    /// [`Failure::Machine`] when an address is taken, or the data directory cannot be used.
    pub(crate) async fn start(
        data: PathBuf,
        api: SocketAddr,
        ingress: SocketAddr,
        tls: Option<TlsFiles>,
        traces: Option<Arc<TraceFigures>>,
        arguments: &ListenArgs,
    ) -> Result<Running, Failure> {
        let mut options = ServerOptions::new(data.clone());
        options.api = api;
        options.ingress = ingress;
        arguments.domain.clone_into(&mut options.domain);
        options.isolation = isolation(arguments.isolation, arguments.landlock);
        options.grace = Duration::from_secs(arguments.grace.into());
        if let Some(steps) = arguments.max_steps {
            options.max_steps = steps.into();
        }
        options.storage.min_free_bytes = arguments.min_free.0;
        options.storage.collect_interval = Duration::from_millis(arguments.collect_interval.0);
        let (policy, policy_file) = policy(arguments.policy.as_deref(), &data)?;
        options.policy = policy;
        let scheme = if tls.is_some() { "https" } else { "http" };
        options.tls = tls;
        options.insecure = arguments.insecure;
        options.traces = traces;
        if let Some(bytes) = arguments.pack_bytes {
            options.storage.pack_bytes = bytes.max(1);
        }
        let server = match Server::bind(options).await {
            Err(error @ cofferdam_server::Error::Exposed { .. }) => {
                return Err(Failure::refused(format!(
                    "{error} (--tls-cert FILE --tls-key FILE, or --insecure)"
                )));
            }
            bound => bound.context("the server cannot start")?,
        };
        let (api, ingress) = (server.api_addr(), server.ingress_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(async move {
            // A dropped sender stops it too.
            let _ = stopped.await;
        }));
        Ok(Running {
            api,
            ingress,
            scheme,
            data,
            policy: policy_file,
            server,
            stop: Some(stop),
        })
    }

    /// Says once where everything is.
    pub(crate) fn announce(&self, remark: &str) {
        let scheme = self.scheme;
        let data = self
            .data
            .canonicalize()
            .unwrap_or_else(|_| self.data.clone());
        say(&format!(
            "api        {scheme}://{}\ningress    {scheme}://{}\ndata       {}{remark}\ntoken      {}\npolicy     {}\n",
            self.api,
            self.ingress,
            data.display(),
            token_file(&data).display(),
            self.policy.as_ref().map_or_else(
                || "built in (--policy FILE gives another)".to_owned(),
                |file| file.display().to_string(),
            ),
        ));
    }

    /// A client of this server, with the token that it wrote.
    ///
    /// # Errors
    ///
    /// [`Failure::Machine`] when the token cannot be read.
    pub(crate) fn client(&self) -> Result<Api, Failure> {
        // A server on every interface is reached through the loopback one.
        let ip = match self.api.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let path = token_file(&self.data);
        let token = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the token in {}", path.display()))?;
        let url = format!("http://{}", SocketAddr::new(ip, self.api.port()));
        Api::new(&url, Some(token), &self.data)
    }

    /// Stops in order; a second request of the user stops at once.
    pub(crate) async fn stop(mut self, interrupt: &Interrupt) -> Result<(), Failure> {
        drop(self.stop.take());
        tokio::select! {
            ended = &mut self.server => running_ended(ended),
            () = interrupt.raised(2) => Err(Failure::Interrupted(
                "stopped at once: what was running is taken care of at the next start".to_owned(),
            )),
        }
    }
}

pub(crate) fn running_ended(
    ended: Result<Result<(), cofferdam_server::Error>, tokio::task::JoinError>,
) -> Result<(), Failure> {
    ended
        .context("the server stopped working")?
        .context("the server failed")?;
    Ok(())
}

/// Where steps run, as the command line says it.
pub(crate) fn isolation(isolation: args::Isolation, landlock: LandlockUse) -> Isolation {
    match isolation {
        args::Isolation::Thread => Isolation::Thread,
        args::Isolation::Worker => {
            let mut workers = WorkerOptions::this_program([crate::WORKER]);
            workers.landlock = match landlock {
                LandlockUse::Require => Landlock::Require,
                LandlockUse::Prefer => Landlock::Prefer,
                LandlockUse::Off => Landlock::Off,
            };
            Isolation::Worker(workers)
        }
    }
}

/// The operator's ceilings, and the file that they are from: the one that is named, or the data directory's own.
fn policy(named: Option<&Path>, data: &Path) -> Result<(Policy, Option<PathBuf>), Failure> {
    let file = match named {
        Some(file) => file.to_owned(),
        None => {
            let own = data.join(POLICY);
            match own.symlink_metadata() {
                Ok(_) => own,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Ok((Policy::built_in(), None));
                }
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    return Err(error
                        .context(format!("cannot read {}", own.display()))
                        .into());
                }
            }
        }
    };
    Ok((Policy::read(&file)?, Some(file)))
}

fn token_file(data: &Path) -> PathBuf {
    data.join("admin.token")
}

/// `wanted`, or a free port beside it if something else has it.
pub(crate) fn free_or(wanted: SocketAddr) -> SocketAddr {
    match TcpListener::bind(wanted) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            SocketAddr::new(wanted.ip(), 0)
        }
        _ => wanted,
    }
}

/// Sets the server's log up, on standard error; and where its spans go besides.
pub(crate) fn log(
    arguments: &ListenArgs,
    otherwise: &str,
    spans: Option<Spans>,
) -> Result<(), Failure> {
    let filter = match (arguments.verbose, std::env::var("RUST_LOG")) {
        (_, Ok(directives)) if !directives.is_empty() => EnvFilter::try_new(&directives)
            .map_err(|error| Failure::Usage(format!("RUST_LOG cannot be understood: {error}")))?,
        (0, _) => EnvFilter::new(otherwise),
        (1, _) => EnvFilter::new(
            "info,cofferdam=debug,cofferdam_server=debug,cofferdam_deploy=debug,\
                                  cofferdam_sandbox=debug,cofferdam_blobs=debug,cofferdam_ledger=debug",
        ),
        _ => EnvFilter::new("debug"),
    };
    let colours =
        crate::ui::Paint::for_terminal(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let (format, colours) = (arguments.log_format, colours.colours());
    // However much is asked for, what guests say is not for the server's log.
    let ours = filter_fn(|metadata| !cofferdam_sandbox::redact::tells_of_guests(metadata));
    let set = match spans {
        None => registry()
            .with(filter)
            .with(ours)
            .with(lines(format, colours))
            .try_init(),
        // What is logged and what is exported are asked for apart.
        Some(spans) => registry()
            .with(lines(format, colours).with_filter(filter.and(ours)))
            .with(spans.with_filter(filter_fn(otlp::is_exported)))
            .try_init(),
    };
    set.map_err(|error| Failure::Machine(anyhow::anyhow!("the log cannot be set up: {error}")))
}

/// The log's lines, on standard error.
fn lines<S>(format: LogFormat, colours: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    }
}

/// To standard error, whether anybody reads it or not.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
