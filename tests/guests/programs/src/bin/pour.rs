//! Prints the config's `lines` lines of `bytes` bytes each, prepared beforehand: as fast as printing goes.
use std::io::Write as _;

fn main() {
    let lines = cofferdam_test_programs::number("lines", 1000);
    let bytes = usize::try_from(cofferdam_test_programs::number("bytes", 8000)).unwrap_or(0);
    let mut line = vec![b'o'; bytes];
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    for _ in 0..lines {
        out.write_all(&line).expect("printing never fails");
    }
}
