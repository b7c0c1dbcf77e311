//! What can go wrong outside a guest.

use std::io;
use std::path::PathBuf;

/// Why a component was not admitted, or a run could not be started or finished.
///
/// What a guest does wrong is never here: it is a [`Verdict`](crate::Verdict).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The component is larger than the sandbox admits.
    #[error("the component has {bytes} bytes and at most {limit} are admitted")]
    TooLarge {
        /// The size of the component in bytes.
        bytes: usize,
        /// The most bytes that are admitted.
        limit: usize,
    },

    /// The bytes are not WebAssembly at all.
    #[error("this is not a WebAssembly component: {message}")]
    NotWasm {
        /// What is there instead.
        message: String,
    },

    /// The bytes are a core module rather than a component, and no program for WASI preview 1 that could be adapted.
    #[error(
        "this is a core WebAssembly module and no program for WASI preview 1: {}; compile it for wasm32-wasip2 or \
         wasm32-wasip1",
        problems.join("; ")
    )]
    CoreModule {
        /// One sentence for each thing that stands against it.
        problems: Vec<String>,
    },

    /// The bytes claim to be a component and are not a valid one.
    #[error("the component is not valid: {message}")]
    Invalid {
        /// What the validator or the compiler found.
        message: String,
    },

    /// The component needs something this host does not have.
    #[error("the component cannot run here: {}", problems.join("; "))]
    Incompatible {
        /// One sentence for each thing that is missing.
        problems: Vec<String>,
    },

    /// The component's own description of itself cannot be read.
    #[error("the component's `cofferdam:plugin` section cannot be read: {message}")]
    Description {
        /// What is wrong with it.
        message: String,
    },

    /// A run was asked for that the component does not offer.
    #[error("the component exports {found}, and this needs {needed}")]
    WrongKind {
        /// What it exports.
        found: &'static str,
        /// What would be needed.
        needed: &'static str,
    },

    /// The specification of a run contradicts itself.
    #[error("the step cannot be started: {message}")]
    Specification {
        /// Which part, and why.
        message: String,
    },

    /// The WebAssembly engine could not be set up on this machine.
    #[error("the WebAssembly engine cannot be set up: {message}")]
    Engine {
        /// What the engine said.
        message: String,
    },

    /// The directory for compiled components cannot be trusted or used.
    #[error("the cache of compiled components in {} cannot be used: {message}", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// Why it cannot be used.
        message: String,
    },

    /// A thread or a runtime for a guest could not be made.
    #[error("cannot make a thread for a guest: {0}")]
    Thread(#[source] io::Error),

    /// More guests run at the same time than the sandbox has room for.
    #[error("every place for a guest is taken ({message}); try again when one has ended")]
    Busy {
        /// Which resource ran out.
        message: String,
    },

    /// The process that a guest ran in is gone, or could not be started. Nothing of the guest runs any more.
    #[error("the worker process: {message}")]
    Worker {
        /// What became of it.
        message: String,
    },

    /// The process that a guest ran in was killed and does not die: a call into the kernel does not return.
    #[error(
        "the step's process {pid} was killed and does not die, probably in a call to a disk that does not answer; \
         its place stays taken until it does"
    )]
    Stuck {
        /// The process.
        pid: u32,
    },

    /// The host failed while a guest ran.
    #[error("the host failed while the step ran: {message}")]
    Host {
        /// What failed.
        message: String,
    },
}

impl Error {
    pub(crate) fn specification(message: impl Into<String>) -> Self {
        Self::Specification {
            message: message.into(),
        }
    }

    pub(crate) fn worker(message: impl Into<String>) -> Self {
        Self::Worker {
            message: message.into(),
        }
    }

    pub(crate) fn host(message: impl Into<String>) -> Self {
        Self::Host {
            message: message.into(),
        }
    }
}
