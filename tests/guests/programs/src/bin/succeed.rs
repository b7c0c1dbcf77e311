//! Exits with success.
fn main() {}
