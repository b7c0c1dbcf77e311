//! What the requests to a service used of what it was granted, all of them together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::outcome::HostUsage;

/// Names of hosts that are told apart; a guest may ask for any number of them.
const NAMES: usize = 64;

/// Where what is beyond [`NAMES`] is counted.
const OTHERS: &str = "(others)";

/// What the requests to a service used since it was started, so that its author can ask for less.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ServiceUsage {
    /// The secrets that it read, by name. One that it was granted and did not ask for is not among them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets_read: BTreeSet<String>,
    /// What it sent to the network and got from there, by `host:port`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, HostUsage>,
}

/// The sum over all requests.
#[derive(Debug, Default)]
pub(super) struct Total(Mutex<ServiceUsage>);

impl Total {
    fn lock(&self) -> MutexGuard<'_, ServiceUsage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> ServiceUsage {
        self.lock().clone()
    }

    /// Adds what one request used.
    pub(super) fn add(&self, secrets_read: Vec<String>, hosts: BTreeMap<String, HostUsage>) {
        if secrets_read.is_empty() && hosts.is_empty() {
            return;
        }
        let mut total = self.lock();
        total.secrets_read.extend(secrets_read);
        for (host, used) in hosts {
            let known = total.hosts.contains_key(&host) || total.hosts.len() < NAMES;
            let host = if known { host } else { OTHERS.to_owned() };
            let sum = total.hosts.entry(host).or_default();
            sum.requests += used.requests;
            sum.denied += used.denied;
            sum.bytes_out += used.bytes_out;
            sum.bytes_in += used.bytes_in;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_and_names_beyond_the_bound_are_counted_together() {
        let total = Total::default();
        let one = HostUsage {
            requests: 1,
            bytes_in: 5,
            ..HostUsage::default()
        };
        for _ in 0..2 {
            total.add(
                vec!["KEY".to_owned()],
                [("a:1".to_owned(), one)].into_iter().collect(),
            );
        }
        total.add(
            Vec::new(),
            (0..100).map(|at| (format!("b{at}:1"), one)).collect(),
        );
        let usage = total.get();
        assert_eq!(usage.secrets_read.len(), 1);
        assert_eq!(
            (usage.hosts["a:1"].requests, usage.hosts["a:1"].bytes_in),
            (2, 10)
        );
        assert_eq!(usage.hosts.len(), NAMES + 1);
        let all: u64 = usage.hosts.values().map(|host| host.requests).sum();
        assert_eq!(all, 102);
    }
}
