//! What one guest's store holds, and the linker that gives it to the guest.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::Engine;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::cli::{StdinStream, StdoutStream, WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksCtxView, WasiClocksView as _};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random, sockets};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView as _};
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};
use wasmtime_wasi_io::bindings::wasi::io::error as io_error;

use crate::additions::{Additions, AdditionsView, HasAdditions, bindings};
use crate::clock::{ClocksView, HasClocks, HasPoll, PollView, Timers};
use crate::filesystem::{Files, FilesystemView, HasFiles, Quota};
use crate::memory::MemoryLimiter;
use crate::net::Client;
use crate::virtuality::SeededRandom;

/// Random bytes that one call returns: the host allocates them; keys and seeds are far smaller.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// Bytes of all fields of one set of HTTP headers: what common servers take.
const HTTP_FIELD_BYTES: usize = 32 << 10;

/// Bytes of a response body that wait for the client at once, in two or three chunks of this size.
const HTTP_CHUNK_BYTES: usize = 64 << 10;

/// Bytes that one host call may move from the guest to the host: 64 KiB writes, 1 MiB configs and headers fit.
pub(crate) const HOSTCALL_FUEL: usize = 4 << 20;

/// Things a guest holds in the host's table beside its descriptors: streams, pollables, errors, headers.
const TABLE_SPARE: usize = 4096;

/// Everything a guest's host calls work on.
pub(crate) struct State {
    /// Before the table, which holds bodies that are being sent: they are not to end well when a guest is stopped.
    sender: Sender,
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    pub(crate) files: Files,
    pub(crate) memory: MemoryLimiter,
    pub(crate) additions: Additions,
    timers: Option<Timers>,
}

/// What differs between a step's state and a service's.
pub(crate) struct Parts<'a> {
    pub(crate) program: &'a str,
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) files: Files,
    pub(crate) memory: MemoryLimiter,
    pub(crate) additions: Additions,
    /// Where requests go; nowhere when there is none.
    pub(crate) net: Option<Client>,
    /// For a reproducible step, its random numbers.
    pub(crate) reproducible: Option<[SeededRandom; 2]>,
}

impl State {
    pub(crate) fn new(
        parts: Parts<'_>,
        handles: u64,
        stdin: Option<impl StdinStream + 'static>,
        stdout: impl StdoutStream + 'static,
        stderr: impl StdoutStream + 'static,
    ) -> Self {
        let mut wasi = WasiCtx::builder();
        wasi.arg(parts.program)
            .stdout(stdout)
            .stderr(stderr)
            .max_random_size(MAX_RANDOM_BYTES);
        // Both are off already; said here because they are what the sandbox is for.
        wasi.allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        if let Some(stdin) = stdin {
            wasi.stdin(stdin);
        }
        for (name, value) in parts.env {
            wasi.env(name, value);
        }
        let timers = parts.reproducible.map(|[mut secure, insecure]| {
            let timers = Timers::default();
            let time = &timers.time;
            wasi.wall_clock(time.clone())
                .monotonic_clock(time.clone())
                .insecure_random_seed(secure.seed())
                .secure_random(secure)
                .insecure_random(insecure);
            timers
        });
        let mut table = ResourceTable::new();
        table.set_max_capacity(
            usize::try_from(handles)
                .unwrap_or(usize::MAX)
                .saturating_add(TABLE_SPARE),
        );
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HTTP_FIELD_BYTES);
        Self {
            wasi: wasi.build(),
            table,
            http,
            sender: Sender(parts.net),
            files: parts.files,
            memory: parts.memory,
            additions: parts.additions,
            timers,
        }
    }

    /// Does once what making a state takes: its random generators read the system's.
    pub(crate) fn warm_up() {
        drop(WasiCtx::builder().build());
        drop(Self::no_files());
    }

    /// A filesystem without directories.
    pub(crate) fn no_files() -> Files {
        Files::new(Vec::new(), 0, Arc::new(Quota::new(0, 0)), false)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.sender,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// Sends requests to the broker of a step that was granted a network, and lets no other out.
struct Sender(Option<Client>);

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ),
    HttpError,
>;

impl WasiHttpHooks for Sender {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let Some(client) = &self.0 else {
            return Box::new(async { Err(HttpError::HttpRequestDenied) });
        };
        let response = client.send(request, options);
        Box::new(async move {
            let nothing_more: Box<dyn Future<Output = Result<(), HttpError>> + Send> =
                Box::new(async { Ok(()) });
            Ok((response.await?, nothing_more))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        HTTP_CHUNK_BYTES
    }
}

/// Names the table to the linker.
struct HasTable;

impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

/// How host calls see the errors of streams.
struct ErrorsView<'a>(&'a mut ResourceTable);

/// Names [`ErrorsView`] to the linker.
struct HasErrors;

impl HasData for HasErrors {
    type Data<'a> = ErrorsView<'a>;
}

impl io_error::Host for ErrorsView<'_> {}

impl io_error::HostError for ErrorsView<'_> {
    fn drop(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<()> {
        self.0.delete(error)?;
        Ok(())
    }

    /// What went wrong, without the host's own backtrace, which the runtime would add where one is captured.
    fn to_debug_string(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<String> {
        Ok(format!("{:#}", self.0.get(&error)?))
    }
}

/// Everything a guest may import. What it may do with it is decided when it is called.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;

    io_error::add_to_linker::<State, HasErrors>(l, |state| ErrorsView(&mut state.table))?;
    wasmtime_wasi_io::bindings::wasi::io::poll::add_to_linker::<State, HasPoll>(l, poll)?;
    wasmtime_wasi_io::bindings::wasi::io::streams::add_to_linker::<State, HasTable>(l, |state| {
        &mut state.table
    })?;

    clocks::wall_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    clocks::monotonic_clock::add_to_linker::<State, HasClocks>(l, clocks)?;
    random::random::add_to_linker::<State, WasiRandom>(l, |state| state.wasi.random())?;
    random::insecure::add_to_linker::<State, WasiRandom>(l, |state| state.wasi.random())?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(l, |state| state.wasi.random())?;

    cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;

    // Some languages' runtimes import sockets whether they use them or not. Every use is denied.
    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<State, WasiSockets>(l, &options, State::sockets)?;
    sockets::instance_network::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::tcp::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::udp::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::udp_create_socket::add_to_linker::<State, WasiSockets>(l, State::sockets)?;

    filesystem::types::add_to_linker::<State, HasFiles>(l, files)?;
    filesystem::preopens::add_to_linker::<State, HasFiles>(l, files)?;

    wasmtime_wasi_http::p2::add_only_http_to_linker_async(l)?;

    bindings::cofferdam::step::context::add_to_linker::<State, HasAdditions>(l, additions)?;
    bindings::cofferdam::step::report::add_to_linker::<State, HasAdditions>(l, additions)?;
    bindings::cofferdam::step::files::add_to_linker::<State, HasAdditions>(l, additions)?;
    bindings::cofferdam::step::secrets::add_to_linker::<State, HasAdditions>(l, additions)?;
    Ok(linker)
}

fn clocks(state: &mut State) -> ClocksView<'_> {
    ClocksView {
        real: WasiClocksCtxView {
            ctx: state.wasi.clocks(),
            table: &mut state.table,
        },
        timers: state.timers.as_mut(),
    }
}

fn poll(state: &mut State) -> PollView<'_> {
    PollView {
        table: &mut state.table,
        timers: state.timers.as_mut(),
    }
}

fn files(state: &mut State) -> FilesystemView<'_> {
    FilesystemView {
        files: &mut state.files,
        table: &mut state.table,
    }
}

fn additions(state: &mut State) -> AdditionsView<'_> {
    AdditionsView {
        additions: &mut state.additions,
        files: &state.files,
    }
}
