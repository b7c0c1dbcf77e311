//! Prints what is not UTF-8, and a character in two halves.
use std::io::Write as _;

fn main() {
    let mut out = std::io::stdout();
    out.write_all(b"caf\xe9\r\n").expect("printing never fails");
    out.write_all(b"\xe2\x98").expect("printing never fails");
    out.flush().expect("printing never fails");
    out.write_all(b"\x83\n").expect("printing never fails");
    out.write_all(b"\x1b[31mred\x1b[0m\n")
        .expect("printing never fails");
    out.flush().expect("printing never fails");
}
