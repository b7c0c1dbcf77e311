//! Compiles the guests of this crate for WebAssembly.

fn main() {}
