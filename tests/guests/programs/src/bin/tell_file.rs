//! Prints a file of the release that another step left.

fn main() {
    let path = cofferdam_test_programs::text("path", "/release/leaked.txt");
    match std::fs::read(&path) {
        Ok(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
        Err(error) => println!("{path}: {error}"),
    }
}
