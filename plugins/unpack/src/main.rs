//! cofferdam-unpack
fn main() {}
