//! Panics in a function that the compiler keeps, called from one that it inlines.

#[inline(never)]
fn third_of(items: &[u32]) -> u32 {
    let item = nth(items, 2);
    println!("the third is {item}");
    item
}

#[inline(always)]
fn nth(items: &[u32], index: usize) -> u32 {
    *items.get(index).expect("there are three items")
}

fn main() {
    let items: Vec<u32> = std::env::vars().take(2).map(|_| 7).collect();
    third_of(&items);
}
