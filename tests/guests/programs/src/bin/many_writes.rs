//! Writes one file in `writes` writes of `bytes` bytes each, and says how long it took.
use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

fn main() -> std::io::Result<()> {
    let writes = cofferdam_test_programs::number("writes", 1000);
    let bytes = usize::try_from(cofferdam_test_programs::number("bytes", 4096)).unwrap_or(0);
    let block = vec![7_u8; bytes];
    let mut file = File::create("big")?;
    let start = Instant::now();
    for _ in 0..writes {
        file.write_all(&block)?;
    }
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}
