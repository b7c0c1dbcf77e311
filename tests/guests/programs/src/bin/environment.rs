//! Prints everything it was told.
fn main() {
    for (name, value) in std::env::vars() {
        println!("env {name}={value}");
    }
    println!("args {}", std::env::args().count());
    let directory = std::env::current_dir().map(|path| path.display().to_string());
    println!(
        "cwd {}",
        directory.unwrap_or_else(|error| error.to_string())
    );
}
