//! What keeps a server from running. What a request meets is a problem of the API instead.

use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// The API was to listen where others reach it, without TLS.
    #[error(
        "the API would listen on {address} without TLS, where tokens and packages can be read on their way: give it a \
         certificate, keep it on 127.0.0.1 behind a proxy that has one, or say that it is meant"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// A certificate or its key cannot be used.
    #[error("cannot use {}: {message}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Half of the server ended by itself.
    #[error("a part of the server ended early")]
    Ended(#[source] tokio::task::JoinError),
}

impl Error {
    /// The whole chain of causes on one line, for a log.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
