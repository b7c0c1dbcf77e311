//! The redactor: however output is cut into writes, the same of it is redacted, and no secret comes out.
#![no_main]

#[allow(dead_code, unreachable_pub)]
#[path = "../../host/sandbox/src"]
mod host {
    pub mod event;
    pub mod redact;
}

/// Secrets as the redactor sees them.
mod spec {
    pub struct Secrets(pub Vec<Vec<u8>>);

    impl Secrets {
        pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
            self.0.iter().map(|value| ("secret", value.as_slice()))
        }
    }
}

// The module names its neighbours by where they are in its own crate.
use host::{event, redact};
use libfuzzer_sys::fuzz_target;
use redact::{REDACTED, Redactor, SHORT_WINDOW};
use spec::Secrets;

/// Secrets of other lengths and of few different bytes have rules of their own, which the unit tests know.
const DIFFERENT: usize = 6;

fn redact<'a>(redactor: &Redactor, writes: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    for write in writes {
        stream.push(write, |bytes| out.extend_from_slice(bytes));
    }
    stream.finish(|bytes| out.extend_from_slice(bytes));
    out
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fuzz_target!(|input: (Vec<u8>, &[u8], &[u8], u8)| {
    let (secret, before, after, size) = input;
    let mut different: Vec<u8> = secret.clone();
    different.sort_unstable();
    different.dedup();
    let ordinary = (SHORT_WINDOW..=256).contains(&secret.len())
        && different.len() >= DIFFERENT
        && !secret.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
        // What stands in its place would be taken for it.
        && !REDACTED.as_bytes().windows(3).any(|part| contains(&secret, part));
    let printed = [before, &secret, after].concat();
    let redactor = Redactor::new(&Secrets(vec![secret.clone()]));
    let whole = redact(&redactor, std::iter::once(printed.as_slice()));
    let pieces = redact(&redactor, printed.chunks(usize::from(size).max(1)));
    assert_eq!(whole, pieces);
    if ordinary {
        assert!(!contains(&whole, &secret));
    }
});
