//! Prints when it began, in nanoseconds since 1970, before it does anything else.
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    let began = SystemTime::now().duration_since(UNIX_EPOCH);
    println!("{}", began.expect("the clock is set").as_nanos());
}
