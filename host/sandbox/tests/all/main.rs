//! The sandbox with real guests: the programs of `tests/guests`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod admission;
mod deadlines;
mod exhausting;
mod grants;
mod harness;
mod latency;
mod net;
mod output;
mod reproducible;
mod secrets;
mod services;
mod tls;
mod verdicts;

fn isolation() -> cofferdam_sandbox::worker::Isolation {
    cofferdam_sandbox::worker::Isolation::Thread
}
