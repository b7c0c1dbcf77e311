//! Worker processes: the second wall.
//!
//! A sandbox whose steps run in worker processes ([`Isolation::Worker`]) starts its own program again as a worker,
//! a few ahead of demand. A worker makes its engine and all of its walls that can be made, says hello, maps the
//! components that were used last, and waits. It is given one job: a step, with the compiled component, the
//! directories and the input as descriptors; or a component to compile. Before anything runs or is read that a
//! stranger wrote it raises its walls (see `walls`), and when the job is done it is killed: one job, then gone.
//!
//! The host believes nothing that a worker says beyond its grants: frames and their rates are bounded, the
//! deadline is watched from outside as well, and SIGKILL ends what does not end by itself.
//!
//! | module | is |
//! |---|---|
//! | `wire` | what host and worker say to each other |
//! | `pool` | workers started ahead of demand |
//! | `process` | one of them, and how it is killed |
//! | `supervise` | a step in a worker, seen from the host |
//! | `compile` | a compilation in a worker, seen from the host |
//! | `child` | the worker itself |
//! | `walls` | what the kernel lets a worker do |

mod child;
mod compile;
mod pool;
mod process;
mod supervise;
mod walls;
mod wire;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use self::child::{main, main_with_probe};
pub(crate) use self::compile::{adapt, compile};
pub(crate) use self::pool::Pool;
pub use self::pool::WorkerFigures;
pub(crate) use self::supervise::start;
pub use self::walls::{LandlockStatus, landlock_status};

/// Workers that wait for a job: those of a usual pipeline, which then starts none while it runs, and one for another
/// project's first step.
pub const DEFAULT_SPARE_WORKERS: usize = 3;

/// Bytes that a compilation may hold: a componentized Python takes 360 MiB.
pub const DEFAULT_COMPILE_MEMORY_BYTES: u64 = 2 << 30;

/// How long a compilation may take: a componentized Python takes seconds, in a build for debugging a minute.
pub const DEFAULT_COMPILE_DEADLINE: Duration = Duration::from_secs(180);

/// Components that an idle worker has mapped already, the most recently used: those of a usual pipeline. Mapping one
/// takes a fifth of a step's whole start.
const MOST_KNOWN: usize = 3;

/// What host and worker must agree on.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where steps run.
#[derive(Debug, Clone, Default)]
pub enum Isolation {
    /// On a thread of this process: WebAssembly is the only wall.
    #[default]
    Thread,
    /// In a process of its own under the kernel's restrictions. Starting a step needs a tokio runtime.
    Worker(WorkerOptions),
}

/// How worker processes are started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// The program. It must call [`main`] and be of this very version.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Workers that wait for a job.
    pub spare: usize,
    /// What to do where the kernel has no Landlock.
    pub landlock: Landlock,
    /// Bytes of memory that a compilation may hold.
    pub compile_memory_bytes: u64,
    /// How long a compilation may take.
    pub compile_deadline: Duration,
}

impl WorkerOptions {
    /// Starts `program` with `arguments`.
    pub fn program(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            spare: DEFAULT_SPARE_WORKERS,
            landlock: Landlock::default(),
            compile_memory_bytes: DEFAULT_COMPILE_MEMORY_BYTES,
            compile_deadline: DEFAULT_COMPILE_DEADLINE,
        }
    }

    /// Starts this very program again with `arguments`, even when its file was replaced meanwhile.
    pub fn this_program(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self::program("/proc/self/exe", arguments)
    }
}

/// Whether Landlock confines a worker's file system calls to its directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Landlock {
    /// A worker without it refuses to run anything.
    Require,
    /// Used where the kernel has it.
    #[default]
    Prefer,
    /// Not used.
    Off,
}
