//! The real binary beside programs that a build of this workspace does not need: `tests/services/run` installs them
//! and runs these tests.
//!
//! | module | what it proves |
//! |---|---|
//! | `registry` | a plugin pulled from Debian's docker-registry |
//! | `flips` | two hundred changes of a release under Debian's wrk |
//! | `languages` | the same plugin, compiled from four languages, makes the same release |
//! | `signatures` | a plugin signed by Debian's minisign, where the policy requires it |

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "services/flips.rs"]
mod flips;
#[path = "services/languages.rs"]
mod languages;
#[path = "e2e/package.rs"]
#[allow(
    dead_code,
    reason = "shared with the end-to-end tests, which use all of it"
)]
mod package;
#[path = "services/registry.rs"]
mod registry;
#[path = "e2e/server.rs"]
#[allow(
    dead_code,
    reason = "shared with the end-to-end tests, which use all of it"
)]
mod server;
#[path = "services/signatures.rs"]
mod signatures;
