//! The network by name.

#[allow(
    dead_code,
    reason = "the broker, which sends the requests, reads the rest of a grant"
)]
mod grant;

pub use self::grant::{HostPort, IpRange, NetGrant, NetGrantError};
