//! The sandbox itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::admission::{self, Cache, Component};
use crate::engine::{self, SERVICE_SLOTS, STEP_SLOTS, Ticker};
use crate::error::Error;
use crate::http::HttpService;
use crate::spec::{self, Preopen, ServiceSpec, ServiceState, Stdin, StepSpec};
use crate::state::{self, State};
use crate::step::{self, Step, Threads};
use crate::virtuality;
use crate::worker::{self, Isolation, Pool, WorkerFigures};

/// The largest component that is admitted: a componentized Python or JavaScript with its libraries.
pub const DEFAULT_MAX_COMPONENT_BYTES: usize = 64 << 20;

/// Threads that run services: guests wait most of the time, and steps want processors too.
const SERVICE_THREADS: usize = 4;

/// How a sandbox is set up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SandboxOptions {
    /// Where compiled components are kept: a directory of this user's alone, made when missing. `None`: nowhere.
    pub cache_dir: Option<PathBuf>,
    /// The largest component that is admitted, in bytes.
    pub max_component_bytes: usize,
    /// Where steps run and components are compiled.
    pub isolation: Isolation,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            max_component_bytes: DEFAULT_MAX_COMPONENT_BYTES,
            isolation: Isolation::Thread,
        }
    }
}

impl SandboxOptions {
    /// The defaults, with compiled components kept in `directory`.
    #[must_use]
    pub fn cached_in(directory: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: Some(directory.into()),
            ..Self::default()
        }
    }
}

/// Runs untrusted components. Clones are the same sandbox.
#[derive(Clone)]
pub struct Sandbox(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) cache: Option<Cache>,
    pub(crate) max_component_bytes: usize,
    pub(crate) workers: Option<Pool>,
    pub(crate) ticker: Ticker,
    pub(crate) step_slots: Semaphore,
    pub(crate) step_threads: Arc<Threads>,
    pub(crate) service_slots: Semaphore,
    services: OnceLock<Runtime>,
}

impl Sandbox {
    /// Sets up an engine.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] when this machine cannot run WebAssembly at all, [`Error::Cache`] when the cache's
    /// directory cannot be trusted, [`Error::Thread`] when no thread can be made.
    pub fn new(options: SandboxOptions) -> Result<Self, Error> {
        let engine = engine::engine()?;
        let linker = state::linker(&engine).map_err(|error| Error::Engine {
            message: format!("{error:#}"),
        })?;
        let SandboxOptions {
            cache_dir,
            max_component_bytes,
            isolation,
        } = options;
        let cache = cache_dir
            .map(|directory| Cache::open(&directory, &engine))
            .transpose()?;
        let workers = match isolation {
            Isolation::Thread => None,
            Isolation::Worker(options) => Some(Pool::start(options).map_err(Error::Thread)?),
        };
        Ok(Self(Arc::new(Inner {
            ticker: Ticker::new(engine.weak()),
            engine,
            linker,
            cache,
            max_component_bytes,
            workers,
            step_slots: Semaphore::new(STEP_SLOTS as usize),
            step_threads: Arc::default(),
            service_slots: Semaphore::new(SERVICE_SLOTS as usize),
            services: OnceLock::new(),
        })))
    }

    /// How the pool of workers stands; nothing when steps run on threads.
    #[must_use]
    pub fn workers(&self) -> Option<WorkerFigures> {
        self.0.workers.as_ref().map(Pool::figures)
    }

    /// Admits a component: checks it, and compiles it or finds it compiled. Takes up to seconds and blocks the
    /// thread meanwhile.
    ///
    /// # Errors
    ///
    /// When it is too large, not a valid component, or imports or exports what this host cannot serve.
    pub fn admit(&self, wasm: &[u8]) -> Result<Component, Error> {
        admission::admit(&self.0, wasm)
    }

    /// Removes what is kept on disk of a compiled component, by the digest of its bytes (`blake3:` and 64 hexadecimal
    /// digits). One that was admitted stays ready for as long as it is held.
    pub fn forget(&self, digest: &str) {
        let digest = digest
            .strip_prefix("blake3:")
            .and_then(|hex| blake3::Hash::from_hex(hex).ok());
        if let (Some(cache), Some(digest)) = (&self.0.cache, digest) {
            cache.forget(&digest);
        }
    }

    /// Starts a step, on a thread or in a process of its own as the options say. It runs until it ends, exceeds a limit, is cancelled, or its handle is
    /// dropped.
    ///
    /// # Errors
    ///
    /// When the component is not a program, the specification contradicts itself, no thread can be made, or steps
    /// run in processes and this is called outside of a tokio runtime.
    pub fn start(
        &self,
        component: &Component,
        mut spec: StepSpec,
        preopens: Vec<Preopen>,
        stdin: Stdin,
    ) -> Result<Step, Error> {
        if spec.reproducible {
            virtuality::DEPLOYMENT.clone_into(&mut spec.context.deployment);
        }
        component.command(&self.0.engine)?;
        spec::check_environment(&spec::environment(&spec))?;
        spec::check_preopens(&preopens)?;
        if let Some(workers) = &self.0.workers {
            let workers = workers.clone();
            let sandbox = Arc::clone(&self.0);
            return worker::start(sandbox, workers, component, spec, preopens, stdin);
        }
        step::start(
            Arc::clone(&self.0),
            component.clone(),
            spec,
            preopens,
            stdin,
        )
    }

    /// Makes a service of a component that answers HTTP requests. Each request gets an instance of its own, and
    /// `state` as its `/state`. Blocks the thread where there are secrets, which are prepared for being looked for in what
    /// it prints.
    ///
    /// # Errors
    ///
    /// When the component is not a service, the specification contradicts itself, a certificate of its network cannot be
    /// read, or no threads can be made.
    pub fn service(
        &self,
        component: &Component,
        spec: ServiceSpec,
        state: Option<ServiceState>,
    ) -> Result<HttpService, Error> {
        component.proxy(&self.0.engine)?;
        spec::check_environment(&spec.env)?;
        self.0.service_runtime()?;
        HttpService::new(Arc::clone(&self.0), component.clone(), spec, state)
    }
}

impl Inner {
    /// What a worker needs to run one step or compile one component.
    pub(crate) fn for_worker() -> Result<Self, Error> {
        let engine = engine::engine_for_one()?;
        let linker = state::linker(&engine).map_err(|error| Error::Engine {
            message: format!("{error:#}"),
        })?;
        Ok(Self {
            ticker: Ticker::driven(engine.weak()),
            engine,
            linker,
            cache: None,
            max_component_bytes: 0,
            workers: None,
            step_slots: Semaphore::new(1),
            step_threads: Arc::default(),
            service_slots: Semaphore::new(0),
            services: OnceLock::new(),
        })
    }

    /// The runtime that services run on, made when the first service is.
    pub(crate) fn service_runtime(&self) -> Result<&Runtime, Error> {
        if let Some(runtime) = self.services.get() {
            return Ok(runtime);
        }
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(SERVICE_THREADS);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("cofferdam-service")
            .enable_time()
            // For the brokers of those that were granted a network. No guest has a socket.
            .enable_io()
            .build()
            .map_err(Error::Thread)?;
        // Two callers may get here at once; the runtime that comes second goes without having run anything.
        if let Err(second) = self.services.set(runtime) {
            second.shutdown_background();
        }
        self.services
            .get()
            .ok_or_else(|| Error::host("the runtime of services was not kept"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ticker.close();
        self.step_threads.close();
        if let Some(workers) = &self.workers {
            workers.close();
        }
        // Dropping a runtime waits for it, which an async caller must not be made to do.
        if let Some(runtime) = self.services.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("cache", &self.0.cache)
            .finish_non_exhaustive()
    }
}
