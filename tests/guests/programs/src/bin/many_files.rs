//! Creates the config's `files` files of `bytes` bytes, and says how long it took.
use std::fs;
use std::time::Instant;

fn main() -> std::io::Result<()> {
    let files = cofferdam_test_programs::number("files", 1000);
    let bytes = usize::try_from(cofferdam_test_programs::number("bytes", 256)).unwrap_or(0);
    let content = vec![7_u8; bytes];
    let start = Instant::now();
    for number in 0..files {
        fs::write(format!("file-{number}"), &content)?;
    }
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}
