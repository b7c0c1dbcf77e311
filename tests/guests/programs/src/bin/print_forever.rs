//! Prints and never ends.
fn main() {
    for number in 0_u64.. {
        println!("line {number}");
    }
}
