//! The guests that the tests run, as bytes: one constant for each program of `programs/src/bin`, and `traced`,
//! which keeps its line tables. Two examples are here too: `http_hello` and `fill`.
//!
//! They misbehave on purpose, each in one way. A program reads what it is to do from its step's config.

pub mod signed;

include!(concat!(env!("OUT_DIR"), "/guests.rs"));

/// The bytes of the program with this name.
///
/// # Panics
///
/// When there is none: a test asked for a program that nobody wrote.
#[must_use]
pub fn program(name: &str) -> &'static [u8] {
    ALL.iter()
        .find(|(program, _)| *program == name)
        .map_or_else(
            || panic!("there is no test program {name}"),
            |(_, bytes)| bytes,
        )
}
