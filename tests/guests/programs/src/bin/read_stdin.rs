//! Reads its input and says how it ended. With the config's `most`, it stops after so many bytes.
use std::io::Read as _;

fn main() {
    let most = cofferdam_test_programs::number("most", u64::MAX);
    let mut input = std::io::stdin().lock();
    let mut buffer = vec![0; 64 << 10];
    let (mut bytes, mut sum) = (0_u64, 0_u64);
    println!("reading");
    while bytes < most {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                bytes += read as u64;
                sum = buffer[..read].iter().fold(sum, |sum, &byte| {
                    sum.wrapping_mul(31).wrapping_add(byte.into())
                });
            }
            Err(error) => {
                println!("after {bytes} bytes: {error}");
                std::process::exit(1);
            }
        }
    }
    println!("{bytes} bytes, sum {sum}");
}
