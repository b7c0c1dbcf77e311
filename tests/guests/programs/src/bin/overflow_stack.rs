//! Recurses without end.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the point")]
fn deeper(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 32]);
    1 + deeper(depth + 1) + here[7]
}

fn main() {
    println!("{}", deeper(std::hint::black_box(0)));
}
