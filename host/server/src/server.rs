//! One server: two listeners, one host, and an orderly end.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_deploy::{Host, HostOptions, Isolation, Policy, ShippedPlugin, StorageOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::api::Api;
use crate::connections::{self, ConnectionLimits, Listening};
use crate::error::Error;
use crate::ingress;
use crate::metrics::Metrics;
use crate::metrics::traces::TraceFigures;
use crate::tls::{Tls, TlsFiles};
use crate::upload::body::BodyLimits;

/// Where the API listens by default.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9300);

/// Where releases are served by default.
const INGRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The largest package by default. It is never held in memory; the number keeps one upload from filling
/// a disk by accident.
const MAX_PACKAGE_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// How long running steps may take to finish once the server was asked to stop. An orchestrator that
/// sends SIGTERM kills after 30 seconds; 10 of them go to requests in flight.
const GRACE: Duration = Duration::from_secs(15);

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The data directory; made when it does not exist.
    pub data: PathBuf,
    /// Where the API listens. Port 0 takes a free one. Default: `127.0.0.1:9300`.
    pub api: SocketAddr,
    /// Where releases are served. Port 0 takes a free one. Default: `127.0.0.1:8080`.
    pub ingress: SocketAddr,
    /// The certificate of both listeners; without one they speak plainly. Default: none.
    pub tls: Option<TlsFiles>,
    /// Whether the API may listen beyond this machine without TLS. Default: no.
    pub insecure: bool,
    /// Projects are served under `{project}.{domain}`. Default: `localhost`.
    pub domain: String,
    /// Where steps run. Default: on threads of this program, because only it knows whether it can be started again
    /// as a worker.
    pub isolation: Isolation,
    /// The most that anything is granted. Default: what is built in.
    pub policy: Policy,
    /// The largest package that is taken. Default: 16 GiB.
    pub max_package_bytes: u64,
    /// How many steps run at a time, over all projects. Default: two for each processor, and at least four.
    pub max_steps: usize,
    /// How much may be stored, and when what is dead is collected.
    pub storage: StorageOptions,
    /// How long the sender of a body may keep the server waiting.
    pub body: BodyLimits,
    /// How long a request's head may take, and how long an idle connection is kept. Default: 30 seconds.
    pub header_timeout: Duration,
    /// How long requests in flight may take once the server was asked to stop. Default: 10 seconds.
    pub drain: Duration,
    /// How long, after that, running steps may take. Default: 15 seconds.
    pub grace: Duration,
    /// What is counted of the export of traces, for `/metrics`. Default: there is none.
    pub traces: Option<Arc<TraceFigures>>,
}

impl ServerOptions {
    /// The defaults, over this data directory.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let connections = ConnectionLimits::default();
        Self {
            data: data.into(),
            api: API,
            ingress: INGRESS,
            tls: None,
            insecure: false,
            domain: "localhost".to_owned(),
            isolation: Isolation::Thread,
            policy: Policy::built_in(),
            max_package_bytes: MAX_PACKAGE_BYTES,
            max_steps: cofferdam_deploy::default_max_steps(),
            storage: StorageOptions::default(),
            body: BodyLimits::default(),
            header_timeout: connections.header_read,
            drain: connections.drain,
            grace: GRACE,
            traces: None,
        }
    }
}

/// A server that listens. It answers once it [runs](Server::run).
#[derive(Debug)]
pub struct Server {
    host: Host,
    api: TcpListener,
    api_addr: SocketAddr,
    ingress: TcpListener,
    ingress_addr: SocketAddr,
    tls: Option<Arc<Tls>>,
    options: ServerOptions,
}

impl Server {
    /// Listens on both addresses and opens the data directory. Lifts the process's own limit on open
    /// files to what the system allows it, because every connection is one.
    ///
    /// # Errors
    ///
    /// When an address is taken, the API would listen beyond this machine without TLS and nobody said that this
    /// is meant, the certificate cannot be used, or the data directory is another server's or not usable.
    pub async fn bind(options: ServerOptions) -> Result<Self, Error> {
        if !options.api.ip().to_canonical().is_loopback()
            && options.tls.is_none()
            && !options.insecure
        {
            return Err(Error::Exposed {
                address: options.api,
            });
        }
        let tls = options.tls.clone().map(Tls::load).transpose()?;
        connections::raise_descriptor_limit();
        let (api, api_addr) = listen(options.api).await?;
        let (ingress, ingress_addr) = listen(options.ingress).await?;
        let host = Host::open(HostOptions {
            data: options.data.clone(),
            shipped: shipped(),
            domain: options.domain.clone(),
            isolation: options.isolation.clone(),
            policy: options.policy.clone(),
            max_steps: options.max_steps,
            storage: options.storage.clone(),
        })
        .await?;
        host.set_ingress(ingress_addr, tls.is_some());
        Ok(Self {
            host,
            api,
            api_addr,
            ingress,
            ingress_addr,
            tls,
            options,
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn api_addr(&self) -> SocketAddr {
        self.api_addr
    }

    /// Where releases are served.
    #[must_use]
    pub fn ingress_addr(&self) -> SocketAddr {
        self.ingress_addr
    }

    /// Serves until `shutdown` resolves; then accepts nothing more, lets requests in flight drain, lets
    /// running steps finish, and returns. Each of the two waits has its limit.
    ///
    /// # Errors
    ///
    /// When a half of the server ends by itself, which is a bug.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self {
            host,
            api: listener,
            ingress,
            tls,
            options,
            ..
        } = self;
        let limits = ConnectionLimits {
            header_read: options.header_timeout,
            drain: options.drain,
            ..ConnectionLimits::default()
        };
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new(options.traces));
        let api = Api::new(
            host.clone(),
            options.body,
            options.max_package_bytes,
            stop.clone(),
            metrics.clone(),
        );
        if let Some(tls) = &tls {
            tokio::spawn(tls.clone().watch(stop.clone()));
        }
        let listening = Listening {
            listener,
            limits,
            tls: tls.clone(),
            figures: metrics.api_connections.clone(),
        };
        let mut serving = tokio::spawn(connections::serve(listening, api.router(), stop.clone()));
        let listening = Listening {
            listener: ingress,
            limits: ConnectionLimits::default(),
            tls,
            figures: metrics.ingress_connections.clone(),
        };
        let mut routing = tokio::spawn(ingress::serve(
            listening,
            host.clone(),
            metrics,
            stop.clone(),
        ));
        info!(api = %self.api_addr, ingress = %self.ingress_addr, "serving");
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            ended = &mut serving => ended,
            ended = &mut routing => ended,
        };
        info!("stopping");
        stop.cancel();
        // A half that has ended is not asked again: its handle would panic.
        if !serving.is_finished() {
            serving.await.map_err(Error::Ended)?;
        }
        if !routing.is_finished() {
            routing.await.map_err(Error::Ended)?;
        }
        api.settled().await;
        debug!("connections have drained");
        host.shutdown(options.grace).await;
        info!("stopped");
        ended.map_err(Error::Ended)
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let bind = |source| Error::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    Ok((listener, bound))
}

/// The plugins that this program was built with.
fn shipped() -> Vec<ShippedPlugin> {
    let ship = |plugin: &cofferdam_plugins::Plugin| ShippedPlugin {
        name: plugin.name,
        version: plugin.version,
        wasm: plugin.wasm,
    };
    cofferdam_plugins::ALL.iter().map(ship).collect()
}
