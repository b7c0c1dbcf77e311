//! The network by name: a guest's requests go to a broker on the host, which sends those that were granted.
//!
//! A guest has no socket. What it asks of `wasi:http` goes, as HTTP/2, through one local stream to the broker,
//! which is a task of the host: the same for a step on a thread and for one in a worker process, where that stream
//! is a descriptor and the kernel lets the process have no other. The broker trusts nothing that comes through it.
//!
//! | module | is |
//! |---|---|
//! | `grant` | what may be reached: plain data |
//! | `address` | which addresses are public |
//! | `broker` | the host's end: what is checked of each request |
//! | `upstream` | the connection to a granted host |
//! | `body` | bodies on their way, in bounded memory |
//! | `failure` | why a request failed, between the two ends |
//! | `client` | the guest's end |
//! | `post` | a message of the host's own, under the same rules |

mod address;
mod body;
mod broker;
mod client;
mod failure;
mod grant;
mod post;
mod upstream;

pub(crate) use self::broker::{Broker, Granted, begin, open};
pub(crate) use self::client::Client;
pub use self::grant::{HostPort, IpRange, NetGrant, NetGrantError};
pub use self::post::{PostError, PostRules, check_post_url, post};

/// Bytes of one body that wait at either end of the stream between guest and broker.
const STREAM_WINDOW: u32 = 128 << 10;

/// Requests that are under way at once at most, whatever was granted.
const MAX_STREAMS: u32 = 256;

/// Bytes of a head as HTTP/2 counts them: what an upstream's head can have, with the overhead of each field.
const MAX_HEAD: u32 = 128 << 10;

/// How many requests may be under way, as the number that both ends agree on.
fn streams(connections: u64) -> u32 {
    u32::try_from(connections)
        .unwrap_or(MAX_STREAMS)
        .clamp(1, MAX_STREAMS)
}

/// So large that a body which nobody reads holds up no other.
fn connection_window(streams: u32) -> u32 {
    STREAM_WINDOW * streams
}
