//! Waits for several things at once, reads its input, and asks for the numbers of files that come and go.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;

use wasip2::cli::stdin::get_stdin;
use wasip2::clocks::monotonic_clock::{now, subscribe_duration, subscribe_instant};
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::PathFlags;
use wasip2::io::poll::poll;

const SECOND: u64 = 1_000_000_000;

fn main() {
    let input = get_stdin();
    let (late, early) = (subscribe_duration(2 * SECOND), subscribe_duration(SECOND));
    println!("two moments: {:?}", poll(&[&late, &early]));
    let ready = input.subscribe();
    let soon = subscribe_duration(1);
    println!(
        "input and a moment: {:?}",
        poll(&[&ready, &subscribe_duration(SECOND)])
    );
    soon.block();
    println!(
        "a moment that is past, and input: {:?}",
        poll(&[&soon, &ready])
    );
    println!("is the input ready: {}", ready.ready());
    println!(
        "a moment at {}: {}",
        now(),
        subscribe_instant(now() + SECOND).ready()
    );
    drop((ready, input));

    let (root, _) = get_directories()
        .into_iter()
        .find(|(_, name)| name == "/release")
        .expect("there is /release");
    let mut numbers = String::new();
    for round in 0..4 {
        fs::write("/release/passing", "x").expect("writing is granted");
        let hash = root.metadata_hash_at(PathFlags::empty(), "passing");
        write!(numbers, " {}", hash.expect("it is there").lower).expect("it is memory");
        if round % 2 == 0 {
            fs::remove_file("/release/passing").expect("removing is granted");
        } else {
            fs::write("/release/other", "y").expect("writing is granted");
            fs::rename("/release/other", "/release/passing").expect("renaming is granted");
            fs::remove_file("/release/passing").expect("removing is granted");
        }
    }
    println!("numbers:{numbers}");

    let (mut sizes, mut sum) = (Vec::new(), 0_u64);
    let mut buffer = vec![0; 48 << 10];
    let mut input = std::io::stdin().lock();
    loop {
        let read = input.read(&mut buffer).expect("the input is whole");
        if read == 0 {
            break;
        }
        sizes.push(read);
        sum = buffer[..read].iter().fold(sum, |sum, &byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
    }
    println!("input: {sizes:?} {sum}");
}
