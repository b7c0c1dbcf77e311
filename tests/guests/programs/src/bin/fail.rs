//! Says why, and exits with the config's `code`: as WASI 0.2.0 can, or with `"exact"` as WASI 0.2.12 can.
fn main() {
    println!("about to fail");
    eprintln!("this did not work");
    let code = u8::try_from(cofferdam_test_programs::number("code", 1)).unwrap_or(1);
    if cofferdam_test_programs::config()["exact"] == true {
        wasip2::cli::exit::exit_with_code(code);
    }
    std::process::exit(code.into());
}
