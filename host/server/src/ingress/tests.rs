//! The ingress on a real port, over real trees on a real disk, asked by a client that sends what it is told
//! to and tidies nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod client;
mod files;
mod hosts;
pub(super) mod release;
mod transfer;
