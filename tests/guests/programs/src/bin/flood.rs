//! Prints the config's `lines` numbered lines, of `bytes` bytes each at least.
use std::io::Write as _;

fn main() {
    let lines = cofferdam_test_programs::number("lines", 100_000);
    let width = usize::try_from(cofferdam_test_programs::number("bytes", 0)).unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for number in 0..lines {
        writeln!(out, "line {number:0width$}").expect("printing never fails");
    }
}
