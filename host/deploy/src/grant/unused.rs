//! What was granted and not used, so that an author can ask for less.

use cofferdam_sandbox::{Limits, Receipt};

use super::Grant;

/// What a step was granted beyond what every step has, and did not use. `cache_used` is whether there is,
/// or was, anything in its cache.
pub(crate) fn unused(grant: &Grant, receipt: &Receipt, cache_used: bool) -> Vec<String> {
    let mut unused = Vec::new();
    for host in &grant.net.hosts {
        let host = host.to_string();
        if receipt
            .hosts
            .get(&host)
            .is_none_or(|usage| usage.requests == 0)
        {
            unused.push(format!("net {host}"));
        }
    }
    for secret in &grant.secrets {
        if !receipt.secrets_read.contains(secret) {
            unused.push(format!("secret {secret}"));
        }
    }
    if grant.cache && !cache_used {
        unused.push("cache".to_owned());
    }
    let (requests, sent, received) = receipt.hosts.values().fold((0, 0, 0), |sums, host| {
        (
            sums.0 + host.requests,
            sums.1 + host.bytes_out,
            sums.2 + host.bytes_in,
        )
    });
    let default = Limits::default();
    let granted = &grant.limits;
    // A line's length and the connections at a time are in no receipt.
    for (name, granted, default, used) in [
        (
            "memory_bytes",
            granted.memory_bytes,
            default.memory_bytes,
            receipt.peak_memory_bytes,
        ),
        ("wall_ms", granted.wall_ms, default.wall_ms, receipt.wall_ms),
        ("cpu_ms", granted.cpu_ms, default.cpu_ms, receipt.cpu_ms),
        (
            "disk_bytes",
            granted.disk_bytes,
            default.disk_bytes,
            receipt.bytes_written,
        ),
        ("files", granted.files, default.files, receipt.files_created),
        (
            "handles",
            granted.handles,
            default.handles,
            receipt.peak_handles,
        ),
        (
            "output_bytes",
            granted.output_bytes,
            default.output_bytes,
            receipt.output_bytes,
        ),
        ("requests", granted.requests, default.requests, requests),
        (
            "egress_bytes",
            granted.egress_bytes,
            default.egress_bytes,
            sent,
        ),
        (
            "ingress_bytes",
            granted.ingress_bytes,
            default.ingress_bytes,
            received,
        ),
    ] {
        if granted > default && used <= default {
            unused.push(format!("limits.{name}"));
        }
    }
    unused
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::collections::BTreeMap;

    use cofferdam_sandbox::{HostUsage, NetGrant};

    use super::*;

    #[test]
    fn what_was_granted_and_never_used_is_listed_and_nothing_else() {
        let mut grant = Grant {
            env: BTreeMap::new(),
            limits: Limits::default(),
            secrets: vec!["KEY".to_owned(), "SPARE".to_owned()],
            net: NetGrant {
                hosts: vec![
                    "a.example.org:443".parse().unwrap(),
                    "b.example.org:443".parse().unwrap(),
                ],
                ..NetGrant::default()
            },
            cache: true,
            cache_bytes: 0,
            state_bytes: None,
        };
        grant.limits.memory_bytes *= 2;
        grant.limits.disk_bytes *= 2;
        grant.limits.files /= 2;
        let mut receipt = Receipt {
            bytes_written: Limits::default().disk_bytes + 1,
            secrets_read: vec!["KEY".to_owned()],
            ..Receipt::default()
        };
        let usage = HostUsage {
            requests: 1,
            ..HostUsage::default()
        };
        receipt.hosts.insert("a.example.org:443".to_owned(), usage);
        let listed = unused(&grant, &receipt, false);
        assert_eq!(
            listed,
            [
                "net b.example.org:443",
                "secret SPARE",
                "cache",
                "limits.memory_bytes"
            ]
        );
        assert!(!unused(&grant, &receipt, true).contains(&"cache".to_owned()));
    }
}
