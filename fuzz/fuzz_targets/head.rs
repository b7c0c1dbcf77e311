//! The head: what is understood means the same when it is written down again.
#![no_main]

/// The two errors that reading a head can have.
mod error {
    use crate::name::NameError;

    #[derive(Debug, thiserror::Error)]
    pub enum Error {
        #[error("{message}")]
        HeadInvalid { message: String },
        #[error(transparent)]
        Name(#[from] NameError),
    }
}

#[allow(dead_code, unreachable_pub)]
#[path = "../../host/deploy/src/head.rs"]
mod head;
#[allow(dead_code, unreachable_pub)]
#[path = "../../host/deploy/src/name.rs"]
mod name;

use head::Head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(head) = Head::from_json(text) else {
        return;
    };
    if let Some(project) = &head.project {
        let _ = head.check(project);
    }
    let written = serde_json::to_vec(&head).expect("a head can be written");
    let again = Head::from_json(&written).expect("what was written can be read");
    assert_eq!(head, again);
});
