//! Which addresses a guest may be connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::grant::IpRange;

/// Whether a guest may be connected to `address`: it is public, or the operator allowed it. An address that stands
/// for one of IPv4 must be allowed itself, and so must the one it stands for.
pub(super) fn allowed(address: IpAddr, ranges: &[IpRange]) -> bool {
    let named = ranges.iter().any(|range| range.contains(address));
    match address {
        IpAddr::V4(address) => named || public_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => named && allowed(IpAddr::V4(inner), ranges),
            None => named || public_v6(address),
        },
    }
}

/// The blocks of IPv4 that are not public, from IANA's registry of special-purpose addresses.
const SPECIAL_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this network, unspecified
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // behind a carrier's NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // a cloud's metadata, on a public address
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local, and the metadata of most clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments, and a cloud's metadata
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // relays of 6to4
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, broadcast
];

fn public_v4(address: Ipv4Addr) -> bool {
    SPECIAL_V4
        .iter()
        .all(|(start, prefix)| (address.to_bits() ^ start.to_bits()) >> (32 - prefix) != 0)
}

/// Public is what is global unicast; the rest (loopback, link-local, site-local, unique local, multicast,
/// unspecified) lies outside of it, but for a few blocks.
fn public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    a & 0xe000 == 0x2000
        // Protocol assignments: Teredo, benchmarks, ORCHID.
        && !(a == 0x2001 && b < 0x200)
        // Documentation.
        && !(a == 0x2001 && b == 0xdb8)
        && !(a == 0x3fff && b < 0x1000)
        // 6to4.
        && a != 0x2002
}

/// The address of IPv4 that this one stands for: mapped, compatible, NAT64, 6to4, Teredo.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let at = |index: usize| {
        Ipv4Addr::from_bits(u32::from(segments[index]) << 16 | u32::from(segments[index + 1]))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Some(at(6)),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Some(at(6)),
        [0x2002, ..] => Some(at(1)),
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!at(6).to_bits())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn judge(address: &str, ranges: &[&str]) -> bool {
        let ranges: Vec<IpRange> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        allowed(address.parse().unwrap(), &ranges)
    }

    #[test]
    fn public_addresses_are_allowed() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2001:200::1",
            "2a00::1",
            "3ffe::1",
        ] {
            assert!(judge(address, &[]), "{address}");
        }
    }

    #[test]
    fn what_is_not_public_is_refused_in_every_notation() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            "2001:2::1",
            "2001:20::1",
            "3fff::1",
            "5f00::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "::8.8.8.8",
            "64:ff9b::127.0.0.1",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::10.0.0.1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "2001:0:808:808::1",
        ] {
            assert!(!judge(address, &[]), "{address}");
        }
    }

    #[test]
    fn an_operator_allows_exactly_a_range() {
        assert!(judge("127.0.0.1", &["127.0.0.0/8"]));
        assert!(!judge("10.0.0.1", &["127.0.0.0/8"]));
        assert!(!judge("::1", &["127.0.0.0/8"]));
        assert!(!judge("::ffff:127.0.0.1", &["127.0.0.0/8"]));
        // The form is allowed and what it stands for is not, and both.
        assert!(!judge("64:ff9b::10.0.0.1", &["64:ff9b::/96"]));
        assert!(judge("64:ff9b::8.8.8.8", &["64:ff9b::/96"]));
        assert!(judge("64:ff9b::10.0.0.1", &["64:ff9b::/96", "10.0.0.0/8"]));
        assert!(judge("fd00::1", &["fd00::/8"]));
    }
}
