//! Prints the config's `lines` lines with `pause_ms` milliseconds between them.
use std::thread::sleep;
use std::time::Duration;

use cofferdam_test_programs::number;

fn main() {
    for line in 0..number("lines", 10) {
        println!("line {line}");
        sleep(Duration::from_millis(number("pause_ms", 10)));
    }
}
