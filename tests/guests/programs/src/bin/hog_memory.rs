//! Allocates until it cannot: fails as allocation does, or with `"politely"` exits successfully when refused.
fn main() {
    let polite = cofferdam_test_programs::config()["politely"] == true;
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut block = Vec::new();
        if polite {
            if block.try_reserve_exact(1 << 20).is_err() {
                println!("refused after {} MiB", held.len());
                return;
            }
        } else {
            block.reserve_exact(1 << 20);
        }
        block.resize(1 << 20, 1);
        held.push(std::hint::black_box(block));
    }
}
