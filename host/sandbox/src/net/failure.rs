//! Why a request failed, and how the broker says so to the guest's end.
//!
//! The broker sets [`OUTCOME`] itself in the head and in the trailers of every response, over whatever the upstream
//! sent under that name, and the client takes it away: so an upstream can neither forge a failure nor hide one, and a
//! body without its last word was cut off.

use std::io;

use http::HeaderName;
use wasmtime_wasi_http::Error;

/// How a request, or a body, ended: [`FINE`] or the word for a [`Failure`].
pub(super) const OUTCOME: HeaderName = HeaderName::from_static("cofferdam-net-outcome");

/// The upstream's `content-length`, which must not bind the stream between broker and guest.
pub(super) const LENGTH: HeaderName = HeaderName::from_static("cofferdam-net-length");

/// The guest's own time limits in milliseconds: to connect, to the first byte, between bytes.
pub(super) const TIMES: HeaderName = HeaderName::from_static("cofferdam-net-times");

pub(super) const FINE: &str = "fine";

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident = $word:literal => $error:expr,)*) => {
        /// Why a request failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Failure {
            $($(#[$doc])* $name,)*
        }

        impl Failure {
            pub(super) fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            pub(super) fn from_word(word: &[u8]) -> Option<Self> {
                $(if word == $word.as_bytes() { return Some(Self::$name); })*
                None
            }

            /// What the guest is told.
            pub(super) fn error(self) -> Error {
                match self { $(Self::$name => $error,)* }
            }
        }

        #[cfg(test)]
        const ALL: &[Failure] = &[$(Failure::$name,)*];
    };
}

failures! {
    /// It was not granted, or is of a form that nobody may send, or there were too many.
    Denied = "denied" => Error::HttpRequestDenied,
    /// Its target is no plain address of a resource.
    Uri = "uri" => Error::HttpRequestUriInvalid,
    /// The name stands for an address that may not be reached.
    Prohibited = "prohibited" => Error::DestinationIpProhibited,
    /// The name stands for nothing.
    Dns = "dns" => Error::DnsError { rcode: None, info_code: None },
    DnsTimeout = "dns-timeout" => Error::DnsTimeout,
    Refused = "refused" => Error::ConnectionRefused,
    Unavailable = "unavailable" => Error::DestinationUnavailable,
    ConnectTimeout = "connect-timeout" => Error::ConnectionTimeout,
    Certificate = "certificate" => Error::TlsCertificateError,
    Tls = "tls" => Error::TlsProtocolError,
    /// No head of a response came in time.
    ResponseTimeout = "response-timeout" => Error::HttpResponseTimeout,
    /// No byte of a body came in time.
    ReadTimeout = "read-timeout" => Error::ConnectionReadTimeout,
    /// The upstream took no byte in time.
    WriteTimeout = "write-timeout" => Error::ConnectionWriteTimeout,
    Terminated = "terminated" => Error::ConnectionTerminated,
    Protocol = "protocol" => Error::HttpProtocolError,
    Upgrade = "upgrade" => Error::HttpUpgradeFailed,
    /// The step has sent as many bytes as it may.
    Egress = "egress" => Error::HttpRequestBodySize(None),
    /// The step has received as many bytes as it may.
    Ingress = "ingress" => Error::HttpResponseBodySize(None),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::other(failure.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_word_of_its_own() {
        for failure in ALL {
            assert_eq!(
                Failure::from_word(failure.word().as_bytes()),
                Some(*failure)
            );
        }
        assert_eq!(Failure::from_word(FINE.as_bytes()), None);
    }
}
