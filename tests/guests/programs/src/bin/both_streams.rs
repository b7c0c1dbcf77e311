//! Prints to both streams in turn.
fn main() {
    for number in 0..20 {
        println!("out {number}");
        eprintln!("err {number}");
    }
}
