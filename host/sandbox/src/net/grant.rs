//! What of the network a step is granted: names with ports, and ranges of addresses that are not public.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_with_text::text;

/// The network that a guest may reach. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetGrant {
    /// Whom it may send requests to: exactly these names and ports.
    pub hosts: Vec<HostPort>,
    /// Addresses that are not public and may be reached nevertheless, because the operator says so.
    pub allow_ranges: Vec<IpRange>,
    /// Certificates in PEM form that are trusted beside those of the host's system.
    pub extra_roots: Vec<String>,
}

impl NetGrant {
    /// Whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// A host's name, or its address, and a port: `example.org:443`, `192.0.2.1:80`, `[2001:db8::1]:443`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    host: Host,
    port: u16,
}

/// The part before the port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Host {
    /// A name in lower case.
    Name(String),
    /// An address, which was written in its usual form.
    Address(IpAddr),
}

/// A range of addresses: `10.1.0.0/16`, `fd00:1234::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpRange {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no host and port, or no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct NetGrantError {
    text: String,
    problem: &'static str,
}

fn refused(text: &str, problem: &'static str) -> NetGrantError {
    NetGrantError {
        text: text.to_owned(),
        problem,
    }
}

impl HostPort {
    pub(crate) fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    /// The name in lower case, or the address; an address of IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        }
    }

    pub(crate) fn parsed_host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl FromStr for HostPort {
    type Err = NetGrantError;

    fn from_str(text: &str) -> Result<Self, NetGrantError> {
        let (host, port) = text
            .rsplit_once(':')
            .filter(|(host, _)| !host.ends_with(':'))
            .ok_or_else(|| refused(text, "has no port; write it as in `example.org:443`"))?;
        let host = Host::from_str(host).map_err(|problem| refused(text, problem))?;
        let digits = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port
            .parse()
            .ok()
            .filter(|&port| digits && port != 0)
            .ok_or_else(|| refused(text, "does not end in a port between 1 and 65535"))?;
        Ok(Self { host, port })
    }
}

/// The longest name that DNS can hold.
const NAME_BYTES: usize = 253;

/// The longest part of a name.
const LABEL_BYTES: usize = 63;

impl FromStr for Host {
    type Err = &'static str;

    /// Takes a name or an address in the one form that is not open to doubt.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[') {
            return inner
                .strip_suffix(']')
                .and_then(|inner| inner.parse::<Ipv6Addr>().ok())
                .map(|address| Self::Address(IpAddr::V6(address)))
                .ok_or("has brackets around what is no address of IPv6; zones are not allowed");
        }
        if !text.is_ascii() {
            return Err("is not ASCII; write the name as DNS has it, which begins with `xn--`");
        }
        if text.contains(':') {
            return Err("has a colon too many; an address of IPv6 is written in brackets");
        }
        let name = text.to_ascii_lowercase();
        // As a URL's reader decides it: a name whose last part is a number would be an address.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_number = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_digit())
                || text
                    .strip_prefix("0x")
                    .is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        if !last.is_empty() && is_number(last) {
            return name
                .parse()
                .map(|address| Self::Address(IpAddr::V4(address)))
                .map_err(|_| "ends in a number and is no address of four decimal parts");
        }
        if name.is_empty() || name.len() > NAME_BYTES {
            return Err("has no host name of 1 to 253 characters");
        }
        for label in name.split('.') {
            let plain = label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            if label.is_empty()
                || label.len() > LABEL_BYTES
                || !plain
                || label.starts_with('-')
                || label.ends_with('-')
            {
                return Err(
                    "is no plain host name: its parts are letters, digits, `-` and `_`, with a single dot between",
                );
            }
        }
        Ok(Self::Name(name))
    }
}

impl IpRange {
    /// Whether the range holds this very address. An address of IPv6 that stands for one of IPv4 is not in a range
    /// of IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(start), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix));
                (start.to_bits() ^ address.to_bits()) & mask.unwrap_or(0) == 0
            }
            (IpAddr::V6(start), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix));
                (start.to_bits() ^ address.to_bits()) & mask.unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for IpRange {
    type Err = NetGrantError;

    fn from_str(text: &str) -> Result<Self, NetGrantError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            refused(
                text,
                "is no range of addresses; write it as in `10.0.0.0/8`",
            )
        })?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|&parsed| parsed <= longest && !prefix.starts_with('+'))
                .ok_or_else(|| refused(text, "has no prefix length that its address can have"))?,
        };
        let range = Self { address, prefix };
        let start = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let host_bits = longest - prefix;
        if start != 0 && start.trailing_zeros() < u32::from(host_bits) {
            return Err(refused(
                text,
                "names a single address before its prefix; write the first address of the range",
            ));
        }
        Ok(range)
    }
}

/// Serialised as the text that they are parsed from.
mod serde_with_text {
    macro_rules! text {
        ($type:ty) => {
            impl Serialize for $type {
                fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                    to.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(from)?;
                    text.parse().map_err(serde::de::Error::custom)
                }
            }
        };
    }
    pub(super) use text;
}

text!(HostPort);
text!(IpRange);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_host_and_port_reads_as_it_is_written() {
        for (text, written) in [
            ("Example.ORG:443", "example.org:443"),
            ("registry_1.example.org:8080", "registry_1.example.org:8080"),
            ("xn--bcher-kva.example:80", "xn--bcher-kva.example:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_host() {
        for text in [
            "example.org",
            "example.org:",
            "example.org:0",
            "example.org:080",
            "example.org:+80",
            "example.org:65536",
            "example.org.:443",
            ".example.org:443",
            "exa mple.org:443",
            "user@example.org:443",
            "example.org/x:443",
            "bücher.example:443",
            "*.example.org:443",
            "-a.example:443",
            "%65xample.org:443",
            "2130706433:80",
            "0x7f000001:80",
            "0x7f.1:80",
            "0177.0.0.1:80",
            "127.1:80",
            "127.0.0.1.:80",
            "example.0x1:80",
            "2001:db8::1:443",
            "[fe80::1%eth0]:443",
            "[127.0.0.1]:80",
            "[::1:80",
            ":80",
            "",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        let range: IpRange = "10.1.0.0/16".parse().unwrap();
        assert!(range.contains("10.1.255.255".parse().unwrap()));
        assert!(!range.contains("10.2.0.0".parse().unwrap()));
        assert!(!range.contains("::ffff:10.1.0.1".parse().unwrap()));
        let all: IpRange = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("203.0.113.9".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let one: IpRange = "::1".parse().unwrap();
        assert!(one.contains("::1".parse().unwrap()));
        assert!(!one.contains("::2".parse().unwrap()));
        assert_eq!(one.to_string(), "::1/128");
        for text in [
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0/8",
            "::1/0",
            "a/8",
            "10.0.0.0/+8",
            "",
        ] {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_grant_survives_being_stored() {
        let grant = NetGrant {
            hosts: vec!["example.org:443".parse().unwrap()],
            allow_ranges: vec!["127.0.0.0/8".parse().unwrap()],
            extra_roots: vec!["-----BEGIN CERTIFICATE-----".into()],
        };
        let json = serde_json::to_string(&grant).unwrap();
        assert!(json.contains(r#""hosts":["example.org:443"],"allow_ranges":["127.0.0.0/8"]"#));
        assert_eq!(serde_json::from_str::<NetGrant>(&json).unwrap(), grant);
        assert!(serde_json::from_str::<NetGrant>(r#"{"hosts":["example.org"]}"#).is_err());
        assert!(serde_json::from_str::<NetGrant>("{}").unwrap().is_empty());
    }
}
