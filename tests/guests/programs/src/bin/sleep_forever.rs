//! Sleeps and never wakes.
use std::thread::sleep;
use std::time::Duration;

fn main() {
    println!("sleeping");
    loop {
        sleep(Duration::from_secs(3600));
    }
}
