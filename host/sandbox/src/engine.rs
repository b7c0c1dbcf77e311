//! The one WebAssembly engine, and the tick that lets its guests be stopped.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use crate::error::Error;
use crate::memory::{MAX_MEMORIES, MAX_TABLES};

/// How often a running guest looks whether it should stop: often enough that a cancel feels immediate, seldom
/// enough that it costs nothing.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Steps that run at the same time. More of them queue: each has a thread of its own.
pub(crate) const STEP_SLOTS: u32 = 128;

/// Requests to services that run at the same time. More of them queue.
pub(crate) const SERVICE_SLOTS: u32 = 384;

/// Everything the pool must hold at once.
const SLOTS: u32 = STEP_SLOTS + SERVICE_SLOTS;

/// Linear memories for each slot: a plain component has one, an adapted one two; few slots are in use at once.
const MEMORIES_PER_SLOT: u32 = 2;

/// Tables for each slot: a plain Rust component needs two.
const TABLES_PER_SLOT: u32 = 4;

/// Core instances for each slot: a component built by `wit-component` has about five.
const CORE_INSTANCES_PER_SLOT: u32 = 8;

/// Elements of one table in the pool: a componentized Python uses about 15,000.
const TABLE_ELEMENTS: usize = 100_000;

/// Pages of a memory that stay resident between two guests, so that the next does not fault them in again.
const MEMORY_RESIDENT: usize = 2 << 20;

/// The same for tables and stacks.
const SMALL_RESIDENT: usize = 64 << 10;

/// Slots that keep their resident pages although nothing runs in them: bounds the idle host to 32 MiB of them.
const WARM_SLOTS: u32 = 16;

/// Frames of a trap's backtrace: enough for a person, bounded for a recursion.
const BACKTRACE_FRAMES: usize = 64;

/// Makes the engine, with a pool of instances when this machine allows one.
pub(crate) fn engine() -> Result<Engine, Error> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(SLOTS)
        .total_stacks(SLOTS)
        .total_memories(SLOTS * MEMORIES_PER_SLOT)
        .total_tables(SLOTS * TABLES_PER_SLOT)
        .total_core_instances(SLOTS * CORE_INSTANCES_PER_SLOT)
        // One module may have as many as a component altogether: that is all this bounds.
        .max_memories_per_module(MAX_MEMORIES)
        .max_tables_per_module(MAX_TABLES)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(MEMORY_RESIDENT)
        .table_keep_resident(SMALL_RESIDENT)
        .async_stack_keep_resident(SMALL_RESIDENT)
        .max_unused_warm_slots(WARM_SLOTS)
        .pagemap_scan(Enabled::Auto);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    match Engine::new(&config) {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "no room for a pool of WebAssembly instances; each guest allocates its own, which is slower"
            );
            let mut config = self::config();
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config).map_err(|error| Error::Engine {
                message: format!("{error:#}"),
            })
        }
    }
}

/// Makes the engine of a worker, which runs one guest and is gone: a pool would be filled for nothing.
pub(crate) fn engine_for_one() -> Result<Engine, Error> {
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&config).map_err(|error| Error::Engine {
        message: format!("{error:#}"),
    })
}

fn config() -> Config {
    let mut config = Config::new();
    config
        // What a program computes with a NaN or a relaxed instruction is the same on every processor.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .concurrency_support(false)
        // Neither by default nor by an environment variable: the crate's own `lines` reads debug sections.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES));
    config
}

/// Ticks that go on when no guest runs any more: the next one's start is not to wait for a thread that wakes.
const IDLE_TICKS: u32 = 20;

/// Advances the engine's epoch while guests run. Every store sets its own deadline, so a tick stops nobody by
/// itself; an idle host is not woken.
#[derive(Clone)]
pub(crate) struct Ticker(Arc<Shared>);

struct Shared {
    engine: EngineWeak,
    guests: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    running: usize,
    closed: bool,
}

impl Ticker {
    pub(crate) fn new(engine: EngineWeak) -> Self {
        Self(Arc::new(Shared {
            engine,
            guests: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// One that has no thread: somebody calls [`Ticker::tick`].
    pub(crate) fn driven(engine: EngineWeak) -> Self {
        let ticker = Self::new(engine);
        ticker.0.lock().started = true;
        ticker
    }

    /// Lets running guests look whether they should stop.
    pub(crate) fn tick(&self) {
        if let Some(engine) = self.0.engine.upgrade() {
            engine.increment_epoch();
        }
    }

    /// Keeps the epoch advancing until the guard is dropped. The thread that advances it starts with the first
    /// guest: in a worker, every thread starts behind the walls.
    pub(crate) fn run(&self) -> io::Result<TickGuard> {
        let mut state = self.0.lock();
        if !state.started {
            let ticking = Arc::clone(&self.0);
            thread::Builder::new()
                .name("cofferdam-tick".to_owned())
                .spawn(move || tick(&ticking))?;
            state.started = true;
        }
        state.running += 1;
        drop(state);
        self.0.changed.notify_one();
        Ok(TickGuard(self.clone()))
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tick(shared: &Shared) {
    let mut idle = 0;
    loop {
        {
            let mut state = shared.lock();
            idle = if state.running == 0 { idle + 1 } else { 0 };
            while state.running == 0 && idle > IDLE_TICKS && !state.closed {
                state = shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            // Guests that still run keep their own ticker handle, and the sandbox is gone only after them.
            if state.closed && state.running == 0 {
                return;
            }
        }
        thread::sleep(TICK);
        let Some(engine) = shared.engine.upgrade() else {
            return;
        };
        engine.increment_epoch();
    }
}

/// A guest that runs.
pub(crate) struct TickGuard(Ticker);

impl Drop for TickGuard {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.running = state.running.saturating_sub(1);
    }
}
