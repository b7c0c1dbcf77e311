//! The head, in JSON and in CBOR: what is understood means the same when it is written down again, in either.
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

#[allow(dead_code, unreachable_pub)]
#[path = "../../host/server/src/upload/head.rs"]
mod parser;
mod schema;

use head::Head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for parsed in [parser::from_json(bytes), parser::from_cbor(bytes)] {
        let Ok(head): Result<Head, String> = parsed else {
            continue;
        };
        if let Some(project) = &head.project {
            let _ = head.check(project);
        }
        let json = serde_json::to_vec(&head).expect("a head can be written");
        let again = parser::from_json(&json).expect("what was written can be read");
        assert_eq!(head, again);
        let mut cbor = Vec::new();
        ciborium::into_writer(&head, &mut cbor).expect("a head can be written");
        let again = parser::from_cbor(&cbor).expect("what was written can be read");
        assert_eq!(head, again);
    }
});
