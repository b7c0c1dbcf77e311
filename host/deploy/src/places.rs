//! How many steps run at a time, over all projects.
//!
//! Places go to whoever has waited longest. A project runs one deployment, and a deployment one step at a time,
//! so each project waits for one place at most and the order of asking is a round through the projects: one that
//! deploys again and again does not keep another from its turn.
//!
//! A step whose package still arrives may wait for its sender for a long time. Such steps get half of the places
//! at most, so that slow uploads cannot take them all; the others begin once their package is durable.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Steps for each processor when the operator does not say: guests wait for disks and networks too.
const STEPS_PER_PROCESSOR: usize = 2;

/// The least default: a machine with one processor runs a few steps at a time all the same.
const MIN_STEPS: usize = 4;

/// The most places that make sense: what the sandbox has room for, with some left for those that are just ending.
const MAX_STEPS: usize = 120;

/// How often the process of a stuck step is looked for.
const STUCK_LOOK: Duration = Duration::from_secs(1);

/// The places of a host.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    /// How many of them may be taken by steps whose package still arrives.
    arriving: Arc<Semaphore>,
    count: usize,
}

/// A step's right to run.
#[derive(Debug)]
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _arriving: Option<OwnedSemaphorePermit>,
}

/// How many steps run at a time when nobody says.
#[must_use]
pub fn default_max_steps() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors * STEPS_PER_PROCESSOR).clamp(MIN_STEPS, MAX_STEPS)
}

impl Places {
    /// So many places, at least one and at most [`MAX_STEPS`].
    pub(crate) fn new(count: usize) -> Self {
        let count = count.clamp(1, MAX_STEPS);
        Self {
            all: Arc::new(Semaphore::new(count)),
            arriving: Arc::new(Semaphore::new(count / 2)),
            count,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// A place, if one is free and nobody has waited for it.
    pub(crate) fn try_take(&self, arriving: bool) -> Option<Place> {
        let arriving = match arriving {
            true => Some(self.arriving.clone().try_acquire_owned().ok()?),
            false => None,
        };
        let place = self.all.clone().try_acquire_owned().ok()?;
        Some(Place {
            _place: place,
            _arriving: arriving,
        })
    }

    /// Waits for a place. With `durable`, which resolves when the package is, the step counts as one whose
    /// package arrives until then.
    pub(crate) async fn take(&self, durable: Option<impl Future<Output = ()>>) -> Option<Place> {
        let arriving = match durable {
            None => None,
            Some(durable) => tokio::select! {
                permit = self.arriving.clone().acquire_owned() => Some(permit.ok()?),
                () = durable => None,
            },
        };
        let place = self.all.clone().acquire_owned().await.ok()?;
        Some(Place {
            _place: place,
            _arriving: arriving,
        })
    }
}

impl Place {
    /// Gives the place back once the process is gone: it was killed and does not die.
    pub(crate) fn keep_until_gone(self, pid: u32) {
        tokio::spawn(async move {
            while std::path::Path::new("/proc").join(pid.to_string()).exists() {
                tokio::time::sleep(STUCK_LOOK).await;
            }
            drop(self);
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::future::{Ready, pending, ready};

    use super::*;

    const DURABLE: Option<Ready<()>> = None;

    #[tokio::test]
    async fn no_more_steps_run_than_there_are_places() {
        let places = Places::new(2);
        let taken = (
            places.try_take(false).unwrap(),
            places.try_take(false).unwrap(),
        );
        assert!(places.try_take(false).is_none());
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.take(DURABLE).await.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(taken);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn a_project_that_asks_again_goes_behind_those_that_wait() {
        let places = Places::new(1);
        let first = places.try_take(false).unwrap();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for name in ["b", "c", "a again"] {
            let (places, sender) = (places.clone(), sender.clone());
            tokio::spawn(async move {
                let place = places.take(DURABLE).await.unwrap();
                sender.send(name).unwrap();
                drop(place);
            });
            tokio::task::yield_now().await;
        }
        drop(first);
        for expected in ["b", "c", "a again"] {
            assert_eq!(order.recv().await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn uploads_under_way_leave_half_of_the_places() {
        let places = Places::new(4);
        let slow = [
            places.try_take(true).unwrap(),
            places.try_take(true).unwrap(),
        ];
        assert!(places.try_take(true).is_none());
        let whole = places.try_take(false).unwrap();
        // One that waited for its package gets a place when that is durable.
        let durable = places.take(Some(ready(()))).await.unwrap();
        let never = places.take(Some(pending()));
        assert!(
            tokio::time::timeout(Duration::from_millis(20), never)
                .await
                .is_err()
        );
        drop((slow, whole, durable));
    }

    #[tokio::test]
    async fn a_single_place_is_not_for_uploads_under_way() {
        let places = Places::new(1);
        assert!(places.try_take(true).is_none());
        assert!(places.try_take(false).is_some());
    }
}
