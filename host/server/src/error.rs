//! What keeps a server from running. What a request meets is a problem of the API instead.

use std::net::SocketAddr;

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}; is another server running there?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The data directory cannot be opened.
    #[error("cannot open the data directory")]
    Host(#[from] cofferdam_deploy::Error),
    /// Half of the server ended by itself.
    #[error("a part of the server ended early")]
    Ended(#[source] tokio::task::JoinError),
}
