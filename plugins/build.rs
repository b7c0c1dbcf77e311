//! Compiles the plugins that ship for WebAssembly.

fn main() {
    let guests = cofferdam_guest_build::compile(&[
        "cofferdam-unpack",
        "cofferdam-precompress",
        "cofferdam-serve",
    ]);
    cofferdam_guest_build::write_module(&guests);
}
