//! The API as its clients meet it: a real server on real ports, over real connections.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod access;
mod audit;
mod chunks;
mod events;
mod forms;
mod harness;
mod hostile;
mod http2;
mod listing;
mod openapi;
mod plugins;
mod secrets;
mod stopping;
mod tls;
mod tokens;
mod uploads;
