//! Compiles the test programs, and the examples that tests deploy, to components.

fn main() {
    let guests = cofferdam_guest_build::compile(&[
        "cofferdam-test-programs",
        "cofferdam-test-traced",
        "cofferdam-example-http-hello",
        "cofferdam-example-plugin-rust",
    ]);
    cofferdam_guest_build::write_module(&guests);
}
