//! The operator's policy: whatever the file says, it is understood or refused with a place, and never a panic.
#![no_main]

// The modules name the crates and the modules that they live beside.
extern crate self as cofferdam_sandbox;

/// The errors that reading a policy can have, beside its own.
mod error {
    use crate::name::NameError;

    #[derive(Debug, thiserror::Error)]
    pub enum Error {
        #[error("{message}")]
        HeadInvalid { message: String },
        #[error("{message}")]
        SignaturePolicy { message: String },
        #[error("{message}")]
        SignatureRefused { message: String },
        #[error(transparent)]
        Name(#[from] NameError),
    }
}

#[allow(dead_code, unreachable_pub)]
#[path = "../../host/sandbox/src"]
mod sandbox {
    #[path = "net/grant.rs"]
    pub mod grant;
    pub mod limits;
}

mod schema;

/// What the file may say of releases.
#[allow(dead_code, unreachable_pub)]
#[path = "../../host/deploy/src/release/retention/rules.rs"]
mod release;

#[allow(dead_code, unreachable_pub)]
#[path = "../../host/deploy/src"]
mod deploy {
    pub mod head;
    pub mod name;
    pub mod policy;
    pub mod signature;
    pub mod units;
}

use std::path::Path;

use deploy::{head, name, policy, signature, units};
use libfuzzer_sys::fuzz_target;
pub use sandbox::grant::{HostPort, IpRange};
pub use sandbox::limits::Limits;

fuzz_target!(|text: &str| {
    match policy::Policy::parse("policy.toml", text, Path::new("/nonexistent")) {
        Ok(policy) => {
            let _ = policy.signatures();
            let _ = policy.network();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
