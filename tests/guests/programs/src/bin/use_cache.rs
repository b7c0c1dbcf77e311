//! Counts its runs in its cache and says the count; fails if it was told to.
use std::{fs, io};

fn main() -> io::Result<()> {
    let count: u32 = fs::read_to_string("/cache/count")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    fs::write("/cache/count", (count + 1).to_string())?;
    println!("run {}", count + 1);
    if std::env::var("FAIL").is_ok() {
        return Err(io::Error::other("told to fail"));
    }
    Ok(())
}
