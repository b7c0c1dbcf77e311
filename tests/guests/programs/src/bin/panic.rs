//! Panics some frames deep.
#[inline(never)]
fn innermost_frame(number: u64) -> u64 {
    assert!(number > 5, "five is right out");
    number
}

fn main() {
    println!("before the panic");
    println!(
        "{}",
        innermost_frame(cofferdam_test_programs::number("number", 5))
    );
}
