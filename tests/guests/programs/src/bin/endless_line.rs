//! Prints one line of the config's `bytes` bytes without an end, then another.
use std::io::Write as _;

fn main() {
    let bytes = cofferdam_test_programs::number("bytes", 1 << 20);
    let mut out = std::io::stdout().lock();
    for _ in 0..bytes.div_ceil(1024) {
        out.write_all(&[b'a'; 1024]).expect("printing never fails");
    }
    out.write_all(b"\nthe next line")
        .expect("printing never fails");
    out.flush().expect("printing never fails");
}
