//! Computes and never ends.
fn main() {
    println!("looping");
    let mut number = 0_u64;
    loop {
        number = std::hint::black_box(
            number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1),
        );
    }
}
