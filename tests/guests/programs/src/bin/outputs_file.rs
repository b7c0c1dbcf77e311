//! Says its outputs without importing anything: the config's `text` goes into `/tmp/outputs.jsonl`.
fn main() -> std::io::Result<()> {
    let default = "{\"name\": \"answer\", \"value\": 42}\n";
    std::fs::write(
        "/tmp/outputs.jsonl",
        cofferdam_test_programs::text("text", default),
    )?;
    std::process::exit(i32::try_from(cofferdam_test_programs::number("code", 0)).unwrap_or(1));
}
