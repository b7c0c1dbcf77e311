//! The sandbox with its steps in worker processes: the same tests as on a thread, and those of the second wall.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../all/admission.rs"]
mod admission;
mod compiling;
#[path = "../all/deadlines.rs"]
mod deadlines;
#[path = "../all/exhausting.rs"]
mod exhausting;
#[path = "../all/grants.rs"]
mod grants;
#[path = "../all/harness.rs"]
mod harness;
#[path = "../all/latency.rs"]
mod latency;
#[path = "../all/net.rs"]
mod net;
#[path = "../all/output.rs"]
mod output;
#[path = "../all/reproducible.rs"]
mod reproducible;
#[path = "../all/secrets.rs"]
mod secrets;
#[path = "../all/tls.rs"]
mod tls;
#[path = "../all/verdicts.rs"]
mod verdicts;

use cofferdam_sandbox::worker::{Isolation, Landlock, WorkerOptions};

fn isolation() -> Isolation {
    let mut options =
        WorkerOptions::program(env!("CARGO_BIN_EXE_cofferdam-worker"), [] as [&str; 0]);
    // These tests are about what the kernel does: a machine without Landlock fails them.
    options.landlock = Landlock::Require;
    Isolation::Worker(options)
}
