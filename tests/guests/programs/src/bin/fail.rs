//! Says why, and exits with the config's `code`.
fn main() {
    println!("about to fail");
    eprintln!("this did not work");
    let code = cofferdam_test_programs::number("code", 1);
    std::process::exit(i32::try_from(code).unwrap_or(1));
}
