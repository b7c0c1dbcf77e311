//! Opens the same file until it is refused.
use std::fs::File;

fn main() {
    File::create("file").expect("creating is granted");
    let mut held = Vec::new();
    loop {
        match File::open("file") {
            Ok(file) => held.push(file),
            Err(error) => {
                println!("refused after {}: {error}", held.len());
                return;
            }
        }
    }
}
