//! Connections to upstreams: each takes one request at a time, and is kept for a moment for the next one to the same
//! host. They belong to one step and are gone with it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::super::body::Upload;
use super::super::failure::Failure;
use super::super::grant::{HostPort, IpRange};
use super::super::upstream::{self, Account, Lookup, Stream, Tls};

/// Bytes of an upstream's head: twice what common servers send.
const UPSTREAM_BUFFER: usize = 64 << 10;

/// Connections that a step keeps open without a request on them: a package manager talks to one or two hosts, several
/// times at once.
const MAX_IDLE: usize = 8;

/// How long such a connection is kept: a little less than common servers keep theirs.
const IDLE: Duration = Duration::from_secs(4);

/// Whom a connection is to, and whether it is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Peer {
    pub(in super::super) target: HostPort,
    pub(in super::super) tls: bool,
}

/// An open connection.
pub(in super::super) struct Open {
    pub(in super::super) sender: SendRequest<Upload>,
    pub(in super::super) account: Arc<Account>,
    _driving: Driving,
}

/// The task that drives a connection; it is gone when this is.
struct Driving(AbortHandle);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How names become addresses, and which of those may be connected to.
pub(super) struct Way<'a> {
    pub(super) lookup: Lookup,
    pub(super) ranges: &'a [IpRange],
    pub(super) tls: &'a Arc<Tls>,
}

/// Opens a connection within so much time.
pub(super) async fn open(
    peer: &Peer,
    way: &Way<'_>,
    account: Arc<Account>,
    limit: Duration,
) -> Result<Open, Failure> {
    let deadline = Instant::now() + limit;
    let target = &peer.target;
    let resolved = timeout_at(deadline, upstream::resolve(target, way.ranges, way.lookup));
    // A name server that does not answer is not a host that does not.
    let addresses = resolved.await.map_err(|_| Failure::DnsTimeout)??;
    let stream = timeout_at(deadline, connect(peer, way.tls, &addresses, &account));
    let stream = stream.await.map_err(|_| Failure::ConnectTimeout)??;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(UPSTREAM_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| account.failure().unwrap_or(Failure::Terminated))?;
    let driving = tokio::spawn(async move {
        // What goes wrong here goes wrong for the request or its response, which say so.
        let _ = connection.await;
    });
    Ok(Open {
        sender,
        account,
        _driving: Driving(driving.abort_handle()),
    })
}

async fn connect(
    peer: &Peer,
    tls: &Arc<Tls>,
    addresses: &[SocketAddr],
    account: &Arc<Account>,
) -> Result<Box<dyn Stream>, Failure> {
    let stream = upstream::connect(addresses, account).await?;
    Ok(if peer.tls {
        Box::new(tls.wrap(stream, &peer.target).await?)
    } else {
        Box::new(stream)
    })
}

/// The connections of a step that have no request on them, the one that was used last at the end.
pub(in super::super) struct Idle {
    most: usize,
    connections: Mutex<VecDeque<(Peer, Instant, Open)>>,
}

impl Idle {
    /// For a step that may have so many requests under way.
    pub(super) fn new(connections: u64) -> Self {
        Self {
            most: usize::try_from(connections).map_or(MAX_IDLE, |most| most.min(MAX_IDLE)),
            connections: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Peer, Instant, Open)>> {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connections.retain(|(_, since, open)| since.elapsed() < IDLE && !open.sender.is_closed());
        connections
    }

    /// A connection to this peer that is ready for a request, when there is one.
    pub(super) async fn take(&self, peer: &Peer) -> Option<Open> {
        loop {
            let mut open = {
                let mut connections = self.lock();
                let at = connections.iter().rposition(|(to, ..)| to == peer)?;
                connections.remove(at)?.2
            };
            // It is, or the upstream has closed it meanwhile.
            if open.sender.ready().await.is_ok() {
                open.account.begin();
                return Some(open);
            }
        }
    }

    /// Keeps a connection whose response has come to its end.
    pub(in super::super) fn keep(&self, peer: Peer, open: Open) {
        if open.sender.is_closed() || self.most == 0 {
            return;
        }
        let mut connections = self.lock();
        while connections.len() >= self.most {
            connections.pop_front();
        }
        connections.push_back((peer, Instant::now(), open));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::future::pending;
    use std::io;

    use super::*;
    use crate::limits::Limits;
    use crate::net::upstream::Purse;

    fn account() -> Arc<Account> {
        Arc::new(Account::new(
            Arc::new(Purse::new(&Limits::default())),
            |_, _| {},
        ))
    }

    async fn fails(lookup: Lookup) -> Failure {
        let peer = Peer {
            target: "example.org:443".parse().unwrap(),
            tls: true,
        };
        let way = Way {
            lookup,
            ranges: &[],
            tls: &Arc::new(Tls::new(&[]).unwrap()),
        };
        let limit = Duration::from_millis(20);
        let opened = open(&peer, &way, account(), limit).await;
        opened.map(drop).unwrap_err()
    }

    #[tokio::test]
    async fn a_name_that_is_not_resolved_in_time_is_no_host_that_does_not_answer() {
        assert_eq!(fails(|_, _| Box::pin(pending())).await, Failure::DnsTimeout);
        let unknown: Lookup = |_, _| Box::pin(async { Err(io::Error::other("no such name")) });
        assert_eq!(fails(unknown).await, Failure::Dns);
        let nowhere: Lookup = |_, _| Box::pin(async { Ok(Vec::new()) });
        assert_eq!(fails(nowhere).await, Failure::Dns);
        let home: Lookup =
            |_, port| Box::pin(async move { Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]) });
        assert_eq!(fails(home).await, Failure::Prohibited);
    }
}
