//! Compiles the test programs to components.

fn main() {
    let guests =
        cofferdam_guest_build::compile(&["cofferdam-test-programs", "cofferdam-test-traced"]);
    cofferdam_guest_build::write_module(&guests);
}
