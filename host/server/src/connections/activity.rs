//! What a connection is doing: how many requests it has under way, since when it has none, and for how long its
//! peer has not taken what is ready for it.
//!
//! Idle connections are cheap and not free. When there are too many, the one that has been idle the longest is
//! closed: whoever opens thousands and says nothing only pushes out its own.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Counts of a listener's connections. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionFigures(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    accepted: AtomicU64,
    retired: AtomicU64,
}

impl ConnectionFigures {
    /// Connections that are open.
    pub(crate) fn open(&self) -> u64 {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Connections that were accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// Idle connections that were closed to make room.
    pub(crate) fn retired(&self) -> u64 {
        self.0.retired.load(Ordering::Relaxed)
    }
}

/// The idle connections of a listener.
#[derive(Debug)]
pub(super) struct IdleConnections {
    most: usize,
    waiting: Mutex<Waiting>,
    figures: ConnectionFigures,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By the order in which they became idle.
    by_age: BTreeMap<u64, CancellationToken>,
}

impl IdleConnections {
    /// A set of at most `most`.
    pub(super) fn new(most: usize, figures: ConnectionFigures) -> Arc<Self> {
        Arc::new(Self {
            most,
            waiting: Mutex::default(),
            figures,
        })
    }

    /// Adds a connection, and closes the oldest when there are too many.
    fn enter(&self, retire: CancellationToken) -> u64 {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let place = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(place, retire);
        if waiting.by_age.len() > self.most
            && let Some((_, oldest)) = waiting.by_age.pop_first()
        {
            self.figures.0.retired.fetch_add(1, Ordering::Relaxed);
            oldest.cancel();
        }
        place
    }

    fn leave(&self, place: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.by_age.remove(&place);
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Activity {
    idle: Arc<IdleConnections>,
    retire: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: u64,
    /// Its place among the idle ones.
    place: Option<u64>,
    /// When it became what it is, idle or busy.
    since: Instant,
    next: u64,
    /// Answers of which something is ready that the peer has not taken, and since when.
    untaken: BTreeMap<u64, Instant>,
}

impl Activity {
    /// A connection that was just accepted, and is idle.
    pub(super) fn begin(idle: &Arc<IdleConnections>) -> Arc<Self> {
        idle.figures.0.open.fetch_add(1, Ordering::Relaxed);
        idle.figures.0.accepted.fetch_add(1, Ordering::Relaxed);
        let retire = CancellationToken::new();
        let place = idle.enter(retire.clone());
        Arc::new(Self {
            idle: idle.clone(),
            retire,
            state: Mutex::new(State {
                requests: 0,
                place: Some(place),
                since: Instant::now(),
                next: 0,
                untaken: BTreeMap::new(),
            }),
        })
    }

    /// Waits until the connection has to make room.
    pub(super) async fn retired(&self) {
        self.retire.cancelled().await;
    }

    /// For how long the connection has had no request; nothing while it has one.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        let state = self.lock();
        (state.requests == 0).then(|| state.since.elapsed())
    }

    /// The longest time for which the peer has not taken what is ready for it.
    pub(super) fn untaken_for(&self) -> Duration {
        let state = self.lock();
        let longest = state.untaken.values().map(Instant::elapsed).max();
        longest.unwrap_or_default()
    }

    /// Marks the connection as busy until what is returned is dropped.
    pub(super) fn request(self: &Arc<Self>) -> UnderWay {
        let mut state = self.lock();
        state.requests += 1;
        state.since = Instant::now();
        let place = state.place.take();
        let number = state.next;
        state.next += 1;
        drop(state);
        if let Some(place) = place {
            self.idle.leave(place);
        }
        UnderWay {
            activity: self.clone(),
            number,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.idle.figures.0.open.fetch_sub(1, Ordering::Relaxed);
        let place = self.lock().place.take();
        if let Some(place) = place {
            self.idle.leave(place);
        }
    }
}

/// A request under way, until the last of its answer is handed over.
#[derive(Debug)]
pub(super) struct UnderWay {
    activity: Arc<Activity>,
    number: u64,
}

impl UnderWay {
    fn offered(&self) {
        let mut state = self.activity.lock();
        state.untaken.insert(self.number, Instant::now());
    }

    fn taken(&self) {
        self.activity.lock().untaken.remove(&self.number);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.untaken.remove(&self.number);
        state.requests -= 1;
        if state.requests == 0 {
            state.since = Instant::now();
            // A connection that closes is in the set for a moment, and leaves with its last handle.
            state.place = Some(self.activity.idle.enter(self.activity.retire.clone()));
        }
    }
}

/// The body of an answer, which tells whether it waits for us or for the peer: asked for more, it waits for us;
/// having given something and not being asked again, for the peer.
pub(super) struct Tracked<B> {
    body: B,
    under_way: UnderWay,
}

impl<B> Tracked<B> {
    pub(super) fn new(body: B, under_way: UnderWay) -> Self {
        under_way.offered();
        Self { body, under_way }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => self.under_way.taken(),
            Poll::Ready(_) => self.under_way.offered(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_was_idle_the_longest_makes_room() {
        let figures = ConnectionFigures::default();
        let idle = IdleConnections::new(2, figures.clone());
        let (first, second) = (Activity::begin(&idle), Activity::begin(&idle));
        // Busy ones do not count, and come back as the youngest.
        let busy = first.request();
        let third = Activity::begin(&idle);
        assert!(!second.retire.is_cancelled());
        drop(busy);
        assert!(second.retire.is_cancelled());
        assert!(!first.retire.is_cancelled() && !third.retire.is_cancelled());
        assert_eq!((figures.open(), figures.retired()), (3, 1));
        drop((first, second, third));
        assert_eq!(figures.open(), 0);
        assert!(
            idle.waiting
                .lock()
                .is_ok_and(|waiting| waiting.by_age.is_empty())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_the_peer_is_told_from_what_waits_for_us() {
        let idle = IdleConnections::new(2, ConnectionFigures::default());
        let activity = Activity::begin(&idle);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(activity.idle_for(), Some(Duration::from_secs(5)));
        let request = activity.request();
        assert_eq!(activity.idle_for(), None);
        request.offered();
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(activity.untaken_for(), Duration::from_secs(7));
        request.taken();
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(activity.untaken_for(), Duration::ZERO);
        drop(request);
        assert_eq!(activity.idle_for(), Some(Duration::ZERO));
    }
}
