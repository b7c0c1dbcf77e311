//! Services: components that answer HTTP requests, each request by an instance of its own.
//!
//! Instances run on a runtime that belongs to the sandbox, never on the one of the server that calls. What bounds
//! a request:
//!
//! - **The guest's time** is the time its client waits for it: until the response's head, then whenever the client
//!   asks for more of the body and there is none. While a slow client takes its time, the guest's does not pass;
//!   a client that takes nothing for long loses the response instead.
//! - **CPU time** is counted by ticks in which the guest was found computing, so that one that computes behind
//!   a slow client's back ends too.
//! - **Its directory**, if it has one, is bounded for each request and for all of them together.
//! - **The network** is what the service was granted, through a broker of each request's own (see `net`).
//! - **Memory** is the guest's limit, and two or three chunks of each body in flight.
//!
//! A response whose guest failed ends in an error, never as if it were whole. Dropping a response's body stops
//! its guest.

mod body;
mod console;
mod usage;

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use wasmtime::component::Resource;
use wasmtime::{PoolConcurrencyLimitError, Store, UpdateDeadline};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::HostResponseOutparam;
use wasmtime_wasi_http::{Error as HttpError, WasiBody, WasiHttpView as _};

use self::body::Arriving;
pub use self::body::ServiceBody;
use self::console::ServiceConsole;
pub use self::usage::ServiceUsage;
use self::usage::Total;
use crate::additions::Additions;
use crate::admission::Component;
use crate::control::{Clock, Control, Deadline, Stop, Stopped};
use crate::engine::TICK;
use crate::error::Error;
use crate::event::OutputStream;
use crate::filesystem::{Files, Shelf};
use crate::lines::REQUEST_WORK;
use crate::memory::MemoryLimiter;
use crate::net::{self, Broker, Client, Granted};
use crate::redact::Redactor;
use crate::sandbox::Inner;
use crate::spec::{Access, Preopen, ServiceSpec, ServiceState};
use crate::state::{HOSTCALL_FUEL, Parts, State};
use crate::step::trap_message;

/// Where a service finds the directory that it keeps.
const STATE: &str = "/state";

/// How often a request looks whether its client still takes its response.
const STALL_LOOK: Duration = Duration::from_secs(1);

/// Why a request was not answered, or its answer not finished.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The request cannot be given to a guest.
    #[error("the request cannot be handled: {message}")]
    Request {
        /// What is wrong with it.
        message: String,
    },
    /// The guest trapped.
    #[error("the service {service} trapped: {message}")]
    Trapped {
        /// The service's name.
        service: String,
        /// What trapped, with the WebAssembly backtrace.
        message: String,
    },
    /// The guest answered with an error of HTTP instead of a response, or with none.
    #[error("the service {service} gave no response: {message}")]
    NoResponse {
        /// The service's name.
        service: String,
        /// What it gave instead.
        message: String,
    },
    /// The guest took too long.
    #[error("the service {service} took longer than its {limit_ms} ms")]
    TimedOut {
        /// The service's name.
        service: String,
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The guest computed for too long.
    #[error("the service {service} computed longer than its {limit_ms} ms of CPU time")]
    CpuExceeded {
        /// The service's name.
        service: String,
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The guest was refused memory, and failed.
    #[error("the service {service} needed more than its {limit_bytes} bytes of memory")]
    MemoryExceeded {
        /// The service's name.
        service: String,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The client took nothing of the response for too long.
    #[error("the client took nothing of the response for {limit_ms} ms")]
    Stalled {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The guest waited for the rest of the request, which the client did not send.
    #[error("the client sent nothing more of its request while the service waited for it")]
    Unsent,
    /// The host has no room for another instance.
    #[error("no room for another request: {message}")]
    Busy {
        /// Which resource ran out.
        message: String,
    },
    /// The host failed.
    #[error("the host failed while the service {service} ran: {message}")]
    Host {
        /// The service's name.
        service: String,
        /// What failed.
        message: String,
    },
}

/// A service that answers requests. Clones are the same service.
#[derive(Clone)]
pub struct HttpService(Arc<Service>);

struct Service {
    sandbox: Arc<Inner>,
    component: Component,
    spec: ServiceSpec,
    redactor: Redactor,
    /// What of the network each request may reach, when there is any.
    net: Option<Granted>,
    /// What it keeps between requests, when it was granted anything.
    state: Option<Arc<Shelf>>,
    used: Total,
    /// Requests whose guests may run.
    running: watch::Sender<usize>,
    /// Whether none may any more.
    stopped: watch::Sender<bool>,
}

impl std::fmt::Debug for HttpService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpService")
            .field("name", &self.0.spec.name)
            .field("component", &self.0.component)
            .finish_non_exhaustive()
    }
}

/// One request on its way: shared by its task, its caller and its body.
#[derive(Debug)]
struct Exchange {
    control: Arc<Control>,
    clock: Arc<Clock>,
    /// Pauses while the guest waits for bytes of the request that its client has not sent.
    arrival: Clock,
    /// Why the guest failed, set before its store is dropped: whoever sees its body end looks here first.
    failure: Mutex<Option<ServiceError>>,
}

impl Exchange {
    fn fail(&self, error: ServiceError) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    /// Whether most of the guest's time went by while it waited for its client, and it still does.
    fn waited_for_its_client(&self) -> bool {
        let waited = self.arrival.paused();
        !self.arrival.pausing().is_zero() && waited * 2 >= self.clock.used()
    }

    fn failure(&self) -> Option<ServiceError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Stops the guest of a request whose caller goes away before it has a response.
struct StopOnDrop(Option<Arc<Exchange>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(exchange) = self.0.take() {
            exchange.control.stop(Stop::Cancelled);
        }
    }
}

/// A request whose guest may run, until this is dropped.
struct Running(Arc<Service>);

impl Running {
    fn begin(service: &Arc<Service>) -> Self {
        service.running.send_modify(|running| *running += 1);
        Self(Arc::clone(service))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

type Head = Result<Response<HyperOutgoingBody>, ErrorCode>;

impl HttpService {
    pub(crate) fn new(
        sandbox: Arc<Inner>,
        component: Component,
        spec: ServiceSpec,
        state: Option<ServiceState>,
    ) -> Result<Self, Error> {
        // It is measured when the first request comes: until then, a release before this may write to it.
        let state = state.map(|state| Arc::new(Shelf::new(state.directory, state.bytes)));
        let redactor = Redactor::new(&spec.secrets);
        let net = Granted::new(&spec.net, redactor.clone())?;
        Ok(Self(Arc::new(Service {
            sandbox,
            component,
            spec,
            redactor,
            net,
            state,
            used: Total::default(),
            running: watch::Sender::new(0),
            stopped: watch::Sender::new(false),
        })))
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// What its requests used of what it was granted: those that have ended.
    #[must_use]
    pub fn usage(&self) -> ServiceUsage {
        self.0.used.get()
    }

    /// Stops every guest that runs, and those of requests that come later, whatever they have answered already.
    pub fn stop(&self) {
        self.0.stopped.send_replace(true);
    }

    /// Returns when no request's guest runs any more. Stopping one takes a moment: the service's own [`stop`](Self::stop), or
    /// its caller's going away.
    pub async fn quiet(&self) {
        let mut running = self.0.running.subscribe();
        // The sender is as old as this service.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    /// Gives a request to a new instance and returns its response as soon as the head is there; the body streams.
    ///
    /// The request's URI has an authority, or the request a `Host` header. Dropping the future, or the response's
    /// body, stops the guest.
    ///
    /// # Errors
    ///
    /// When the guest fails before it has a response, or the host has no room for it.
    pub async fn call<B>(&self, request: Request<B>) -> Result<Response<ServiceBody>, ServiceError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let service = Arc::clone(&self.0);
        let runtime = service
            .sandbox
            .service_runtime()
            .map_err(|error| service.host(error.to_string()))?;
        let exchange = Arc::new(Exchange {
            control: Arc::default(),
            clock: Arc::new(Clock::start()),
            arrival: Clock::start(),
            failure: Mutex::new(None),
        });
        let mut guard = StopOnDrop(Some(Arc::clone(&exchange)));
        let request = request.map(|body| {
            let body = Arriving::new(body, Arc::clone(&exchange));
            body.map_err(|error| {
                let error: Box<dyn StdError + Send + Sync> = error.into();
                tracing::debug!(%error, "a request's body broke off");
                HttpError::ConnectionTerminated
            })
            .boxed_unsync()
        });
        let (head, answered) = oneshot::channel();
        runtime.spawn(Box::pin(serve(
            Running::begin(&service),
            Arc::clone(&exchange),
            request,
            head,
        )));

        match answered.await {
            Ok(Ok(response)) => {
                guard.0 = None;
                Ok(response.map(|body| ServiceBody::new(body, exchange)))
            }
            Ok(Err(code)) => Err(service.no_response(format!("{code:?}"))),
            Err(_) => Err(exchange
                .failure()
                .unwrap_or_else(|| service.no_response("it returned without one".to_owned()))),
        }
    }
}

impl Service {
    fn host(&self, message: String) -> ServiceError {
        ServiceError::Host {
            service: self.spec.name.clone(),
            message,
        }
    }

    fn no_response(&self, message: String) -> ServiceError {
        ServiceError::NoResponse {
            service: self.spec.name.clone(),
            // It may be the guest's own words.
            message: self.redactor.text(message).into_owned(),
        }
    }

    /// What became of a guest that did not return.
    fn failure(
        &self,
        error: &wasmtime::Error,
        exchange: &Exchange,
        memory_refused: bool,
    ) -> ServiceError {
        let service = self.spec.name.clone();
        if error.is::<Stopped>()
            && let Some(stop) = exchange.control.stopped()
        {
            return self.stopped(stop);
        }
        if error.is::<PoolConcurrencyLimitError>() {
            return ServiceError::Busy {
                message: format!("{error:#}"),
            };
        }
        if memory_refused {
            return ServiceError::MemoryExceeded {
                service,
                limit_bytes: self.spec.limits.memory_bytes,
            };
        }
        let message = self
            .component
            .lines()
            .add_to(&trap_message(error), REQUEST_WORK);
        ServiceError::Trapped {
            service,
            message: self.redactor.text(message).into_owned(),
        }
    }

    fn stopped(&self, stop: Stop) -> ServiceError {
        let service = self.spec.name.clone();
        match stop {
            Stop::Cancelled => self.no_response("its caller went away".to_owned()),
            Stop::TimedOut => ServiceError::TimedOut {
                service,
                limit_ms: self.spec.limits.wall_ms,
            },
            Stop::CpuExceeded => ServiceError::CpuExceeded {
                service,
                limit_ms: self.spec.limits.cpu_ms,
            },
        }
    }
}

/// Why a request ended before its guest did.
enum Cut {
    Stopped(Stop),
    Stalled,
}

/// The task of one request.
async fn serve(
    running: Running,
    exchange: Arc<Exchange>,
    request: Request<WasiBody>,
    head: oneshot::Sender<Head>,
) {
    let service = &running.0;
    let limits = &service.spec.limits;
    let mut stopped = service.stopped.subscribe();
    let bounds = async {
        tokio::select! {
            biased;
            stop = exchange.control.wait() => Cut::Stopped(stop),
            _ = stopped.wait_for(|stopped| *stopped) => {
                exchange.control.stop(Stop::Cancelled);
                Cut::Stopped(Stop::Cancelled)
            }
            () = exchange.clock.exceeds(Duration::from_millis(limits.wall_ms)) => Cut::Stopped(Stop::TimedOut),
            () = stalled(&exchange.clock, Duration::from_millis(limits.stall_ms)) => Cut::Stalled,
        }
    };
    let mut bounds = std::pin::pin!(bounds);

    // Waiting for a place counts: the client waits too.
    let _slot = tokio::select! {
        biased;
        _ = &mut bounds => {
            exchange.fail(ServiceError::Busy { message: "every place for a request was taken all the while".to_owned() });
            return;
        }
        slot = service.sandbox.service_slots.acquire() => match slot {
            Ok(slot) => slot,
            Err(_) => return exchange.fail(service.host("the sandbox is closed".to_owned())),
        },
    };
    let _tick = match service.sandbox.ticker.run() {
        Ok(tick) => tick,
        Err(error) => return exchange.fail(service.host(error.to_string())),
    };

    // Its network ends with its store, whatever is still under way in it.
    let (net, broker) = match network(service).await {
        Ok(network) => network.unzip(),
        Err(error) => return exchange.fail(service.host(error.to_string())),
    };
    let files = match files(service, &exchange).await {
        Ok(files) => files,
        Err(error) => return exchange.fail(service.host(error.to_string())),
    };
    let mut store = store(service, &exchange, net, files);
    // The caller sees its end of this close when the store is dropped, not before: by then the failure is recorded.
    let out = match store.data_mut().http().new_response_outparam(head) {
        Ok(out) => out,
        Err(error) => return exchange.fail(service.host(format!("{error:#}"))),
    };
    let returned = tokio::select! {
        biased;
        cut = &mut bounds => Err(cut),
        returned = handle(service, &mut store, request, out) => Ok(returned),
    };
    match returned {
        Ok(Ok(())) => {}
        Ok(Err(Refused::Request(message))) => exchange.fail(ServiceError::Request { message }),
        Ok(Err(Refused::Guest(error))) => {
            let refused = store.data().memory.refused();
            exchange.fail(service.failure(&error, &exchange, refused));
        }
        Err(Cut::Stopped(Stop::TimedOut)) if exchange.waited_for_its_client() => {
            exchange.fail(ServiceError::Unsent);
        }
        Err(Cut::Stopped(stop)) => exchange.fail(service.stopped(stop)),
        Err(Cut::Stalled) => exchange.fail(ServiceError::Stalled {
            limit_ms: limits.stall_ms,
        }),
    }
    if let Some(error) = exchange.failure() {
        tracing::debug!(service = service.spec.name, %error, "a request failed");
    }
    let secrets_read = store.data().additions.secrets_read();
    // The failure is recorded before this closes the body's channel.
    drop(store);
    let hosts = broker.map(Broker::finish).unwrap_or_default();
    service.used.add(secrets_read, hosts);
}

/// The way to the network of one request, if it was granted any.
async fn network(service: &Service) -> Result<Option<(Client, Broker)>, Error> {
    let Some(granted) = &service.net else {
        return Ok(None);
    };
    let limits = service.spec.limits.of_network();
    // It is on the runtime of the services already.
    let (stream, broker) = net::begin(granted, &limits, &Handle::current())?;
    let client = Client::new(stream, limits.connections).await?;
    Ok(Some((client, broker)))
}

/// The directory of a service, as one request sees it.
async fn files(service: &Service, exchange: &Exchange) -> Result<Files, Error> {
    let Some(state) = &service.state else {
        return Ok(State::no_files());
    };
    if state.is_due() {
        let state = Arc::clone(state);
        let measured = tokio::task::spawn_blocking(move || state.measure()).await;
        measured.map_err(|error| Error::host(error.to_string()))?;
    }
    let limits = &service.spec.limits;
    let failed = |error| Error::host(format!("no descriptor for a service's directory: {error}"));
    let preopen = Preopen {
        guest_path: STATE.to_owned(),
        access: Access::ReadWrite,
        directory: state.directory().map_err(failed)?,
    };
    let quota = state.quota(limits.disk_bytes, limits.files);
    let files = Files::new(vec![preopen], limits.handles, quota, false);
    Ok(files.until(Deadline {
        control: Arc::clone(&exchange.control),
        clock: Arc::clone(&exchange.clock),
        wall: Duration::from_millis(limits.wall_ms),
    }))
}

/// Why a guest was not called, or did not return.
enum Refused {
    Request(String),
    Guest(wasmtime::Error),
}

impl From<wasmtime::Error> for Refused {
    fn from(error: wasmtime::Error) -> Self {
        Self::Guest(error)
    }
}

async fn handle(
    service: &Service,
    store: &mut Store<State>,
    request: Request<WasiBody>,
    out: Resource<HostResponseOutparam>,
) -> Result<(), Refused> {
    let scheme = if request.uri().scheme() == Some(&http::uri::Scheme::HTTPS) {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let request = store
        .data_mut()
        .http()
        .new_incoming_request(scheme, request)
        .map_err(|error| Refused::Request(format!("{error:#}")))?;
    let proxy = service
        .component
        .proxy(&service.sandbox.engine)
        .map_err(|error| Refused::Guest(wasmtime::Error::msg(error.to_string())))?;
    let instance = proxy.instantiate_async(&mut *store).await?;
    instance
        .wasi_http_incoming_handler()
        .call_handle(&mut *store, request, out)
        .await?;
    Ok(())
}

fn store(
    service: &Service,
    exchange: &Arc<Exchange>,
    net: Option<Client>,
    files: Files,
) -> Store<State> {
    let ServiceSpec {
        name,
        env,
        limits,
        secrets,
        net: _,
    } = &service.spec;
    let console = ServiceConsole::new(name.clone(), limits, &service.redactor);
    let parts = Parts {
        program: name,
        env,
        files,
        memory: MemoryLimiter::new(limits.memory_bytes, limits.table_elements),
        additions: Additions::for_service(name.clone(), secrets.clone()),
        net,
        reproducible: None,
    };
    let (stdout, stderr) = (
        console.stream(OutputStream::Stdout),
        console.stream(OutputStream::Stderr),
    );
    let handles = match &service.state {
        Some(_) => limits.handles,
        None => 0,
    };
    let state = State::new(parts, handles, None::<NoInput>, stdout, stderr);
    let mut store = Store::new(&service.sandbox.engine, state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.set_epoch_deadline(1);
    let exchange = Arc::clone(exchange);
    let cpu = Duration::from_millis(limits.cpu_ms);
    let mut computed = Duration::ZERO;
    store.epoch_deadline_callback(move |_| {
        // The task moves between threads, whose own clocks know nothing of it: a tick that finds it computing counts.
        computed += TICK;
        if computed > cpu {
            exchange.control.stop(Stop::CpuExceeded);
        }
        if exchange.control.stopped().is_some() {
            return Err(wasmtime::Error::new(Stopped));
        }
        Ok(UpdateDeadline::YieldCustom(
            1,
            Box::pin(tokio::task::yield_now()),
        ))
    });
    store
}

/// Services have no standard input.
type NoInput = tokio::io::Empty;

/// Resolves when the client has taken nothing for `limit`.
async fn stalled(clock: &Clock, limit: Duration) {
    while clock.pausing() <= limit {
        tokio::time::sleep(STALL_LOOK.min(limit)).await;
    }
}
