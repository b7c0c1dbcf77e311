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
use crate::spec::{self, Preopen, ServiceSpec, Stdin, StepSpec};
use crate::state::{self, State};
use crate::step::{self, Step};

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
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            max_component_bytes: DEFAULT_MAX_COMPONENT_BYTES,
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
pub struct Sandbox(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
    max_component_bytes: usize,
    pub(crate) ticker: Ticker,
    pub(crate) step_slots: Semaphore,
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
        } = options;
        let cache = cache_dir
            .map(|directory| Cache::open(&directory, &engine))
            .transpose()?;
        let ticker = Ticker::start(engine.weak()).map_err(Error::Thread)?;
        Ok(Self(Arc::new(Inner {
            engine,
            linker,
            cache,
            max_component_bytes,
            ticker,
            step_slots: Semaphore::new(STEP_SLOTS as usize),
            service_slots: Semaphore::new(SERVICE_SLOTS as usize),
            services: OnceLock::new(),
        })))
    }

    /// Admits a component: checks it, and compiles it or finds it compiled. Takes up to seconds and blocks the
    /// thread meanwhile.
    ///
    /// # Errors
    ///
    /// When it is too large, not a valid component, or imports or exports what this host cannot serve.
    pub fn admit(&self, wasm: &[u8]) -> Result<Component, Error> {
        let Inner {
            engine,
            linker,
            cache,
            max_component_bytes,
            ..
        } = &*self.0;
        admission::admit(engine, linker, cache.as_ref(), *max_component_bytes, wasm)
    }

    /// Starts a step on a thread of its own. It runs until it ends, exceeds a limit, is cancelled, or its handle is
    /// dropped.
    ///
    /// # Errors
    ///
    /// When the component is not a program, the specification contradicts itself, or no thread can be made.
    pub fn start(
        &self,
        component: &Component,
        spec: StepSpec,
        preopens: Vec<Preopen>,
        stdin: Stdin,
    ) -> Result<Step, Error> {
        component.command(&self.0.engine)?;
        spec::check_environment(&spec.env)?;
        spec::check_preopens(&preopens)?;
        step::start(
            Arc::clone(&self.0),
            component.clone(),
            spec,
            preopens,
            stdin,
        )
    }

    /// Makes a service of a component that answers HTTP requests. Each request gets an instance of its own.
    ///
    /// # Errors
    ///
    /// When the component is not a service, the specification contradicts itself, or no threads can be made.
    pub fn service(&self, component: &Component, spec: ServiceSpec) -> Result<HttpService, Error> {
        component.proxy(&self.0.engine)?;
        spec::check_environment(&spec.env)?;
        self.0.service_runtime()?;
        Ok(HttpService::new(
            Arc::clone(&self.0),
            component.clone(),
            spec,
        ))
    }
}

impl Inner {
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
