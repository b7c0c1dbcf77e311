//! cofferdam-serve
fn main() {}
