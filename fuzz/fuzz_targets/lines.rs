//! The line splitter: however its input is cut into writes, the lines are the same.
#![no_main]

#[allow(dead_code, unreachable_pub)]
#[path = "../../host/sandbox/src/console/lines.rs"]
mod lines;

use libfuzzer_sys::fuzz_target;
use lines::LineBuffer;

/// The longest line in this run.
const LIMIT: u64 = 37;

fn split<'a>(writes: impl Iterator<Item = &'a [u8]>) -> Vec<(Vec<u8>, bool)> {
    let mut buffer = LineBuffer::new(LIMIT);
    let mut lines = Vec::new();
    for write in writes {
        buffer.push(write, |line, cut| lines.push((line.to_vec(), cut)));
    }
    buffer.finish(|line, cut| lines.push((line.to_vec(), cut)));
    lines
}

fuzz_target!(|input: (&[u8], u8)| {
    let (bytes, size) = input;
    let whole = split(std::iter::once(bytes));
    let pieces = split(bytes.chunks(usize::from(size).max(1)));
    assert_eq!(whole, pieces);
    for (line, _) in &whole {
        assert!(!line.contains(&b'\n'));
        assert!(line.len() as u64 <= LIMIT);
        // What a person sees is text, whatever it was.
        let _ = lines::text(line);
    }
});
