//! cofferdam-precompress
fn main() {}
